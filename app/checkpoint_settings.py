"""Settings of single checkpoints: a TOML file with a table for each that needs some.

docs/checkpoints.md has entries for well-known checkpoints, and tests that read them.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from app.settings import NO_FILE
from model_core.checkpoint import CheckpointOptions
from model_core.errors import TandemError
from model_core.spelling import did_you_mean

_SET_BY_THE_SERVER = ("local_files_only", "revision", "trust_remote_code")


class CheckpointSettingsError(TandemError):
    """The file of checkpoint settings is wrong: names file, checkpoint, key and value."""


class CheckpointSettings(BaseModel):
    """What the operator says of one checkpoint that its files do not."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    revision: str | None = Field(
        None, min_length=1, description="Branch, tag or commit on the Hub."
    )
    allow_pickle: bool | None = Field(
        None, description="`TANDEM_ALLOW_PICKLE` for this checkpoint alone."
    )
    tie_encoder_decoder: bool | None = Field(
        None,
        description="Whether the decoder shares the encoder's weights, in an "
        "`EncoderDecoderModel`; left out: as `config.json` says.",
    )
    tokenizer_name: str | None = Field(
        None, min_length=1, description="Folder or Hub id of the tokenizer, if it is elsewhere."
    )
    target_tokenizer_name: str | None = Field(
        None,
        min_length=1,
        description="Folder or Hub id of the tokenizer of the answers, if it is another one.",
    )
    tokenizer: dict[str, str | int | float | bool] = Field(
        {}, description="Keyword arguments for `AutoTokenizer.from_pretrained`."
    )
    add_special_tokens: bool = Field(
        True, description="Whether the tokenizer adds its special tokens to a source."
    )
    source_lang: str | None = Field(
        None, min_length=1, description="Language of the sources, if the files do not say."
    )
    target_lang: str | None = Field(
        None, min_length=1, description="Language of the answers; one goes with the other."
    )
    generation: dict[str, Any] = Field(
        {}, description="Generation defaults that go before the checkpoint's own."
    )
    global_attention: Literal["none", "first"] = Field(
        "none",
        description="LED: `first` lets the first source token attend to all others, and they to "
        "it, as its model cards do; `none` is what `generate()` does by itself.",
    )

    @field_validator("tokenizer")
    @classmethod
    def _leave_to_the_server(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        for name in _SET_BY_THE_SERVER:
            if name in arguments:
                raise ValueError(f"expected no {name}: the server sets it")
        return arguments

    @model_validator(mode="after")
    def _check_languages(self) -> Self:
        if (self.source_lang is None) != (self.target_lang is None):
            raise ValueError("expected source_lang and target_lang together, found one of them")
        return self

    def options(self, base: CheckpointOptions, file: str) -> CheckpointOptions:
        """These settings, written in a file, over the server's."""
        languages = None
        if self.source_lang is not None and self.target_lang is not None:
            languages = (self.source_lang, self.target_lang)
        return replace(
            base,
            revision=self.revision,
            allow_pickle=base.allow_pickle if self.allow_pickle is None else self.allow_pickle,
            tie_encoder_decoder=self.tie_encoder_decoder,
            tokenizer_name=self.tokenizer_name,
            target_tokenizer_name=self.target_tokenizer_name,
            tokenizer=self.tokenizer,
            add_special_tokens=self.add_special_tokens,
            languages=languages,
            generation=self.generation,
            generation_from=file,
            global_attention=self.global_attention,
        )


def read_checkpoint_settings(file: str) -> dict[str, CheckpointSettings]:
    """Settings by `key_of` a checkpoint; none where `file` is `none`.

    Raises:
        CheckpointSettingsError: The file cannot be read, or something in it is wrong.
    """
    if file == NO_FILE:
        return {}
    try:
        tables = tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CheckpointSettingsError(f"{file}: expected a TOML file, found: {error}") from error
    settings: dict[str, CheckpointSettings] = {}
    for name, table in tables.items():
        if key_of(name) in settings:
            raise CheckpointSettingsError(f'{file}: ["{name}"] is there twice, with and without /')
        settings[key_of(name)] = _checkpoint_settings(file, name, table)
    return settings


def key_of(name: str) -> str:
    """What a checkpoint is called here: a folder is the same one with a slash at its end."""
    return name.rstrip("/") or name


def check_names(
    file: str, settings: Mapping[str, CheckpointSettings], served: Iterable[str]
) -> None:
    """Refuse settings of a checkpoint that nobody serves: a typing error until shown otherwise.

    Raises:
        CheckpointSettingsError: There are some, or a revision is named twice.
    """
    known = tuple(key_of(name) for name in served)
    for name, each in settings.items():
        if name not in known:
            raise CheckpointSettingsError(
                f'{file}: ["{name}"] is no checkpoint that is served: '
                f"expected one of {', '.join(known)}{did_you_mean(name, known)}"
            )
        if each.revision is not None and "@" in name and not Path(name).is_dir():
            raise CheckpointSettingsError(
                f'{file}: ["{name}"] revision is {each.revision!r}: '
                "expected none, since the name has one"
            )


def _checkpoint_settings(file: str, name: str, table: object) -> CheckpointSettings:
    if not isinstance(table, dict):
        raise CheckpointSettingsError(
            f'{file}: {name} is {table!r}: expected a table, ["{name}"], for each checkpoint'
        )
    try:
        return CheckpointSettings(**table)
    except ValidationError as error:
        lines = "; ".join(_line(each) for each in error.errors(include_url=False))
        raise CheckpointSettingsError(f'{file}: ["{name}"] {lines}') from error


def _line(error: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = CheckpointSettings.model_fields
        hint = did_you_mean(key, known) or f", one of {', '.join(known)}"
        return f"{key} is {error['input']!r}: expected a key of the list{hint}"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{key} is {error['input']!r}: {message}" if key else message
