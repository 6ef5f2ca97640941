"""Defaults of a checkpoint + one request's overrides -> resolved, validated, frozen parameters."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeGuard, TypeVar

from model_core.bounds import BIAS, BOUNDS, DECAY_FACTOR, MAX_RUN_LEN, Bound
from model_core.contradictions import check_together
from model_core.errors import InvalidParameterError
from model_core.generation import (
    EarlyStopping,
    GenerationDefaults,
    GenerationLimits,
    GenerationOverrides,
    GenerationParameters,
    SequenceBias,
)

_T = TypeVar("_T")
_D = TypeVar("_D")

DEFAULT_MAX_LENGTH = 256
"""Most target tokens where a checkpoint names no length; fewer where it has fewer positions."""
_DEFAULT_TOP_K = 50  # transformers', where tokens are drawn


def resolve(
    defaults: GenerationDefaults,
    overrides: GenerationOverrides,
    *,
    limits: GenerationLimits,
) -> GenerationParameters:
    """Everything that decides a request's tokens, each value checked once.

    What the request names goes before what the checkpoint names, and that before transformers'
    defaults. A request's value beyond a bound is refused; a checkpoint's length or number of
    beams beyond the operator's limits is lowered to them. A request that draws its tokens and
    names no seed gets one at random.

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
        forced_bos_token_id = self._take("forced_bos_token_id", self._token_id, None)
        prefix_ids = tuple(
            self._token_id("target_prefix", token_id)
            for token_id in self._named.target_prefix_ids or ()
        )
        prompt_len = 1 + len(prefix_ids)
        max_length = self._max_length(prompt_len)
        eos_token_ids = self._take("eos_token_id", self._unique_token_ids, ())
        parameters = GenerationParameters(
            decoder_start_token_id=self._take(
                "decoder_start_token_id", self._token_id, defaults.decoder_start_token_id
            ),
            pad_token_id=defaults.pad_token_id,
            eos_token_ids=eos_token_ids,
            max_length=max_length,
            min_length=self._min_length(max_length, prompt_len),
            target_prefix_ids=prefix_ids,
            num_beams=self._num_beams(),
            num_return_sequences=self._take("num_return_sequences", self._integer, 1),
            length_penalty=self._take("length_penalty", self._number, 1.0),
            early_stopping=self._take("early_stopping", _early_stopping, False),
            no_repeat_ngram_size=self._take("no_repeat_ngram_size", self._integer, 0),
            encoder_no_repeat_ngram_size=self._take(
                "encoder_no_repeat_ngram_size", self._integer, 0
            ),
            repetition_penalty=self._take("repetition_penalty", self._number, 1.0),
            encoder_repetition_penalty=self._take("encoder_repetition_penalty", self._number, 1.0),
            exponential_decay_length_penalty=self._take(
                "exponential_decay_length_penalty", _decay, None
            ),
            forced_bos_token_id=forced_bos_token_id,
            forced_eos_token_ids=self._take("forced_eos_token_id", self._unique_token_ids, ()),
            suppress_tokens=self._take("suppress_tokens", self._unique_token_ids, ()),
            begin_suppress_tokens=self._take("begin_suppress_tokens", self._unique_token_ids, ()),
            bad_words_ids=self._bad_words(eos_token_ids),
            sequence_bias=self._take("sequence_bias", self._sequence_bias, ()),
            stop_strings=self._take("stop_strings", self._strings, ()),
            remove_invalid_values=self._take("remove_invalid_values", _flag, False),
            renormalize_logits=self._take("renormalize_logits", _flag, False),
        )
        if self._do_sample():
            parameters = self._sampled(parameters)
        check_together(parameters, defaults.vocab_size)
        return parameters

    def _sampled(self, parameters: GenerationParameters) -> GenerationParameters:
        return replace(
            parameters,
            do_sample=True,
            temperature=self._take("temperature", self._number, 1.0),
            top_k=self._take("top_k", self._integer, _DEFAULT_TOP_K),
            top_p=self._take("top_p", self._number, 1.0),
            min_p=self._take("min_p", self._number, None),
            top_h=self._take("top_h", self._number, None),
            typical_p=self._take("typical_p", self._number, 1.0),
            epsilon_cutoff=self._take("epsilon_cutoff", self._number, 0.0),
            eta_cutoff=self._take("eta_cutoff", self._number, 0.0),
            seed=self._take("seed", self._integer, secrets.randbits(53)),
        )

    def _do_sample(self) -> bool:
        """Whether tokens are drawn; what only drawing reads is checked even if they are not."""
        do_sample = self._take("do_sample", _flag, False)
        if self._overrides.do_sample and not self._bound("do_sample").allows(1):
            raise InvalidParameterError("do_sample", True, "false: the server draws no tokens")
        if any(getattr(self._overrides, name) is not None for name in _SAMPLING):
            self._sampled(_ANY)
        return do_sample

    def _take(self, name: str, check: Callable[[str, Any], _T], default: _D) -> _T | _D:
        value = getattr(self._named, name)
        return default if value is None else check(name, value)

    def _bound(self, name: str) -> Bound:
        """The operator's bound for what the request names; a checkpoint may go beyond it."""
        is_named = getattr(self._overrides, name) is not None
        return self._limits.bounds[name] if is_named else BOUNDS[name]

    def _max_length(self, prompt_len: int) -> int:
        name, count, length = self._length("max_length", "max_new_tokens", prompt_len)
        bound, reason = self._limits.max_target_len, "the server's limit"
        positions = self._defaults.max_target_len
        if positions is not None and positions <= bound:
            bound, reason = positions, "the checkpoint's decoder positions"
        max_length = min(DEFAULT_MAX_LENGTH if length is None else length, bound)
        if max_length <= prompt_len:
            expected = f"a prefix of at most {max_length - 2} tokens, for a length of {max_length}"
            raise InvalidParameterError("target_prefix", f"{prompt_len - 1} tokens", expected)
        is_named = getattr(self._overrides, name) is not None
        if length is not None and length > bound and is_named:
            most = bound - (length - count)
            raise InvalidParameterError(name, count, f"at most {most} ({reason})")
        return max_length

    def _min_length(self, max_length: int, prompt_len: int) -> int:
        name, count, length = self._length("min_length", "min_new_tokens", prompt_len)
        if length is None or length <= max_length:
            return length or 0
        if getattr(self._overrides, name) is not None:
            most = max_length - (length - count)
            raise InvalidParameterError(name, count, f"at most {most}, the maximum length")
        expected = f"at least {length}, the checkpoint's minimum, unless min_length is given too"
        raise InvalidParameterError("max_length", max_length, expected)

    def _length(self, name: str, new_name: str, prompt_len: int) -> tuple[str, int, int | None]:
        """The name that decides, its value, and that as a length with the prompt."""
        new_tokens = self._take(new_name, self._integer, None)
        if new_tokens is not None:
            return new_name, new_tokens, new_tokens + prompt_len
        length = self._take(name, self._integer, None)
        return name, length or 0, length

    def _num_beams(self) -> int:
        num_beams = self._take("num_beams", self._integer, 1)
        most = self._limits.max_num_beams
        if num_beams > most and self._overrides.num_beams is not None:
            raise InvalidParameterError(
                "num_beams", num_beams, f"at most {most} (the server's limit)"
            )
        return min(num_beams, most)

    def _bad_words(self, eos_token_ids: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Forbidden runs; EOS alone cannot be forbidden, as in transformers."""
        words = self._take("bad_words_ids", self._runs, ())
        return tuple(
            word for word in dict.fromkeys(words) if len(word) > 1 or word[0] not in eos_token_ids
        )

    def _integer(self, name: str, value: object) -> int:
        bound = self._bound(name)
        if not _is_int(value) or not bound.allows(value):
            raise InvalidParameterError(name, value, f"a whole number {bound}")
        return value

    def _number(self, name: str, value: object) -> float:
        bound = self._bound(name)
        if not _is_number(value) or not bound.allows(value):
            raise InvalidParameterError(name, value, f"a number {bound}")
        return float(value)

    def _token_id(self, name: str, value: object) -> int:
        vocab_size = self._defaults.vocab_size
        if not _is_int(value) or not 0 <= value < vocab_size:
            raise InvalidParameterError(name, value, f"a token id from 0 to {vocab_size - 1}")
        return value

    def _token_ids(self, name: str, value: object) -> tuple[int, ...]:
        values = value if _is_list(value) else (value,)
        return tuple(self._token_id(name, each) for each in self._counted(name, values))

    def _unique_token_ids(self, name: str, value: object) -> tuple[int, ...]:
        return tuple(dict.fromkeys(self._token_ids(name, value)))

    def _runs(self, name: str, value: object) -> list[tuple[int, ...]]:
        if not _is_list(value) or not all(_is_list(run) and run for run in value):
            raise InvalidParameterError(name, value, "a list of non-empty lists of token ids")
        return [self._run(name, run) for run in self._counted(name, value)]

    def _run(self, name: str, run: Sequence[object]) -> tuple[int, ...]:
        if len(run) > MAX_RUN_LEN:
            raise InvalidParameterError(
                name, f"{len(run)} token ids", f"at most {MAX_RUN_LEN} of them in a row"
            )
        return tuple(self._token_id(name, token_id) for token_id in run)

    def _sequence_bias(self, name: str, value: object) -> SequenceBias:
        expected = f"a list of pairs of token ids and a bias {BIAS}, each run of ids once"
        pairs = value if _is_list(value) else ()
        biases: dict[tuple[int, ...], float] = {}
        for pair in self._counted(name, pairs):
            if not _is_list(pair) or len(pair) != 2 or not _is_list(pair[0]) or not pair[0]:
                raise InvalidParameterError(name, value, expected)
            run, bias = self._run(name, pair[0]), pair[1]
            if not _is_number(bias) or not BIAS.allows(bias) or run in biases:
                raise InvalidParameterError(name, value, expected)
            biases[run] = float(bias)
        if value and not biases:
            raise InvalidParameterError(name, value, expected)
        return tuple(biases.items())

    def _strings(self, name: str, value: object) -> tuple[str, ...]:
        values = (value,) if isinstance(value, str) and value else value
        expected = f"strings of 1 to {MAX_RUN_LEN} characters"
        if not _is_list(values):
            raise InvalidParameterError(name, value, expected)
        for each in self._counted(name, values):
            if not isinstance(each, str) or not 1 <= len(each) <= MAX_RUN_LEN:
                raise InvalidParameterError(name, each, expected)
        return tuple(dict.fromkeys(values))

    def _counted(self, name: str, values: Sequence[Any]) -> Sequence[Any]:
        """A request's list has a bound, a checkpoint's own has none."""
        bound = self._bound(name)
        is_named = getattr(self._overrides, name) is not None
        if is_named and len(values) > bound.most:
            expected = f"at most {int(bound.most)} of them"
            raise InvalidParameterError(name, f"{len(values)} entries", expected)
        return values


_SAMPLING = (
    *("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p"),
    *("epsilon_cutoff", "eta_cutoff", "seed"),
)
_ANY = GenerationParameters(
    decoder_start_token_id=0, pad_token_id=0, eos_token_ids=(), max_length=2
)


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidParameterError(name, value, "true or false")
    return value


def _early_stopping(name: str, value: object) -> EarlyStopping:
    if isinstance(value, bool):
        return value
    if value == "never":
        return "never"
    raise InvalidParameterError(name, value, 'true, false or "never"')


def _decay(name: str, value: object) -> tuple[int, float] | None:
    """Start after so many generated tokens, and the factor; an empty list is none."""
    if _is_list(value) and not value:
        return None
    if _is_list(value) and len(value) == 2:
        start, factor = value
        is_start = _is_int(start) and 0 <= start <= 1_000_000
        if is_start and _is_number(factor) and DECAY_FACTOR.allows(factor):
            return start, float(factor)
    expected = f"a whole number of tokens and a factor {DECAY_FACTOR}"
    raise InvalidParameterError(name, value, expected)
