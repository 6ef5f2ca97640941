"""A lean runner and its reference over a tiny random model."""

import random
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from transformers import PreTrainedModel

from model_core.encoder import Encoder
from model_core.families import find_family
from model_core.generation import GenerationParameters
from model_core.lean import LeanRunner
from tests import tiny


@dataclass(frozen=True)
class Lean:
    """A tiny model and what decoding it needs to know."""

    model: PreTrainedModel
    defaults: GenerationParameters
    vocab: int

    def runner(self, *, encoder_cache_bytes: int = 0) -> LeanRunner:
        family = find_family(self.model)
        assert family is not None, "a named architecture has lost its lean decoder"
        with torch.no_grad():
            decoder = family[1](self.model)
        encoder = Encoder(self.model, self.defaults.pad_token_id)
        return LeanRunner(encoder, decoder, encoder_cache_bytes=encoder_cache_bytes)


@cache
def load_lean(name: str) -> Lean:
    model: Any = tiny.LEAN_ARCHITECTURES[name]()
    config = model.generation_config
    defaults = GenerationParameters(
        decoder_start_token_id=config.decoder_start_token_id,
        pad_token_id=config.pad_token_id,
        eos_token_ids=(config.eos_token_id,),
        max_length=tiny.MAX_LENGTH,
    )
    return Lean(model, defaults, model.config.get_text_config(decoder=True).vocab_size)


def random_parameters(lean: Lean, rng: random.Random) -> GenerationParameters:
    """Any mixture of all parameters that `generate()` accepts."""
    eos = lean.defaults.eos_token_ids
    others = [token for token in range(lean.vocab) if token not in eos]

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.sample(others, count))

    num_beams = rng.choice([1, 1, 2, 3, 4])
    forced_bos = rng.choice([None, None, rng.choice(others)])
    suppressed = rng.choice([(), tokens(5)])
    max_length = rng.choice([2, 8, 20, 40, 80])
    return replace(
        lean.defaults,
        eos_token_ids=rng.choice([eos, eos, eos + tokens(1), eos + tokens(2), ()]),
        max_length=max_length,
        min_length=min(rng.choice([0, 0, 5, 12]), max_length),
        num_beams=num_beams,
        num_return_sequences=1 if num_beams == 1 else rng.randint(1, num_beams),
        length_penalty=rng.choice([0.0, 0.6, 1.0, 2.0, -1.0]),
        early_stopping=rng.choice([True, False, "never"]),
        no_repeat_ngram_size=rng.choice([0, 0, 1, 2, 3]),
        repetition_penalty=rng.choice([1.0, 1.0, 1.3, 0.8]),
        forced_bos_token_id=forced_bos,
        forced_eos_token_ids=rng.choice([(), eos]),
        suppress_tokens=tuple(token for token in suppressed if token != forced_bos),
        bad_words_ids=rng.choice([(), (tokens(1), tokens(2), tokens(3), eos)]),
        renormalize_logits=rng.choice([False, True]),
    )


def random_source(lean: Lean, rng: random.Random, longest: int = 50) -> tuple[int, ...]:
    pad = lean.defaults.pad_token_id
    choices = [token for token in range(tiny.VOCAB) if token != pad]
    return tuple(rng.choices(choices, k=rng.randint(2, longest)))
