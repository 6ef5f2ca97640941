"""What the commands have in common: flags of settings, lines of text, errors in one line."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from pydantic import ValidationError

from app.settings import Settings, UnknownVariableError, default_text, variable
from model_core.errors import TandemError

Command = Callable[..., None]
FLAG_FIELDS = tuple(field for field in Settings.model_fields if field != "api_keys")
"""Settings that are flags: a list of processes shows the flags of all of them."""

MODEL_FIELDS = (
    "checkpoints_file",
    "device",
    "dtype",
    "allow_pickle",
    "trust_remote_code",
    "num_threads",
)
"""Settings of every command that loads a checkpoint."""


def settings_options(fields: Iterable[str]) -> Callable[[Command], Command]:
    """One flag for each of the settings; a flag left out leaves the setting to its variable."""

    def decorate(command: Command) -> Command:
        for field in reversed(list(fields)):
            command = _settings_option(field)(command)
        return command

    return decorate


def _settings_option(field: str) -> Callable[[Command], Command]:
    info = Settings.model_fields[field]
    flag = "--" + field.replace("_", "-")
    help_text = f"{info.description}  [{variable(field)}; default: {default_text(field)}]"
    if info.annotation is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", field, default=None, help=help_text)
    return click.option(flag, field, default=None, metavar="VALUE", help=help_text)


def read_settings(flags: dict[str, Any]) -> Settings:
    """The settings of a command; a flag that is None leaves the setting to its variable."""
    given = {field: value for field, value in flags.items() if value is not None}
    with plain_errors():
        return Settings.from_environment(**given)


def one_checkpoint(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """The checkpoint of an argument: settings take several with commas between them, or none."""
    names = [name.strip() for name in value.split(",") if name.strip()]
    if names == ["none"]:
        names = []
    if len(names) != 1:
        raise click.UsageError(
            f"CHECKPOINT is {value!r}: expected one checkpoint, found {len(names)}"
        )
    return names[0]


def decoded(lines: Iterable[bytes], name: str = "") -> Iterator[str]:
    """Lines of UTF-8, each with its end."""
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode("utf-8").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            byte = line[error.start]
            raise click.ClickException(
                f"{name}line {number}: expected UTF-8, found the byte 0x{byte:02x}"
            ) from error


@contextmanager
def plain_errors() -> Iterator[None]:
    """One line for the operator instead of a traceback."""
    try:
        yield
    except ValidationError as error:
        raise click.UsageError(_explain(error)) from error
    except (UnknownVariableError, TandemError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _explain(error: ValidationError) -> str:
    lines = []
    for each in error.errors(include_url=False):
        field = str(each["loc"][0]) if each["loc"] else ""
        name = variable(field) if field in Settings.model_fields else field
        value = f" is {each['input']!r}" if field and field != "api_keys" else ""
        message = each["msg"].removeprefix("Value error, ")
        lines.append(f"{name}{value}: {message}".removeprefix(": "))
    return "; ".join(lines)
