"""Logits processors, vectorised over the requests of a group with parameters of their own.

Each is built from the parameters of all slots, and is left out where no slot wants it. None
copies the scores of whole vocabularies if it can be helped. Order and meaning are those of
transformers' `generate()` (`_get_logits_processor` and `generation/logits_process.py`): with one
request alone each does what its namesake there does.

What few requests ask for is not vectorised: `OwnProcessors` runs the library's own processors
over the rows of one request at a time.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, Self

import torch
from torch import Tensor
from transformers import LogitsProcessor as LibraryProcessor

from model_core.generation import GenerationParameters
from model_core.own_processors import OwnProcessors


@dataclass(frozen=True, slots=True)
class History:
    """The target tokens so far.

    Attributes:
        token_ids: [num_slots, num_beams, longest], decoder start token first.
        lengths: [num_slots], on the CPU: valid tokens of each slot, the rest is padding.
    """

    token_ids: Tensor
    lengths: Tensor


class LogitsProcessor(Protocol):
    """Changes the scores of the next token."""

    def __call__(self, scores: Tensor, history: History) -> Tensor:
        """Change `scores`, [num_slots, num_beams, vocab]: in place, or give others instead."""


@dataclass(frozen=True, slots=True)
class RepetitionPenalty:
    """Divides positive and multiplies negative scores of tokens seen before.

    Attributes:
        penalties: [num_slots, 1, 1], 1 where there is none.
    """

    penalties: Tensor

    @classmethod
    def build(cls, parameters: Sequence[GenerationParameters], device: torch.device) -> Self | None:
        """None if no slot has a penalty."""
        penalties = [p.repetition_penalty for p in parameters]
        if all(penalty == 1.0 for penalty in penalties):
            return None
        return cls(torch.tensor(penalties, device=device)[:, None, None])

    def __call__(self, scores: Tensor, history: History) -> Tensor:
        """See `LogitsProcessor`."""
        seen = history.token_ids
        valid = torch.arange(seen.shape[2]) < history.lengths[:, None]
        # Padding repeats the start token, which every hypothesis has seen.
        seen = torch.where(valid[:, None].to(seen.device), seen, seen[..., :1])
        old = scores.gather(2, seen)
        new = torch.where(old < 0, old * self.penalties, old / self.penalties)
        return scores.scatter_(2, seen, new)


@dataclass(frozen=True, slots=True)
class NoRepeatNGram:
    """Bans tokens that would complete an n-gram seen before; one instance per n.

    Attributes:
        size: n.
        wanted: [num_slots, 1, 1], whether a slot asks for it.
    """

    size: int
    wanted: Tensor

    @classmethod
    def build_all(
        cls, parameters: Sequence[GenerationParameters], device: torch.device
    ) -> list[Self]:
        """One for each n-gram size that a slot asks for."""
        sizes = torch.tensor([p.no_repeat_ngram_size for p in parameters], device=device)
        asked = sorted({p.no_repeat_ngram_size for p in parameters} - {0})
        return [cls(size, (sizes == size)[:, None, None]) for size in asked]

    def __call__(self, scores: Tensor, history: History) -> Tensor:
        """See `LogitsProcessor`."""
        tokens = history.token_ids
        if tokens.shape[2] < self.size:
            return scores
        last, repeats = repeated_ngrams(tokens, history.lengths.to(tokens.device), self.size)
        limit = torch.where(repeats & self.wanted, -torch.inf, torch.inf)
        # A token may stand in several windows: the minimum lets any ban win.
        return scores.scatter_reduce_(2, last, limit, "amin")


@dataclass(frozen=True, slots=True)
class BannedTokens:
    """Never these tokens: `suppress_tokens`, and `bad_words_ids` of one token."""

    slots: Tensor
    token_ids: Tensor

    @classmethod
    def build(cls, banned: Sequence[tuple[int, ...]], device: torch.device) -> Self | None:
        """`banned[slot]` lists tokens."""
        if not any(banned):
            return None
        counts = torch.tensor([len(tokens) for tokens in banned])
        slots = torch.arange(len(banned)).repeat_interleave(counts)
        token_ids = torch.cat([_as_tensor(tokens) for tokens in banned])
        return cls(slots.to(device), token_ids.to(device))

    def __call__(self, scores: Tensor, history: History) -> Tensor:
        """See `LogitsProcessor`."""
        scores[self.slots, :, self.token_ids] = -torch.inf
        return scores


@dataclass(frozen=True, slots=True)
class BadWords:
    """Bans the last token of a word of several tokens where the others stand before it."""

    slots: Tensor
    prefixes: Tensor
    """[num_words, prefix_len]"""
    last: Tensor

    @classmethod
    def build_all(
        cls, parameters: Sequence[GenerationParameters], device: torch.device
    ) -> list[Self]:
        """One for each word length that a slot asks for."""
        by_length: dict[int, list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
        for slot, wanted in enumerate(parameters):
            for word in wanted.bad_words_ids:
                if len(word) > 1:
                    by_length[len(word)].append((slot, word))
        built = []
        for words in by_length.values():
            slots = torch.tensor([slot for slot, _ in words], device=device)
            token_ids = torch.tensor([word for _, word in words], device=device)
            built.append(cls(slots, token_ids[:, :-1], token_ids[:, -1]))
        return built

    def __call__(self, scores: Tensor, history: History) -> Tensor:
        """See `LogitsProcessor`."""
        prefix_len = self.prefixes.shape[1]
        lengths = history.lengths.to(scores.device)[self.slots]
        positions = lengths[:, None] - prefix_len + torch.arange(prefix_len, device=scores.device)
        tokens = history.token_ids[self.slots]
        index = positions.clamp(min=0)[:, None].expand(-1, tokens.shape[1], -1)
        matches = (tokens.gather(2, index) == self.prefixes[:, None]).all(-1)
        matches &= (lengths >= prefix_len)[:, None]
        num_beams, vocab = scores.shape[1:]
        rows = self.slots[:, None] * num_beams + torch.arange(num_beams, device=scores.device)
        flat = rows * vocab + self.last[:, None]
        limit = torch.where(matches, -torch.inf, torch.inf)
        scores.view(-1).scatter_reduce_(0, flat.flatten(), limit.flatten(), "amin")
        return scores


@dataclass(frozen=True, slots=True)
class MinLength:
    """No EOS before the minimum length. All three are on the CPU, one entry per slot and EOS."""

    slots: Tensor
    token_ids: Tensor
    min_lengths: Tensor

    @classmethod
    def build(cls, parameters: Sequence[GenerationParameters]) -> Self | None:
        """For the slots with a minimum length and an EOS."""
        entries = [
            (slot, eos, wanted.min_length)
            for slot, wanted in enumerate(parameters)
            if wanted.min_length > 0
            for eos in wanted.eos_token_ids
        ]
        return cls(*torch.tensor(entries).unbind(1)) if entries else None

    def __call__(self, scores: Tensor, history: History) -> Tensor:
        """See `LogitsProcessor`."""
        early = history.lengths[self.slots] < self.min_lengths
        if early.any():
            slots = self.slots[early].to(scores.device)
            scores[slots, :, self.token_ids[early].to(scores.device)] = -torch.inf
        return scores


@dataclass(frozen=True, slots=True)
class ForcedTokens:
    """Only these tokens at one length of the target: forced BOS, forced EOS. All on the CPU.

    Attributes:
        slots: [num_forced]
        at_lengths: [num_forced], length of the target before the forced token.
        token_ids: [num_forced, num_tokens], any of them may follow.
    """

    slots: Tensor
    at_lengths: Tensor
    token_ids: Tensor

    @classmethod
    def build(cls, forced: Sequence[tuple[int, Sequence[int]]]) -> Self | None:
        """`forced[slot]` is the length and the tokens, no tokens where nothing is forced."""
        slots = [slot for slot, (_, tokens) in enumerate(forced) if tokens]
        if not slots:
            return None
        widest = max(len(tokens) for _, tokens in forced)
        padded = [[*forced[s][1], *[forced[s][1][0]] * (widest - len(forced[s][1]))] for s in slots]
        lengths = torch.tensor([forced[slot][0] for slot in slots])
        return cls(torch.tensor(slots), lengths, torch.tensor(padded))

    def __call__(self, scores: Tensor, history: History) -> Tensor:
        """See `LogitsProcessor`."""
        now = history.lengths[self.slots] == self.at_lengths
        if now.any():
            slots = self.slots[now].to(scores.device)
            scores[slots] = -torch.inf
            scores[slots[:, None], :, self.token_ids[now].to(scores.device)] = 0.0
        return scores


@dataclass(frozen=True, slots=True)
class Renormalize:
    """Turns processed scores into log-probabilities again; always the last processor."""

    slots: Tensor

    @classmethod
    def build(cls, parameters: Sequence[GenerationParameters], device: torch.device) -> Self | None:
        """For the slots that ask for it."""
        slots = [slot for slot, wanted in enumerate(parameters) if wanted.renormalize_logits]
        return cls(torch.tensor(slots, device=device)) if slots else None

    def __call__(self, scores: Tensor, history: History) -> Tensor:
        """See `LogitsProcessor`."""
        if len(self.slots) == len(scores):  # as a rule: Marian's defaults ask for it
            return scores.log_softmax(-1)
        scores[self.slots] = scores[self.slots].log_softmax(-1)
        return scores


@dataclass(frozen=True, slots=True)
class PerRequest:
    """The library's own processors, each for the one slot that asks for it.

    Attributes:
        entries: Slots and their processors, in the order in which they apply.
        prompt_lens: [num_slots], on the CPU: a slot that is still in its prompt is left alone.
    """

    entries: tuple[tuple[int, LibraryProcessor], ...]
    prompt_lens: Tensor

    @classmethod
    def build(
        cls,
        wanted: Sequence[Sequence[LibraryProcessor]],
        parameters: Sequence[GenerationParameters],
    ) -> Self | None:
        """`wanted[slot]` lists the processors of a slot."""
        entries = tuple((slot, each) for slot, own in enumerate(wanted) for each in own)
        return cls(entries, torch.tensor([p.prompt_len for p in parameters])) if entries else None

    def __call__(self, scores: Tensor, history: History) -> Tensor:
        """See `LogitsProcessor`."""
        for slot, processor in self.entries:
            length = int(history.lengths[slot])
            if length >= self.prompt_lens[slot]:
                target_ids = history.token_ids[slot, :, :length]
                scores[slot] = processor(target_ids, scores[slot])
        return scores


def build_processors(
    parameters: Sequence[GenerationParameters],
    own: Sequence[OwnProcessors],
    device: torch.device,
) -> tuple[LogitsProcessor, ...]:
    """The processors that these slots want, in the order of `generate()`.

    Args:
        parameters: One per slot.
        own: Processors that only one slot wants, by slot.
        device: Where the scores are.
    """
    decoder_start = 1
    built: list[LogitsProcessor | None] = [
        PerRequest.build([each.first for each in own], parameters),
        RepetitionPenalty.build(parameters, device),
        *NoRepeatNGram.build_all(parameters, device),
        PerRequest.build([each.after_ngrams for each in own], parameters),
        BannedTokens.build([single_bad_words(p) for p in parameters], device),
        *BadWords.build_all(parameters, device),
        MinLength.build(parameters),
        ForcedTokens.build([(decoder_start, _forced_bos(p)) for p in parameters]),
        ForcedTokens.build([(p.max_length - 1, p.forced_eos_token_ids) for p in parameters]),
        PerRequest.build([each.after_forced for each in own], parameters),
        BannedTokens.build([p.suppress_tokens for p in parameters], device),
        PerRequest.build([each.last for each in own], parameters),
        Renormalize.build(parameters, device),
    ]
    return tuple(processor for processor in built if processor is not None)


def repeated_ngrams(token_ids: Tensor, lengths: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Which tokens would complete an n-gram that a target has already.

    Args:
        token_ids: [num_slots, num_beams, longest], at least `size` long.
        lengths: [num_slots], valid tokens of each target.
        size: n.

    Returns:
        The last token of each n-gram and whether it would repeat, both
        [num_slots, num_beams, longest - size + 1].
    """
    windows = token_ids.unfold(2, size, 1)
    last = lengths[:, None] - size + 1 + torch.arange(size - 1, device=lengths.device)
    index = last.clamp(min=0)[:, None].expand(-1, token_ids.shape[1], -1)
    prefix = token_ids.gather(2, index)
    ends = torch.arange(size, token_ids.shape[2] + 1, device=lengths.device)
    is_complete = (ends <= lengths[:, None])[:, None]
    return windows[..., -1], (windows[..., :-1] == prefix[:, :, None]).all(-1) & is_complete


@lru_cache(maxsize=256)
def _as_tensor(token_ids: tuple[int, ...]) -> Tensor:
    """Long lists are turned into a tensor once per request, not at every change of the group."""
    return torch.tensor(token_ids, dtype=torch.long)


def single_bad_words(parameters: GenerationParameters) -> tuple[int, ...]:
    """Bad words of one token; a bad word that is just an EOS is ignored, as in `generate()`."""
    words = [word for word in parameters.bad_words_ids if len(word) == 1]
    return tuple(word[0] for word in words if word[0] not in parameters.eos_token_ids)


def _forced_bos(parameters: GenerationParameters) -> tuple[int, ...]:
    bos = parameters.forced_bos_token_id
    return () if bos is None else (bos,)
