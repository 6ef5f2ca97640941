"""A runner and its reference over a tiny random model."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import PreTrainedModel

from model_core.batching import may_pad
from model_core.encoder import Encoder
from model_core.families import find_family
from model_core.generation import (
    GenerationDefaults,
    GenerationLimits,
    GenerationOverrides,
    GenerationParameters,
)
from model_core.lean import LeanRunner
from model_core.resolve import resolve
from model_core.stopping import StopStrings
from tests import tiny
from tests.tiny.tokenizers import TOKENIZERS


@dataclass(frozen=True)
class Lean:
    """A tiny model and what decoding it needs to know."""

    name: str
    model: PreTrainedModel
    defaults: GenerationParameters
    vocab: int

    def runner(self, *, encoder_cache_bytes: int = 0, int8: bool = False) -> LeanRunner:
        family = find_family(self.model)
        assert family is not None, "a named architecture has lost its lean decoder"
        with torch.no_grad():
            decoder = family[1](self.model)
            if int8:
                decoder = decoder.packed(int8=True)
        encoder = Encoder(
            self.model,
            self.defaults.pad_token_id,
            may_pad=may_pad(self.model),
            packing="int8" if int8 else "float",
        )
        return LeanRunner(
            encoder,
            decoder,
            encoder_cache_bytes=encoder_cache_bytes,
            stop_strings=stop_strings_of(self.name),
        )


@cache
def stop_strings_of(name: str) -> StopStrings:
    """What the tokens of an architecture spell."""
    with TemporaryDirectory() as scratch:
        return StopStrings(TOKENIZERS[name](Path(scratch)))


@cache
def load_lean(name: str) -> Lean:
    model: Any = tiny.TINY_ARCHITECTURES[name]()
    config = model.generation_config
    defaults = GenerationParameters(
        decoder_start_token_id=config.decoder_start_token_id,
        pad_token_id=config.pad_token_id,
        eos_token_ids=(config.eos_token_id,),
        max_length=tiny.MAX_LENGTH,
    )
    return Lean(name, model, defaults, model.config.get_text_config(decoder=True).vocab_size)


@cache
def parameter_choices(name: str) -> dict[str, list[Any]]:
    """Values worth trying of every parameter that needs no tokenizer, neutral ones first."""
    lean, rng = load_lean(name), random.Random(name)
    eos = lean.defaults.eos_token_ids
    others = [token for token in range(lean.vocab) if token not in eos]

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.sample(others, count))

    return {
        "eos_token_id": [eos, eos + tokens(1), eos + tokens(2), ()],
        "max_length": [20, 2, 8, 14, 40],
        "min_length": [0, 5, 12],
        "num_beams": [1, 2, 3, 4],
        "num_return_sequences": [1, 2, 4],
        "length_penalty": [1.0, 0.0, 0.6, 2.0, -1.0],
        "early_stopping": [False, True, "never"],
        "no_repeat_ngram_size": [0, 1, 2, 3],
        "encoder_no_repeat_ngram_size": [0, 1, 3],
        "repetition_penalty": [1.0, 1.3, 0.8],
        "encoder_repetition_penalty": [1.0, 1.5, 0.7],
        "exponential_decay_length_penalty": [None, (3, 1.05), (6, 0.9)],
        "forced_bos_token_id": [None, *tokens(2)],
        "forced_eos_token_id": [(), eos, tokens(2)],
        "suppress_tokens": [(), tokens(5), tokens(30)],
        "begin_suppress_tokens": [(), tokens(5), tokens(60)],
        "bad_words_ids": [(), (tokens(1), tokens(2), tokens(3), eos)],
        "sequence_bias": [(), ((tokens(1), 4.0), (tokens(2), 6.0), (tokens(3), -3.0))],
        "target_prefix_ids": [(), tokens(1), tokens(3)],
        "decoder_start_token_id": [None, *tokens(1)],
        "renormalize_logits": [False, True],
        "remove_invalid_values": [False, True],
        "do_sample": [False, True],
        "temperature": [1.0, 0.5, 1.7],
        "top_k": [0, 3, 20],
        "top_p": [1.0, 0.9, 0.4],
        "min_p": [None, 0.1],
        "top_h": [None, 0.5],
        "typical_p": [1.0, 0.6],
        "epsilon_cutoff": [0.0, 0.01],
        "eta_cutoff": [0.0, 0.02],
        "seed": [0, 1, 2],
    }


def parameters_of(lean: Lean, named: Mapping[str, Any]) -> GenerationParameters:
    """Parameters of a request that names these values, made consistent with each other."""
    named = {"max_length": 20, "seed": 0, **named}
    prompt_len = 1 + len(named.get("target_prefix_ids", ()))
    named["max_length"] = max(named["max_length"], prompt_len + 1)
    named["min_length"] = min(named.get("min_length", 0), named["max_length"])
    if not named.get("do_sample") or named.get("num_beams", 1) > 1:
        most = named.get("num_beams", 1)
        named["num_return_sequences"] = min(named.get("num_return_sequences", 1), most)
    forced = {named.get("forced_bos_token_id"), *named.get("forced_eos_token_id", ())}
    for name in ("suppress_tokens", "begin_suppress_tokens"):
        named[name] = tuple(token for token in named.get(name, ()) if token not in forced)
    if not named.get("eos_token_id", True) or named.get("remove_invalid_values"):
        named.pop("exponential_decay_length_penalty", None)
    defaults = GenerationDefaults(
        values=GenerationOverrides(eos_token_id=lean.defaults.eos_token_ids),
        decoder_start_token_id=lean.defaults.decoder_start_token_id,
        pad_token_id=lean.defaults.pad_token_id,
        vocab_size=lean.vocab,
        max_target_len=None,
    )
    return resolve(defaults, GenerationOverrides(**named), limits=GenerationLimits())


def random_parameters(lean: Lean, rng: random.Random) -> GenerationParameters:
    """Any mixture of all parameters that `generate()` accepts; a third of them not neutral."""
    choices = parameter_choices(lean.name)
    named = {name: rng.choice(choices[name]) for name in choices if rng.random() < 0.5}
    return parameters_of(lean, named)


def random_source(lean: Lean, rng: random.Random, longest: int = 50) -> tuple[int, ...]:
    pad = lean.defaults.pad_token_id
    choices = [token for token in range(tiny.VOCAB) if token != pad]
    return tuple(rng.choices(choices, k=rng.randint(2, longest)))
