"""`tandem serve`, `tandem translate`, `tandem summarize`, `tandem verify` and `tandem plan`."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import click

from app.cli_parts import (
    FLAG_FIELDS,
    MODEL_FIELDS,
    Command,
    decoded,
    plain_errors,
    read_settings,
    settings_options,
)
from app.native_libraries import set_up_native_libraries
from app.planning.cli import plan
from app.settings import Settings
from app.signals import exit_on_signals
from app.verification.cli import verify

if TYPE_CHECKING:
    from app.schemas import Answer
    from app.service import TextService

set_up_native_libraries()  # before torch is imported, hence the late imports below

_T = TypeVar("_T")
_CHUNK = 64  # lines of a stream answered together: enough to fill a batch, few enough to print soon


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tandem-serve", prog_name="tandem")
def main() -> None:
    """Serve Hugging Face encoder-decoder checkpoints, or use them from the command line."""


main.add_command(verify)
main.add_command(plan)


@main.command()
@settings_options(FLAG_FIELDS)
def serve(**flags: Any) -> None:
    """Serve POST /translate and POST /summarize until SIGTERM."""
    exit_on_signals()  # importing torch takes seconds
    settings = read_settings(flags)
    from app.logs import configure_logging
    from app.server import serve as serve_until_signalled

    configure_logging(settings.log_format)
    with plain_errors():
        serve_until_signalled(settings, click.echo)


def _refuse_blank(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    if not text.strip():
        raise click.UsageError(
            f"TEXT is {text!r}: expected at least one character that is not blank"
        )
    return text


def _text_options(command: Command) -> Command:
    """What `translate` and `summarize` have in common."""
    command = settings_options(MODEL_FIELDS)(command)
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
    settings = read_settings({**flags, "summarize_model": "none"})
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
    settings = read_settings({**flags, "translate_model": "none"})
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

    with plain_errors():
        asyncio.run(run())


def _lines(text: str) -> Iterator[str]:
    """What to translate, line by line; a blank line is empty, and so is its translation."""
    lines = _standard_input() if text == "-" else [text]
    return (line.strip() for line in lines)


def _standard_input() -> Iterator[str]:
    return decoded(sys.stdin.buffer)


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
