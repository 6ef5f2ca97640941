"""What the operator sets: every field is a variable `TANDEM_*` and a flag of `tandem serve`."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.parameter_bounds import check_bounds, split_bounds
from model_core.spelling import did_you_mean

PREFIX = "TANDEM_"
SHIPPED = Path(__file__).parent / "checkpoints"
NO_FILE = "none"

_ORIGIN = re.compile(r"https?://[^/\s?#]+")

Names = Annotated[tuple[str, ...], NoDecode]


class UnknownVariableError(ValueError):
    """A variable with our prefix that is no setting: a typing error until shown otherwise."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"{name} is not a setting of Tandem{did_you_mean(name.upper(), known)}")


class Settings(BaseSettings):
    """Resolved once at start and passed down; units are in the names."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", validate_default=True
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")

    metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port of `/metrics`, without a key, at the same address; 0 serves it with the "
        "other routes, under a key where there are keys.",
    )
    api_keys: SecretStr | None = Field(
        None,
        description="`NAME:KEY` pairs, separated by commas, of those who may call; `none` lets "
        "everybody call. No flag: a list of processes would show it.",
    )
    api_keys_file: str = Field(
        NO_FILE,
        description="The same, a pair a line, from a file that is read again on SIGHUP.",
    )
    cors_origins: Names = Field(
        (),
        description="Origins, separated by commas, whose web pages may call, as "
        "`https://example.org`; `*` for all.",
    )
    log_format: Literal["json", "text"] = Field(
        "json", description="Lines of the log: a JSON object each, or text."
    )
    otlp_traces: bool = Field(
        False,
        description="Send OpenTelemetry traces by OTLP over HTTP, where the `OTEL_*` variables "
        "say; needs the extra `otel`.",
    )

    translate_model: Names = Field(
        ("translate-en-de",),
        description="Checkpoints of `/translate`, separated by commas and routed by language "
        "pair: a shipped name, a folder, or a Hub id with an optional `@revision`; `none` "
        "switches the endpoint off.",
    )
    summarize_model: Names = Field(
        ("summarize-en",),
        max_length=1,
        description="Checkpoint of `/summarize`, named in the same way; `none` switches the "
        "endpoint off.",
    )
    checkpoints_file: str = Field(
        "none",
        description="TOML file with settings of single checkpoints, described in "
        "docs/checkpoints.md; `none` if none needs any.",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="`auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = Field(
        "auto",
        description="`auto` (float32 on a CPU; on CUDA that of the file, if it is half precision), "
        "`float32`, `bfloat16`, `float16` or, on a CPU, `int8`. The tokens are those of "
        "`generate()` in float32.",
    )
    allow_pickle: bool = Field(
        False, description="Load weights that are pickles too: they can run any code."
    )
    trust_remote_code: bool = Field(
        False, description="Run the Python code that comes with a checkpoint."
    )
    num_threads: int = Field(
        0,
        ge=0,
        description="Threads of torch on a CPU, of all workers together; 0 leaves the choice to "
        "torch.",
    )
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="Processes that decode on a CPU, each with a copy of the weights; 0 decodes in "
        "the server's own. `auto`: 2, or 1 where there is a single thread or little memory; 0 on "
        "CUDA.",
    )

    max_running_requests: int = Field(
        128, ge=1, description="Requests decoded together, per model and worker."
    )
    max_waiting_requests: int = Field(
        512, ge=1, description="Requests that may wait, per model; beyond: 503."
    )
    max_waiting_tokens: int = Field(
        131_072, ge=1, description="Source tokens that may wait, per model; beyond: 503."
    )
    max_encode_tokens: int = Field(
        4096,
        ge=1,
        description="Source tokens encoded between two steps; more than that is faster on a GPU, "
        "16384 say.",
    )
    max_cache_bytes: int = Field(
        2 * 1024**3,
        ge=1,
        description="Memory for the attention caches, per model and worker, on a CPU.",
    )
    cuda_memory_fraction: float = Field(
        0.8,
        gt=0,
        le=1,
        description="Share of a GPU's memory, of what the weights leave free, that the attention "
        "caches of all models get when the server starts; the rest is for everything else.",
    )
    encoder_cache_bytes: int = Field(
        64 * 1024**2,
        ge=0,
        description="Memory for encoder outputs of recent sources, per model and worker; 0 keeps "
        "none.",
    )
    max_num_beams: int = Field(16, ge=1, description="Largest `num_beams` of a request.")
    max_source_tokens: int = Field(
        4096, ge=1, description="Largest source of a request, where its checkpoint takes so many."
    )
    max_target_tokens: int = Field(
        1024, ge=2, description="Largest `max_length` or `max_new_tokens` of a request."
    )
    parameter_bounds: Annotated[dict[str, float], NoDecode] = Field(
        {},
        description="Tighter upper bounds of further parameters, as `top_k=100,stop_strings=2`: "
        "the largest value, or number of entries, of a request; `do_sample=0` forbids drawing.",
    )
    max_texts_per_request: int = Field(
        1000, ge=1, description="Texts in one call with a list; beyond: 422."
    )
    max_text_chars: int = Field(
        1_000_000, ge=1, description="Characters of a text or of a `target_prefix`; beyond: 422."
    )
    max_header_bytes: int = Field(
        16_384, ge=1024, description="Size of a request's line and headers; beyond: 431."
    )
    max_json_depth: int = Field(
        16, ge=6, le=200, description="Objects and arrays inside each other in a body; beyond: 400."
    )
    max_body_bytes: int = Field(
        4 * 1024**2, ge=1, description="Size of a request body; beyond: 413."
    )
    default_timeout_s: float = Field(
        60.0, gt=0, description="Time for a call that names no `timeout_s`; then: 504."
    )
    max_timeout_s: float = Field(600.0, gt=0, description="Largest `timeout_s` of a call.")
    quota_texts_per_minute: int = Field(
        0, ge=0, description="Texts that one client may send within a minute; beyond: 429. 0: any."
    )
    receive_s: float = Field(
        30.0,
        gt=0,
        description="Time for the head of a request, and again for its body, to come; then: 408.",
    )
    send_s: float = Field(
        30.0, gt=0, description="Time for a client to read its answer; then it is cut off."
    )
    keep_alive_s: int = Field(
        75, ge=1, description="Time that an idle connection is kept; longer than a proxy keeps it."
    )
    stuck_s: float = Field(
        120.0,
        gt=0,
        description="Time after which one decoder step counts as stuck: `/health` fails.",
    )
    lame_duck_s: float = Field(
        5.0,
        ge=0,
        description="Time after SIGTERM in which `/ready` fails while calls are still taken.",
    )
    drain_s: float = Field(
        30.0, ge=0, description="Time for calls in flight to finish after that; beyond: 503."
    )

    @field_validator("translate_model", "summarize_model", "cors_origins", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        names = tuple(name.strip() for name in value.split(",") if name.strip())
        return () if names == ("none",) else names

    @field_validator("workers", mode="before")
    @classmethod
    def _check_workers(cls, value: object) -> object:
        if value != "auto" and not str(value).isdecimal():
            raise ValueError("expected a number of processes, 0 or more, or auto")
        return value

    @field_validator("api_keys", mode="before")
    @classmethod
    def _read_none(cls, value: object) -> object:
        return None if value == "none" else value

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin} is no origin: expected https://HOST, without a path")
        return origins

    @field_validator("parameter_bounds", mode="before")
    @classmethod
    def _read_bounds(cls, value: object) -> object:
        if isinstance(value, str):
            value = {} if value.strip() == "none" else split_bounds(value)
        return check_bounds(value) if isinstance(value, dict) else value

    @field_validator("translate_model", "summarize_model")
    @classmethod
    def _refuse_duplicates(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("a checkpoint is named twice")
        return names

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if not self.translate_model and not self.summarize_model:
            raise ValueError("translate_model and summarize_model are both none: nothing to serve")
        if self.default_timeout_s > self.max_timeout_s:
            raise ValueError(
                f"default_timeout_s is {self.default_timeout_s}: "
                f"expected at most max_timeout_s, {self.max_timeout_s}"
            )
        return self

    @classmethod
    def from_environment(cls, **flags: Any) -> Self:
        """Settings of this process: flags first, then `TANDEM_*` variables, then defaults.

        Raises:
            UnknownVariableError: A variable has our prefix and is no setting.
            pydantic.ValidationError: A value is out of its bounds.
        """
        refuse_unknown_variables(os.environ)
        return cls(**flags)


def variable(field: str) -> str:
    """Name of the environment variable of a field."""
    return PREFIX + field.upper()


def default_text(field: str) -> str:
    """Default of a field as an operator would write it."""
    default = Settings.model_fields[field].default
    if isinstance(default, tuple) and default:
        return ",".join(default)
    if default in ((), {}, None):
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    return str(default)


def refuse_unknown_variables(names: Iterable[str]) -> None:
    """pydantic-settings passes over misspelt variables of our prefix; an operator must not."""
    known = [variable(field) for field in Settings.model_fields]
    for name in sorted(names):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            raise UnknownVariableError(name, known)
