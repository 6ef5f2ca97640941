"""The command `tandem verify`."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from app.cli_parts import (
    MODEL_FIELDS,
    decoded,
    one_checkpoint,
    plain_errors,
    read_settings,
    settings_options,
)

_logger = logging.getLogger(__name__)


@click.command()
@click.argument("checkpoint", callback=one_checkpoint)
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
@settings_options(MODEL_FIELDS)
def verify(
    checkpoint: str, texts: IO[bytes] | None, max_mismatch_rate: float, **flags: Any
) -> None:
    """Compare the answers of the server with those of generate(), for your own CHECKPOINT.

    Every text goes through generate() alone and through the engine with all others, in random
    order, each with its own random parameters. The exit status is 0 if all answers are equal, apart
    from near-ties that are shown, 1 if some differ, and 2 if the checkpoint cannot be verified.
    """
    with _never_status_1():
        of_settings = {name: flags.pop(name) for name in MODEL_FIELDS}
        settings = read_settings({**of_settings, **_serving(checkpoint, flags["num_sources"])})
        from app.logs import configure_logging
        from app.verification.command import run_verify
        from app.verification.requests import VerifyOptions

        configure_logging()
        lines = None if texts is None else list(decoded(texts, "--texts, "))
        with plain_errors():
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
