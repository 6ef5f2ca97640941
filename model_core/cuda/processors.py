"""Logits processors of a captured step, and its ranking: the same operations whoever is in it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model_core.cuda.ranking import Ranking
from model_core.generation import GenerationParameters
from model_core.logits import repeated_ngrams, single_bad_words
from model_core.search import Ranked
from model_core.transfer import to_device

_NONE = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a captured step can do for a request: no more than its checkpoint's defaults ask for.

    Attributes:
        num_eos: EOS tokens.
        num_banned: Bad words of one token.
        num_forced_eos: Tokens of which one is forced at the end.
        has_forced_bos: Whether a first token can be forced.
        ngram_sizes: Sizes of n-grams that can be kept from repeating.
        has_penalty: Whether repetition can be penalised.
        renormalizes: Whether scores can be renormalised.
    """

    num_eos: int
    num_banned: int
    num_forced_eos: int
    has_forced_bos: bool
    ngram_sizes: tuple[int, ...]
    has_penalty: bool
    renormalizes: bool

    @classmethod
    def of(cls, parameters: GenerationParameters) -> "Kind | None":
        """The least that a request needs; None where no captured step can do what it asks for."""
        neutral = GenerationParameters(
            decoder_start_token_id=0, pad_token_id=0, eos_token_ids=(), max_length=1
        )
        if any(getattr(parameters, name) != getattr(neutral, name) for name in _BEYOND):
            return None
        if any(len(word) > 1 for word in parameters.bad_words_ids):
            return None
        size = parameters.no_repeat_ngram_size
        return cls(
            num_eos=len(parameters.eos_token_ids),
            num_banned=len(single_bad_words(parameters)),
            num_forced_eos=len(parameters.forced_eos_token_ids),
            has_forced_bos=parameters.forced_bos_token_id is not None,
            ngram_sizes=(size,) if size else (),
            has_penalty=parameters.repetition_penalty != 1.0,
            renormalizes=parameters.renormalize_logits,
        )

    def covers(self, parameters: GenerationParameters) -> bool:
        """Whether a step of this kind can serve a request."""
        wanted = Kind.of(parameters)
        return wanted is not None and (
            wanted.num_eos <= self.num_eos
            and wanted.num_banned <= self.num_banned
            and wanted.num_forced_eos <= self.num_forced_eos
            and wanted.has_forced_bos <= self.has_forced_bos
            and set(wanted.ngram_sizes) <= set(self.ngram_sizes)
            and wanted.has_penalty <= self.has_penalty
            and wanted.renormalizes <= self.renormalizes
        )


_BEYOND = (
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    "sequence_bias",
    "stop_strings",
    "remove_invalid_values",
    "do_sample",
)
"""What few requests ask for: other than neutral, it is done request by request."""


class CapturedChoice:
    """See `FixedChoice`; each processor does what its namesake in `model_core.logits` does.

    Logits are kept in half precision, unless one processor scales them: what a log-softmax would
    take from a row is taken from its candidates alone.

    Args:
        kind: What its processors can do.
        capacity: Most slots.
        max_length: Longest target.
        device: Where the logits are.
        ranking: What finds the best.
    """

    def __init__(
        self, kind: Kind, capacity: int, max_length: int, device: torch.device, ranking: Ranking
    ) -> None:
        self.max_length = max_length
        self.num_eos = kind.num_eos
        self._kind = kind
        self._ranking = ranking
        # Of each slot: minimum and maximum length, n-gram size, forced BOS, whether scores are
        # renormalised, then EOS tokens, banned tokens and forced EOS tokens.
        widths = (1, 1, 1, 1, 1, kind.num_eos, kind.num_banned, kind.num_forced_eos)
        self._numbers = torch.full((capacity, sum(widths)), _NONE, device=device)
        self._penalties = torch.ones(capacity, device=device)
        columns = torch.split(self._numbers, list(widths), dim=1)
        self._min_lengths, self._max_lengths, self._sizes = columns[:3]
        self._forced_bos, self._renormalized = columns[3:5]
        self._eos, self._banned, self._forced_eos = columns[5:]

    def put(self, parameters: Sequence[GenerationParameters]) -> None:
        """See `FixedChoice`."""
        kind = self._kind
        rows = [
            [
                wanted.min_length,
                wanted.max_length,
                wanted.no_repeat_ngram_size,
                _NONE if wanted.forced_bos_token_id is None else wanted.forced_bos_token_id,
                int(wanted.renormalize_logits),
                *_padded(wanted.eos_token_ids, kind.num_eos),
                *_padded(single_bad_words(wanted), kind.num_banned),
                *_padded(wanted.forced_eos_token_ids, kind.num_forced_eos),
            ]
            for wanted in parameters
        ]
        penalties = torch.tensor([wanted.repetition_penalty for wanted in parameters])
        device = self._numbers.device
        self._numbers[: len(rows)] = to_device(torch.tensor(rows), device)
        self._penalties[: len(rows)] = to_device(penalties, device)

    def likeliest(
        self, logits: Tensor, token_ids: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `FixedChoice`."""
        if self._kind.has_penalty:
            logits = logits.float()
            self._penalise(logits, token_ids, lengths)
        self._allow(logits, token_ids, lengths)
        rows = logits.flatten(0, 1)[:, None]  # each for itself
        normalizers = self._ranking.log_sum_exp(rows)
        # Ranked as they are: two logits may differ by less than their log-probabilities can.
        nothing = torch.zeros_like(normalizers)
        found, _, best = self._ranking.best(rows, nothing, nothing, 1)
        return best.view(logits.shape[:2]), (found - normalizers).view(logits.shape[:2])

    def best(
        self,
        logits: Tensor,
        live_scores: Tensor,
        num_candidates: int,
        token_ids: Tensor,
        lengths: Tensor,
    ) -> Ranked:
        """See `FixedChoice`."""
        normalizers = self._ranking.log_sum_exp(logits)
        if self._kind.has_penalty:
            logits = logits.float().sub_(normalizers[..., None])
            normalizers = torch.zeros_like(normalizers)
            self._penalise(logits, token_ids, lengths)
        is_forced = self._allow(logits, token_ids, lengths)
        if is_forced is not None:
            normalizers = normalizers.masked_fill(is_forced[:, None], 0.0)
        if self._kind.renormalizes:
            wanted = self._renormalized[: len(lengths)] == 1
            normalizers = torch.where(wanted, self._ranking.log_sum_exp(logits), normalizers)
        return self._ranking.best(logits, normalizers, live_scores, num_candidates)

    def _allow(self, logits: Tensor, token_ids: Tensor, lengths: Tensor) -> Tensor | None:
        """Leave the tokens that may follow; where they are forced their log-probability is 0.

        Returns:
            [num_slots], where they are forced; None where none ever is.
        """
        self._ban(logits, token_ids, lengths)
        num_slots, is_forced = len(lengths), None
        if self._kind.has_forced_bos:
            is_forced = _force(logits, self._forced_bos[:num_slots], lengths == 1)
        if self._kind.num_forced_eos:
            is_last = lengths == self._max_lengths[:num_slots, 0] - 1
            is_end = _force(logits, self._forced_eos[:num_slots], is_last)
            is_forced = is_end if is_forced is None else is_forced | is_end
        return is_forced

    def _penalise(self, scores: Tensor, token_ids: Tensor, lengths: Tensor) -> None:
        """Repetition: where a slot's penalty is 1 nothing changes."""
        valid = torch.arange(token_ids.shape[2], device=lengths.device) < lengths[:, None]
        # Padding repeats the start token, which every hypothesis has seen.
        seen = torch.where(valid[:, None], token_ids, token_ids[..., :1])
        old = scores.gather(2, seen)
        penalties = self._penalties[: len(lengths), None, None]
        scores.scatter_(2, seen, torch.where(old < 0, old * penalties, old / penalties))

    def _ban(self, scores: Tensor, token_ids: Tensor, lengths: Tensor) -> None:
        """N-grams that would repeat, bad words, and EOS before the minimum length."""
        num_slots, num_beams = scores.shape[:2]
        banned, eos = self._banned[:num_slots], self._eos[:num_slots]
        is_early = lengths[:, None] < self._min_lengths[:num_slots]
        whose = [(banned, banned >= 0), (eos, (eos >= 0) & is_early)]
        bans = [
            (tokens.clamp(min=0)[:, None].expand(-1, num_beams, -1), is_banned[:, None])
            for tokens, is_banned in whose
        ]
        for size in self._kind.ngram_sizes:
            last, repeats = repeated_ngrams(token_ids, lengths, size)
            bans.append((last, repeats & (self._sizes[:num_slots] == size)[:, None]))
        tokens = torch.cat([tokens for tokens, _ in bans], dim=2)
        is_banned = torch.cat([each.expand(-1, num_beams, -1) for _, each in bans], dim=2)
        # A token may be named twice: the minimum lets any ban win.
        limits = torch.where(is_banned, -torch.inf, torch.inf).to(scores.dtype)
        scores.scatter_reduce_(2, tokens, limits, "amin")


def _force(scores: Tensor, token_ids: Tensor, now: Tensor) -> Tensor:
    """Only these tokens, [num_slots, num_tokens], where there are any and it is time: there 0.

    Returns:
        [num_slots], where that is.
    """
    is_forced = now & (token_ids[:, 0] >= 0)
    scores.masked_fill_(is_forced[:, None, None], -torch.inf)
    # Where fewer are forced than there is room for, the first one fills up.
    known = torch.where(token_ids >= 0, token_ids, token_ids[:, :1]).clamp(min=0)
    index = known[:, None].expand(-1, scores.shape[1], -1)
    kept = scores.gather(2, index).masked_fill(is_forced[:, None, None], 0.0)
    scores.scatter_(2, index, kept)
    return is_forced


def _padded(token_ids: Sequence[int], width: int) -> list[int]:
    return [*token_ids, *[_NONE] * (width - len(token_ids))]
