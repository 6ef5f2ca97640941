"""Does the lean decoder give the logits of the library's own forward? Asked of every checkpoint.

A checkpoint that fails is served through `generate()` instead: it never answers wrongly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from model_core.cache import STEPS_OF_GROWTH
from model_core.decoder import Decoder
from model_core.encoder import Encoder
from model_core.generation import GenerationParameters
from model_core.group import Group
from model_core.key_values import KeyValuesPool
from model_core.request import Request
from model_core.search import Choice, Ended, Hypotheses, Search
from model_core.slot_cost import Capacity

NUM_STEPS = 10
_SOURCE_LENS = (3, 11, 6)
NUM_SOURCES, LONGEST_SOURCE = len(_SOURCE_LENS), max(_SOURCE_LENS)
_NUM_BEAMS = 2
_SEED = 20

TOLERANCES: dict[torch.dtype, float] = {
    torch.float64: 1e-7,  # as far as logits are compared in float32
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
    torch.int8: 0.25,
}
"""Largest difference of a logit that passes, relative to the largest logit of the reference."""


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """What the check found.

    Attributes:
        difference: Largest difference of a logit, relative to the largest logit.
        tolerance: What would still have passed.
    """

    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the lean decoder may serve the checkpoint."""
        return self.difference <= self.tolerance


class _RandomSearch(Search):
    """Chooses tokens and parents at random: reaches states that a likely search would not."""

    def __init__(self, device: torch.device, token_ids: Sequence[int], seed: int) -> None:
        super().__init__(len(_SOURCE_LENS), _NUM_BEAMS, device)
        self._choices = torch.tensor(token_ids)
        self._generator = torch.Generator().manual_seed(seed)

    def _choose(self, logits: Tensor) -> Choice:
        """See `Search`; `logits` are ignored."""
        shape = (self.num_slots, _NUM_BEAMS)
        parents = torch.randint(_NUM_BEAMS, shape, generator=self._generator).to(self._device)
        drawn = torch.randint(len(self._choices), shape, generator=self._generator)
        index = parents[:, :, None].expand(-1, -1, self._token_ids.shape[2])
        self._token_ids[: self.num_slots] = self._token_ids[: self.num_slots].gather(1, index)
        self._append(self._choices[drawn].to(self._device))
        nobody = torch.zeros(self.num_slots, dtype=torch.bool, device=self._device)
        return Choice(parents, done=nobody, failed=nobody)

    def fits(self, parameters: GenerationParameters) -> bool:
        """Never asked for."""
        raise NotImplementedError

    def targets(self) -> list[Tensor]:
        """Target tokens of every slot, [num_beams, target_len] each."""
        return [self._token_ids[slot, :, :length] for slot, length in enumerate(self._host_lengths)]

    @property
    def results(self) -> tuple[Tensor, ...]:
        """None: nothing ever ends."""
        return ()

    def read(self, results: Sequence[Tensor], ended: Sequence[Ended]) -> list[Hypotheses]:
        """Never asked for."""
        raise NotImplementedError

    def _start(self, rows: slice) -> None:
        """Nothing of its own."""

    def _state(self) -> list[Tensor]:
        return [self._token_ids]


class CheckedSteps(Protocol):
    """Slots whose steps are looked at one after the other."""

    def admit(self, request: Request, encoder_outputs: Tensor) -> None:
        """Give a request the next slot; its source is encoded, [source_len, hidden]."""

    def logits(self) -> Tensor:
        """Run a step for every slot in use: [num_rows, vocab]."""

    def choose(self, logits: Tensor) -> None:
        """Let the search choose the next tokens, and keep its choice."""


class GroupSteps:
    """See `CheckedSteps`: of one group."""

    def __init__(self, decoder: Decoder, search: Search) -> None:
        self._decoder = decoder
        self._group = Group(
            KeyValuesPool(decoder.cache_layout),
            search,
            max_slots=NUM_SOURCES,
            capacity=Capacity.of(LONGEST_SOURCE, STEPS_OF_GROWTH),
            position_biases=decoder.position_biases,
        )

    def admit(self, request: Request, encoder_outputs: Tensor) -> None:
        """See `CheckedSteps`."""
        slot = self._group.admit(request)
        for layer, projected in enumerate(self._decoder.project_sources(encoder_outputs)):
            self._group.write_source(slot, layer, *projected)

    def logits(self) -> Tensor:
        """See `CheckedSteps`."""
        last, positions = self._group.begin_step()
        return self._decoder.step(last, positions, [self._group])

    def choose(self, logits: Tensor) -> None:
        """See `CheckedSteps`."""
        self._group.choose(logits)


@torch.inference_mode()
def check_decoder(
    model: PreTrainedModel,
    decoder: Decoder,
    encoder: Encoder,
    *,
    vocab_size: int,
    pad_token_id: int,
    decoder_start_token_id: int,
    steps_of: Callable[[Decoder, Search], CheckedSteps] = GroupSteps,
) -> SelfCheck:
    """Compare the lean decoder with the library's forward on random sources and targets.

    Three sources of unequal length, admitted at different steps, two hypotheses each, random
    tokens, pad tokens among them, and a random change of parents after every step.
    """
    sources = _random_sources([ids for ids in range(encoder.vocab_size) if ids != pad_token_id])
    search = _RandomSearch(decoder.cache_layout.device, range(vocab_size), _SEED)
    checked = steps_of(decoder, search)
    parameters = GenerationParameters(
        decoder_start_token_id=decoder_start_token_id,
        pad_token_id=pad_token_id,
        eos_token_ids=(),
        max_length=NUM_STEPS + 1,
        num_beams=_NUM_BEAMS,
    )
    reference = _Reference(model, encoder, sources)
    differences, scales = [], []
    for step in range(NUM_STEPS):
        if step < len(sources):
            request = Request(str(step), sources[step], parameters)
            checked.admit(request, encoder([sources[step]])[0])
        logits = checked.logits().float()
        expected = reference.logits(search.targets())
        differences.append((logits - expected).abs().max())
        scales.append(expected.abs().max())
        checked.choose(logits)
    # Tensor maxima pass NaN on, and NaN is not below any tolerance.
    difference = float(torch.stack(differences).max() / torch.stack(scales).max())
    dtype = torch.int8 if encoder.packing == "int8" else decoder.cache_layout.dtype
    return SelfCheck(difference, TOLERANCES[dtype])


@torch.inference_mode()
def is_padding_harmless(encoder: Encoder, pad_token_id: int) -> bool:
    """Whether an encoder gives random sources the same outputs alone and in a padded batch.

    A property of the library's modules: as int8, the last digit of a float can become a whole step.
    """
    encoder = encoder.packed("none")
    sources = _random_sources([ids for ids in range(encoder.vocab_size) if ids != pad_token_id])
    alone = [encoder([source])[0] for source in sources]
    pairs = list(zip(encoder(sources), alone, strict=True))
    difference = torch.stack([(batched - single).abs().max() for batched, single in pairs]).max()
    scale = torch.stack([single.abs().max() for single in alone]).max()
    return bool(difference <= TOLERANCES[scale.dtype] * scale)


def _random_sources(token_ids: Sequence[int]) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(_SEED)
    return [
        tuple(token_ids[i] for i in torch.randint(len(token_ids), (length,), generator=generator))
        for length in _SOURCE_LENS
    ]


class _Reference:
    """Logits by the library's own forward, all sources in one batch.

    Targets go through it as in `generate()`, token by token with its cache: where positions depend
    on pad tokens (RoBERTa, M2M100), a forward over a whole target gives other logits.
    """

    def __init__(
        self, model: PreTrainedModel, encoder: Encoder, sources: Sequence[tuple[int, ...]]
    ) -> None:
        self._model: Any = model
        encoder = encoder.packed("none")
        # Each alone: not every encoder may see padding.
        encoded = [encoder.hidden_states([ids])[0] for ids in sources]
        masks = [torch.ones(len(ids), dtype=torch.long, device=model.device) for ids in sources]
        self._encoded = pad_sequence(encoded, batch_first=True)
        self._mask = pad_sequence(masks, batch_first=True)

    def logits(self, targets: Sequence[Tensor]) -> Tensor:
        """Logits after each target; [num_beams, target_len] each -> [rows, vocab], float32."""
        rows = [row for target in targets for row in target]
        padded = pad_sequence(rows, batch_first=True)
        sources = torch.arange(len(targets)).repeat_interleave(_NUM_BEAMS).to(self._mask.device)
        encoded = BaseModelOutput(last_hidden_state=self._encoded[sources])
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        steps = [
            self._model(
                encoder_outputs=encoded,
                attention_mask=self._mask[sources],
                decoder_input_ids=token_ids[:, None],
                past_key_values=cache,
                use_cache=True,
            ).logits[:, 0]
            for token_ids in padded.T
        ]
        last = torch.tensor([len(row) - 1 for row in rows])
        return torch.stack(steps)[last, torch.arange(len(rows))].float()
