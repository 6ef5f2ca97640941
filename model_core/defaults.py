"""The generation defaults that a checkpoint's files state.

Checkpoints name generation parameters in up to four places; the first in this list holds:

1. `generation_config.json`, unless it says `_from_model_config`: it then repeats `config.json`,
   and comes after `task_specific_params`;
2. `task_specific_params` of `config.json`, for the task that is served (the pipelines of
   transformers 4 let them override the general keys, too);
3. the legacy generation keys of `config.json`, only where there is no `generation_config.json`:
   where there is one, transformers reads no other;
4. the same keys in its `decoder` part, for an `EncoderDecoderModel`, except where they repeat a
   default of transformers 4, which wrote out all of them there (`max_length: 20` was no choice).

Before all of them goes what the operator's settings name for this checkpoint.

What nobody names has transformers' default, apart from the length: `DEFAULT_MAX_LENGTH`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from model_core.errors import CheckpointError, InvalidParameterError
from model_core.generation import (
    NOT_SERVED,
    GenerationDefaults,
    GenerationLimits,
    GenerationOverrides,
)
from model_core.resolve import resolve
from model_core.spelling import did_you_mean

Names = Mapping[str, Any]

_OF_REQUESTS = ("target_prefix_ids", "seed")
_SERVED = tuple(each.name for each in fields(GenerationOverrides) if each.name not in _OF_REQUESTS)
_SPECIAL_TOKENS = ("pad_token_id", "bos_token_id")

# Features of transformers' generation that the lean search lacks, each with the values that ask
# for nothing. Options that only steer caches or outputs change no token by themselves.
_UNSERVED: dict[str, tuple[Any, ...]] = {
    "num_beam_groups": (1,),
    "diversity_penalty": (0.0,),
    "guidance_scale": (1.0,),
    "penalty_alpha": (0.0,),
    "constraints": ([],),
    "force_words_ids": ([],),
    "watermarking_config": (),
    "token_healing": (False,),
    "max_time": (),
    "prompt_lookup_num_tokens": (),
    "assistant_early_exit": (),
    "dola_layers": (),
    "use_mtp": (False,),
}

# What transformers 4 wrote into the `decoder` part of every EncoderDecoderModel's config.
_WRITTEN_OUT: dict[str, Any] = {
    "max_length": 20,
    "min_length": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "length_penalty": 1.0,
    "early_stopping": False,
    "no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "remove_invalid_values": False,
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFiles:
    """What the defaults are read from.

    Attributes:
        config: `config.json`, raw: transformers drops its legacy generation keys on loading.
        generation_config: `generation_config.json`, empty where there is none.
        options: What the operator lays over both.
        options_name: Where the operator wrote that, for errors.
    """

    config: Names
    generation_config: Names
    options: Names = field(default_factory=dict)
    options_name: str = "options"

    @property
    def layers(self) -> tuple[Names, Names]:
        """What goes before `task_specific_params`, and what comes after."""
        options = dict(self.options)
        if self.generation_config:
            named = _named(self.generation_config)
            is_copy = bool(self.generation_config.get("_from_model_config"))
            return (options, named) if is_copy else (_over(options, named), {})
        decoder = _without(self.config.get("decoder") or {}, _WRITTEN_OUT)
        return options, _over(_legacy(self.config), _legacy(decoder))

    @property
    def task_specific_params(self) -> Mapping[str, Names]:
        """The part of `config.json` of this name: parameters by task."""
        return self.config.get("task_specific_params") or {}


def read_defaults(
    files: CheckpointFiles, *, model_config: Any, vocab_size: int, max_target_len: int | None
) -> GenerationDefaults:
    """The defaults of a checkpoint, checked.

    Args:
        files: The checkpoint's own words.
        model_config: The loaded configuration: its classes know special tokens of their own.
        vocab_size: Logits of one step.
        max_target_len: Decoder positions; None where positions are relative.

    Raises:
        CheckpointError: A value makes no sense, or no token starts an answer.
    """
    _check_options(files, vocab_size)
    first, last = files.layers
    merged = _with_special_tokens(_over(first, last), model_config)
    by_task = {
        name: _over(first, _named(values), merged)
        for name, values in files.task_specific_params.items()
    }
    unserved = dict.fromkeys(
        name for values in (merged, *by_task.values()) for name in _unserved(values)
    )
    defaults = GenerationDefaults(
        values=_overrides(merged),
        task_values=tuple((name, _overrides(values)) for name, values in by_task.items()),
        decoder_start_token_id=_start_token(merged),
        pad_token_id=_pad_token(merged),
        vocab_size=vocab_size,
        max_target_len=max_target_len,
        unserved=tuple(unserved),
    )
    _check(defaults, files)
    return defaults


def _check_options(files: CheckpointFiles, vocab_size: int) -> None:
    """Check names, and the values that `resolve` does not see; it checks the others."""
    known = (*_SERVED, *_SPECIAL_TOKENS)
    for name, value in files.options.items():
        expected = None
        if name not in known:
            expected = _no_such(name, known)
        elif name in ("decoder_start_token_id", *_SPECIAL_TOKENS):
            is_id = isinstance(value, int) and not isinstance(value, bool)
            if not is_id or not 0 <= value < vocab_size:
                expected = f"a token id from 0 to {vocab_size - 1}"
        if expected is not None:
            raise CheckpointError(
                f"{files.options_name}: generation.{name} is {value!r}: expected {expected}"
            )


def _no_such(name: str, known: Sequence[str]) -> str:
    if name in NOT_SERVED:
        return f"none, it is not served: {NOT_SERVED[name]}"
    hint = did_you_mean(name, known) or f", one of {', '.join(sorted(known))}"
    return f"a generation parameter{hint}"


def _check(defaults: GenerationDefaults, files: CheckpointFiles) -> None:
    no_limits = GenerationLimits(max_num_beams=1 << 30, max_target_len=1 << 30)
    for name in ("", *(name for name, _ in defaults.task_values)):
        try:
            resolve(defaults.for_task(name), GenerationOverrides(), limits=no_limits)
        except InvalidParameterError as error:
            if error.field in files.options:
                raise CheckpointError(f"{files.options_name}: generation.{error}") from error
            where = f"task_specific_params of {name!r}" if name else "generation defaults"
            raise CheckpointError(f"the checkpoint's {where} cannot be served: {error}") from error


def _start_token(names: Names) -> int:
    for name in ("decoder_start_token_id", "bos_token_id"):
        token_id = names.get(name)
        if token_id is not None:
            return int(token_id)
    raise CheckpointError(
        "the checkpoint names no token that starts an answer: "
        "expected decoder_start_token_id or bos_token_id in its generation defaults, "
        "or in the generation settings of this checkpoint"
    )


def _pad_token(names: Names) -> int:
    """The pad token; EOS where there is none, as in transformers."""
    eos = names.get("eos_token_id")
    first_eos = eos[0] if isinstance(eos, list) and eos else eos
    for token_id in (names.get("pad_token_id"), first_eos):
        if isinstance(token_id, int):
            return token_id
    return 0


def _with_special_tokens(names: Names, model_config: Any) -> Names:
    decoder = model_config.get_text_config(decoder=True)
    wanted = ("decoder_start_token_id", "eos_token_id", *_SPECIAL_TOKENS)
    known = {
        name: value
        for name in wanted
        for config in (decoder, model_config)
        if (value := getattr(config, name, None)) is not None
    }
    return _over(names, known)


def _overrides(names: Names) -> GenerationOverrides:
    return GenerationOverrides(**{name: names[name] for name in _SERVED if name in names})


def _unserved(names: Names) -> list[str]:
    return [
        name
        for name, neutral in _UNSERVED.items()
        if names.get(name) is not None and names[name] not in neutral
    ]


def _legacy(config: Names) -> Names:
    names = _named(config)
    if config.get("force_bos_token_to_be_generated") and "bos_token_id" in names:
        return _over(names, {"forced_bos_token_id": names["bos_token_id"]})
    return names


def _named(values: Names) -> Names:
    wanted = (*_SERVED, *_SPECIAL_TOKENS, *_UNSERVED)
    return {name: values[name] for name in wanted if values.get(name) is not None}


def _without(values: Names, written_out: Names) -> Names:
    return {
        name: value
        for name, value in values.items()
        if name not in written_out or value != written_out[name]
    }


def _over(*layers: Names) -> Names:
    """Layers laid over each other, first on top; a length hides both ways of naming it below."""
    merged: dict[str, Any] = {}
    for layer in layers:
        hidden = {
            name
            for pair in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens"))
            if merged.keys() & set(pair)
            for name in pair
        }
        merged.update(
            (name, value)
            for name, value in layer.items()
            if name not in merged and name not in hidden
        )
    return merged
