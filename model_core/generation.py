"""Generation defaults of a checkpoint + one request's overrides -> resolved, validated, frozen."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeGuard, TypeVar

from model_core.errors import InvalidParameterError

Task = Literal["translate", "summarize"]
EarlyStopping = bool | Literal["never"]
TokenIds = int | Sequence[int]

_T = TypeVar("_T")
_D = TypeVar("_D")

DEFAULT_MAX_LENGTH = 256
"""Most target tokens where a checkpoint names no length; fewer where it has fewer positions."""

# Beyond, `generated_len ** length_penalty` leaves the range of float32 at about 1,000 tokens.
MAX_LENGTH_PENALTY = 10.0
MAX_REPETITION_PENALTY = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParameters:
    """Everything that decides one request's tokens, fully resolved.

    Hashable: equal means equal work.

    Lengths count the decoder start token, as transformers does for encoder-decoders:
    `max_length = max_new_tokens + 1`, `min_length = min_new_tokens + 1`.
    """

    decoder_start_token_id: int
    pad_token_id: int
    eos_token_ids: tuple[int, ...]
    max_length: int
    min_length: int = 0
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    forced_bos_token_id: int | None = None
    forced_eos_token_ids: tuple[int, ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    renormalize_logits: bool = False
    do_sample: bool = False

    @property
    def is_deterministic(self) -> bool:
        """Whether equal parameters give equal results; sampling has no seed, so it does not."""
        return not self.do_sample

    def generate_kwargs(self) -> dict[str, Any]:
        """The same request as keyword arguments of transformers' `generate()`.

        Every parameter that a request may name is here, so that none is left to the model's own
        generation config. What only the checkpoint can ask for (`unserved`) stays there.
        """
        return {
            "decoder_start_token_id": self.decoder_start_token_id,
            "pad_token_id": self.pad_token_id,
            "eos_token_id": list(self.eos_token_ids) or None,
            "max_length": self.max_length,
            "max_new_tokens": None,
            "min_length": self.min_length,
            "min_new_tokens": None,
            "num_beams": self.num_beams,
            "num_return_sequences": self.num_return_sequences,
            "length_penalty": self.length_penalty,
            "early_stopping": self.early_stopping,
            "no_repeat_ngram_size": self.no_repeat_ngram_size,
            "repetition_penalty": self.repetition_penalty,
            "forced_bos_token_id": self.forced_bos_token_id,
            "forced_eos_token_id": list(self.forced_eos_token_ids) or None,
            "suppress_tokens": list(self.suppress_tokens) or None,
            "bad_words_ids": [list(word) for word in self.bad_words_ids] or None,
            "renormalize_logits": self.renormalize_logits,
            "do_sample": self.do_sample,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOverrides:
    """What somebody names of the generation parameters; None means: not named.

    A request names some, a checkpoint's files name others. Names and meanings are transformers'.
    `max_new_tokens` goes before `max_length`, and `min_new_tokens` before `min_length`. An empty
    `suppress_tokens` or `bad_words_ids` takes back the checkpoint's.
    """

    decoder_start_token_id: int | None = None
    eos_token_id: TokenIds | None = None
    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int | None = None
    min_new_tokens: int | None = None
    num_beams: int | None = None
    num_return_sequences: int | None = None
    length_penalty: float | None = None
    early_stopping: EarlyStopping | None = None
    no_repeat_ngram_size: int | None = None
    repetition_penalty: float | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: TokenIds | None = None
    suppress_tokens: Sequence[int] | None = None
    bad_words_ids: Sequence[Sequence[int]] | None = None

    def over(self, other: "GenerationOverrides") -> "GenerationOverrides":
        """These, completed by `other` where nothing is named here.

        A length named here in either way hides both ways of naming it in `other`.
        """
        named = {
            each.name: value
            for each in fields(self)
            if (value := getattr(self, each.name)) is not None
        }
        hidden = dict.fromkeys(
            name for pair in _LENGTH_PAIRS if named.keys() & set(pair) for name in pair
        )
        return replace(other, **{**hidden, **named})


_LENGTH_PAIRS = (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens"))


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationDefaults:
    """What a checkpoint says of generation, and what bounds it; see `model_core.defaults`.

    Attributes:
        values: What the checkpoint names, for whatever task.
        task_values: The same for single tasks, by the name of the task in the checkpoint's
            `task_specific_params` (`summarization`, `translation_en_to_de`).
        decoder_start_token_id: Where `values` name none.
        pad_token_id: Fills up rows of a batch.
        vocab_size: Logits of one step.
        max_target_len: Decoder positions; None where positions are relative.
        renormalize_logits: Whether processed scores are normalised again; no request changes it.
        do_sample: Whether tokens are drawn; only `generate()` can, so `unserved` names it too.
        unserved: Generation features that the checkpoint asks for and the lean search lacks.
    """

    values: GenerationOverrides
    task_values: tuple[tuple[str, GenerationOverrides], ...] = ()
    decoder_start_token_id: int
    pad_token_id: int
    vocab_size: int
    max_target_len: int | None
    renormalize_logits: bool = False
    do_sample: bool = False
    unserved: tuple[str, ...] = ()

    def for_task(self, name: str) -> "GenerationDefaults":
        """The defaults of one entry of `task_specific_params`; these where it has none."""
        return replace(self, values=dict(self.task_values).get(name, self.values))


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationLimits:
    """What the operator allows at most; a checkpoint's own defaults are lowered to it.

    Attributes:
        max_num_beams: Hypotheses of one request.
        max_target_len: Target tokens of one request, the decoder start token included.
        max_source_len: Source tokens of one request, where the checkpoint has more positions.
    """

    max_num_beams: int = 16
    max_target_len: int = 1024
    max_source_len: int = 8192


def resolve(
    defaults: GenerationDefaults,
    overrides: GenerationOverrides,
    *,
    limits: GenerationLimits,
) -> GenerationParameters:
    """Everything that decides a request's tokens, each value checked once.

    What the request names goes before what the checkpoint names, and that before transformers'
    defaults. A request's value beyond a bound is refused; a checkpoint's length or number of
    beams beyond the operator's limits is lowered to them.

    Raises:
        InvalidParameterError: A value is out of its bounds, or two values contradict each other.
    """
    return _Resolver(defaults, overrides, limits).parameters()


class _Resolver:
    """One request's values over the checkpoint's; `_take` checks what it hands out."""

    def __init__(
        self,
        defaults: GenerationDefaults,
        overrides: GenerationOverrides,
        limits: GenerationLimits,
    ) -> None:
        self._defaults = defaults
        self._overrides = overrides
        self._limits = limits
        self._named = overrides.over(defaults.values)

    def parameters(self) -> GenerationParameters:
        """See `resolve`."""
        defaults = self._defaults
        eos_token_ids = self._take("eos_token_id", self._token_ids, ())
        max_length = self._max_length()
        parameters = GenerationParameters(
            decoder_start_token_id=self._take(
                "decoder_start_token_id", self._token_id, defaults.decoder_start_token_id
            ),
            pad_token_id=defaults.pad_token_id,
            eos_token_ids=eos_token_ids,
            max_length=max_length,
            min_length=self._min_length(max_length),
            num_beams=self._num_beams(),
            num_return_sequences=self._take("num_return_sequences", _at_least(1), 1),
            length_penalty=self._take("length_penalty", _length_penalty, 1.0),
            early_stopping=self._take("early_stopping", _early_stopping, False),
            no_repeat_ngram_size=self._take("no_repeat_ngram_size", _at_least(0), 0),
            repetition_penalty=self._take("repetition_penalty", _repetition_penalty, 1.0),
            forced_bos_token_id=self._take("forced_bos_token_id", self._token_id, None),
            forced_eos_token_ids=self._take("forced_eos_token_id", self._token_ids, ()),
            suppress_tokens=self._take("suppress_tokens", self._token_ids, ()),
            bad_words_ids=self._bad_words(eos_token_ids),
            renormalize_logits=defaults.renormalize_logits,
            do_sample=defaults.do_sample,
        )
        self._check_together(parameters)
        return parameters

    def _take(self, name: str, check: Callable[[str, object], _T], default: _D) -> _T | _D:
        value = getattr(self._named, name)
        return default if value is None else check(name, value)

    def _max_length(self) -> int:
        name, count, length = self._length("max_length", "max_new_tokens", at_least=1)
        bound, reason = self._limits.max_target_len, "the server's limit"
        positions = self._defaults.max_target_len
        if positions is not None and positions <= bound:
            bound, reason = positions, "the checkpoint's decoder positions"
        if length is None:
            return min(DEFAULT_MAX_LENGTH, bound)
        if length > bound and getattr(self._overrides, name) is not None:
            most = bound - (length - count)
            raise InvalidParameterError(name, count, f"at most {most} ({reason})")
        return min(length, bound)

    def _min_length(self, max_length: int) -> int:
        name, count, length = self._length("min_length", "min_new_tokens", at_least=0)
        if length is None or length <= max_length:
            return length or 0
        if getattr(self._overrides, name) is not None:
            most = max_length - (length - count)
            raise InvalidParameterError(name, count, f"at most {most}, the maximum length")
        expected = f"at least {length}, the checkpoint's minimum, unless min_length is given too"
        raise InvalidParameterError("max_length", max_length, expected)

    def _length(self, name: str, new_name: str, *, at_least: int) -> tuple[str, int, int | None]:
        """The name that decides, its value, and that as a length with the decoder start token."""
        new_tokens = self._take(new_name, _at_least(at_least), None)
        if new_tokens is not None:
            return new_name, new_tokens, new_tokens + 1
        lowest = at_least + 1 if at_least else 0
        length = self._take(name, _at_least(lowest), None)
        return name, length or 0, length

    def _num_beams(self) -> int:
        num_beams = self._take("num_beams", _at_least(1), 1)
        most = self._limits.max_num_beams
        if num_beams > most and self._overrides.num_beams is not None:
            raise InvalidParameterError("num_beams", num_beams, f"at most {most}")
        return min(num_beams, most)

    def _bad_words(self, eos_token_ids: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Forbidden runs; EOS alone cannot be forbidden, as in transformers."""
        words = self._named.bad_words_ids
        if words is None:
            return ()
        expected = "a list of non-empty lists of token ids"
        if not _is_list(words) or not all(_is_list(word) and word for word in words):
            raise InvalidParameterError("bad_words_ids", words, expected)
        checked = dict.fromkeys(
            tuple(self._token_id("bad_words_ids", token_id) for token_id in word) for word in words
        )
        return tuple(word for word in checked if len(word) > 1 or word[0] not in eos_token_ids)

    def _token_id(self, name: str, value: object) -> int:
        vocab_size = self._defaults.vocab_size
        if not _is_int(value) or not 0 <= value < vocab_size:
            raise InvalidParameterError(name, value, f"a token id from 0 to {vocab_size - 1}")
        return value

    def _token_ids(self, name: str, value: object) -> tuple[int, ...]:
        values = value if _is_list(value) else (value,)
        return tuple(dict.fromkeys(self._token_id(name, each) for each in values))

    def _check_together(self, parameters: GenerationParameters) -> None:
        if parameters.num_return_sequences > parameters.num_beams:
            expected = f"at most num_beams, {parameters.num_beams}"
            raise InvalidParameterError(
                "num_return_sequences", parameters.num_return_sequences, expected
            )
        suppressed = set(parameters.suppress_tokens)
        banned = suppressed.union(word[0] for word in parameters.bad_words_ids if len(word) == 1)
        if parameters.min_length > 1:
            banned |= set(parameters.eos_token_ids)
        if len(banned) >= self._defaults.vocab_size:
            expected = "some token left to choose (bad_words_ids and min_length ban others)"
            raise InvalidParameterError("suppress_tokens", "every token", expected)
        forced_bos = parameters.forced_bos_token_id
        if forced_bos in suppressed:
            raise InvalidParameterError("forced_bos_token_id", forced_bos, "not suppressed")
        forced_eos = parameters.forced_eos_token_ids
        if forced_eos and suppressed.issuperset(forced_eos):
            raise InvalidParameterError("forced_eos_token_id", list(forced_eos), "not suppressed")


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _at_least(least: int) -> Callable[[str, object], int]:
    def check(name: str, value: object) -> int:
        if not _is_int(value) or value < least:
            raise InvalidParameterError(name, value, f"a whole number from {least}")
        return value

    return check


def _number(name: str, value: object, *, least: float, most: float, expected: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:  # type: ignore[operator]
        raise InvalidParameterError(name, value, expected)
    return float(value)  # type: ignore[arg-type]


def _length_penalty(name: str, value: object) -> float:
    most = MAX_LENGTH_PENALTY
    return _number(
        name, value, least=-most, most=most, expected=f"a number from {-most:g} to {most:g}"
    )


def _repetition_penalty(name: str, value: object) -> float:
    most = MAX_REPETITION_PENALTY
    expected = f"a number above 0, at most {most:g}"
    return _number(name, value, least=math.ulp(0.0), most=most, expected=expected)


def _early_stopping(name: str, value: object) -> EarlyStopping:
    if isinstance(value, bool):
        return value
    if value == "never":
        return "never"
    raise InvalidParameterError(name, value, 'true, false or "never"')
