"""`tandem serve`, `tandem translate`, `tandem summarize` and `tandem verify`."""

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click
from pydantic import ValidationError

from app.settings import Settings, UnknownVariableError, default_text, variable
from model_core.errors import TandemError

if TYPE_CHECKING:
    from app.schemas import Answer
    from app.service import TextService

# Before torch is imported, hence the late imports below: threads that wait actively take the
# cores from the event loop and from every neighbour.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_Command = Callable[..., None]
_CHUNK = 64  # lines of a stream answered together: enough to fill a batch, few enough to print soon
_MODEL_FIELDS = (
    "checkpoints_file",
    "device",
    "dtype",
    "allow_pickle",
    "trust_remote_code",
    "num_threads",
)


def settings_options(fields: Iterable[str]) -> Callable[[_Command], _Command]:
    """One flag for each of the settings; a flag left out leaves the setting to its variable."""

    def decorate(command: _Command) -> _Command:
        for field in reversed(list(fields)):
            command = _settings_option(field)(command)
        return command

    return decorate


def _settings_option(field: str) -> Callable[[_Command], _Command]:
    info = Settings.model_fields[field]
    flag = "--" + field.replace("_", "-")
    help_text = f"{info.description}  [{variable(field)}; default: {default_text(field)}]"
    if info.annotation is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", field, default=None, help=help_text)
    return click.option(flag, field, default=None, metavar="VALUE", help=help_text)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tandem-serve", prog_name="tandem")
def main() -> None:
    """Serve Hugging Face encoder-decoder checkpoints, or use them from the command line."""


@main.command()
@settings_options(Settings.model_fields)
def serve(**flags: Any) -> None:
    """Serve POST /translate and POST /summarize until SIGTERM."""
    settings = _settings(flags)
    from app.logs import configure_logging
    from app.server import serve as serve_until_signalled

    configure_logging()
    with _plain_errors():
        serve_until_signalled(settings, click.echo)


def _refuse_blank(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    if not text.strip():
        raise click.UsageError(
            f"TEXT is {text!r}: expected at least one character that is not blank"
        )
    return text


def _text_options(command: _Command) -> _Command:
    """What `translate` and `summarize` have in common."""
    command = settings_options(_MODEL_FIELDS)(command)
    command = click.option(
        "--truncate", is_flag=True, help="Cut what is too long instead of failing."
    )(command)
    command = click.option("--num-beams", type=int, help="Left out: what the checkpoint says.")(
        command
    )
    return click.argument("text", metavar="TEXT|-", callback=_refuse_blank)(command)


@main.command()
@_text_options
@click.option("--source-lang", help="May be left out where there is no choice.")
@click.option("--target-lang", help="May be left out where there is no choice.")
@settings_options(["translate_model"])
def translate(
    text: str,
    num_beams: int | None,
    truncate: bool,
    source_lang: str | None,
    target_lang: str | None,
    **flags: Any,
) -> None:
    """Translate TEXT, or with - every line of standard input; an empty line stays one."""
    settings = _settings({**flags, "summarize_model": "none"})
    from app.schemas import Parameters, TranslateRequest

    async def work(service: "TextService") -> None:
        async def translations(texts: list[str]) -> Iterator["Answer"]:
            body = TranslateRequest(
                text=texts,
                source_lang=source_lang,
                target_lang=target_lang,
                parameters=Parameters(num_beams=num_beams),
                overflow="truncate" if truncate else "error",
                timeout_s=settings.max_timeout_s,
            )
            response = await service.translate(body)
            return iter(response.translations)

        most = min(_CHUNK, settings.max_texts_per_request)
        for lines in _chunks(enumerate(_lines(text), start=1), most):
            numbers = [number for number, line in lines if line]
            with _numbered(numbers, of_many=text == "-"):
                texts = [line for _, line in lines if line]
                answers = await translations(texts) if texts else iter(())
            for number, line in lines:
                _print_answer(next(answers) if line else None, f"line {number}")

    _with_service(settings, work)


@main.command()
@_text_options
@click.option("--max-length", type=int, help="Most tokens of the summary.")
@settings_options(["summarize_model"])
def summarize(
    text: str, num_beams: int | None, truncate: bool, max_length: int | None, **flags: Any
) -> None:
    """Summarize TEXT, or with - all of standard input."""
    settings = _settings({**flags, "translate_model": "none"})
    from app.schemas import Parameters, SummarizeRequest

    async def work(service: "TextService") -> None:
        body = SummarizeRequest(
            text="".join(_standard_input()) if text == "-" else text,
            parameters=Parameters(num_beams=num_beams, max_length=max_length),
            overflow="truncate" if truncate else "error",
            timeout_s=settings.max_timeout_s,
        )
        response = await service.summarize(body)
        _print_answer(response.summaries[0], "the text")

    _with_service(settings, work)


def _one_checkpoint(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Settings take several checkpoints with commas between them, or none."""
    names = [name.strip() for name in value.split(",") if name.strip()]
    if names == ["none"]:
        names = []
    if len(names) != 1:
        raise click.UsageError(
            f"CHECKPOINT is {value!r}: expected one checkpoint, found {len(names)}"
        )
    return names[0]


@main.command()
@click.argument("checkpoint", callback=_one_checkpoint)
@click.option("--texts", type=click.File("rb"), help="One text a line, UTF-8; - for stdin.")
@click.option("--num-sources", type=click.IntRange(1), default=100, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Draws all that is random.")
@click.option("--max-beams", type=click.IntRange(1), default=5, show_default=True)
@click.option("--max-new-tokens", type=click.IntRange(1), help="Of every answer.")
@click.option(
    "--task",
    type=click.Choice(["translate", "summarize"]),
    help="Left out: summarize for a checkpoint that says it is made for it, else translate.",
)
@click.option("--source-lang", help="Of the texts; may be left out where there is no choice.")
@click.option("--target-lang", help="Of the answers; may be left out where there is no choice.")
@click.option(
    "--max-mismatch-rate",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Part of the answers that may differ, for half precision and accelerators.",
)
@settings_options(_MODEL_FIELDS)
def verify(
    checkpoint: str, texts: IO[bytes] | None, max_mismatch_rate: float, **flags: Any
) -> None:
    """Compare the answers of the server with those of generate(), for your own CHECKPOINT.

    Every text goes through generate() alone and through the engine with all others, in random
    order, each with its own random parameters. The exit status is 0 if all answers are equal, apart
    from near-ties that are shown, 1 if some differ, and 2 if the checkpoint cannot be verified.
    """
    with _never_status_1():
        of_settings = {name: flags.pop(name) for name in _MODEL_FIELDS}
        settings = _settings({**of_settings, **_serving(checkpoint, flags["num_sources"])})
        from app.logs import configure_logging
        from app.verification.command import run_verify
        from app.verification.requests import VerifyOptions

        configure_logging()
        lines = None if texts is None else list(_decoded(texts, "--texts, "))
        with _plain_errors():
            passed = run_verify(settings, VerifyOptions(texts=lines, **flags), max_mismatch_rate)
    sys.exit(0 if passed else 1)


@contextmanager
def _never_status_1() -> Iterator[None]:
    """Status 1 says that answers differ; what keeps a verdict from being found has another."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.UsageError:
        raise
    except click.ClickException as error:
        raise _Unverifiable(error.message) from error
    except Exception as error:
        _logger.exception("the checkpoint could not be verified")
        raise _Unverifiable(f"unexpected {type(error).__name__}: {error}") from error


class _Unverifiable(click.ClickException):
    """No verdict."""

    exit_code = 2


def _serving(checkpoint: str, num_sources: int) -> dict[str, Any]:
    """Settings that serve one checkpoint and let all its requests wait together."""
    return {
        "translate_model": checkpoint,  # whatever its task: only routing would ask
        "summarize_model": "none",
        "max_waiting_requests": num_sources,
        "max_waiting_tokens": 2**31,
    }


def _settings(flags: dict[str, Any]) -> Settings:
    given = {field: value for field, value in flags.items() if value is not None}
    with _plain_errors():
        return Settings.from_environment(**given)


def _with_service(settings: Settings, work: Callable[["TextService"], Awaitable[None]]) -> None:
    from app.logs import configure_logging
    from app.opening import open_service

    configure_logging()

    async def run() -> None:
        service = open_service(settings, is_partial=True)
        service.start()
        try:
            await work(service)
        finally:
            await service.close()

    with _plain_errors():
        asyncio.run(run())


def _lines(text: str) -> Iterator[str]:
    """What to translate, line by line; a blank line is empty, and so is its translation."""
    lines = _standard_input() if text == "-" else [text]
    return (line.strip() for line in lines)


def _standard_input() -> Iterator[str]:
    return _decoded(sys.stdin.buffer)


def _decoded(lines: Iterable[bytes], name: str = "") -> Iterator[str]:
    """Lines of UTF-8, each with its end."""
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode("utf-8").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            byte = line[error.start]
            raise click.ClickException(
                f"{name}line {number}: expected UTF-8, found the byte 0x{byte:02x}"
            ) from error


def _chunks(lines: Iterator[_T], most: int) -> Iterator[list[_T]]:
    while chunk := list(islice(lines, most)):
        yield chunk


def _print_answer(answer: "Answer | None", name: str) -> None:
    click.echo("" if answer is None else answer.text)
    if answer is not None and answer.truncated:
        click.echo(f"{name} was cut after {answer.source_tokens} tokens", err=True)


@contextmanager
def _numbered(numbers: list[int], *, of_many: bool) -> Iterator[None]:
    """Name the line at fault, not its place in a call."""
    from app.errors import TextError

    try:
        yield
    except TextError as error:
        name = f"line {numbers[error.index]}: " if of_many else ""
        raise click.ClickException(f"{name}{error.cause}") from error


@contextmanager
def _plain_errors() -> Iterator[None]:
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
        value = f" is {each['input']!r}" if field else ""
        message = each["msg"].removeprefix("Value error, ")
        lines.append(f"{name}{value}: {message}".removeprefix(": "))
    return "; ".join(lines)
