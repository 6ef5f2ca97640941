"""Logging: one line per event on stderr; never a key, a client's address or a text of a request."""

import json
import logging.config
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from transformers.utils import logging as transformers_logging

# Made once: `json.dumps` with a `default` makes one for every line.
_encode = json.JSONEncoder(default=str).encode

LogFormat = Literal["json", "text"]


def configure_logging(log_format: LogFormat = "text") -> None:
    """Send every logger to stderr; libraries speak from WARNING on, and draw no bars."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"json": {"()": JsonLines}, "text": {"()": TextLines}},
            "handlers": {
                "stderr": {"class": "logging.StreamHandler", "formatter": log_format},
            },
            "root": {"handlers": ["stderr"], "level": "WARNING"},
            "loggers": {
                "app": {"level": "INFO"},
                "model_core": {"level": "INFO"},
                # These come with handlers of their own, which naming them here removes.
                "transformers": {"propagate": True},
                "huggingface_hub": {"propagate": True},
            },
        }
    )


def frames_of(error: BaseException) -> list[str]:
    """Where an exception and its causes were raised, without their messages."""
    frames: list[str] = []
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        frames.append(type(cause).__name__)
        frames += [
            f"{frame.filename}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(cause.__traceback__)
        ]
        cause = cause.__cause__ or cause.__context__
    return frames


class TextLines(logging.Formatter):
    """Time, level, logger, message, and the fields of the event behind it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the library's name
        """One line."""
        fields = [f"{name}={value}" for name, value in _fields_of(record).items()]
        return " ".join([super().formatMessage(record), *fields])


class JsonLines(logging.Formatter):
    """A JSON object for each event: `time`, `level`, `logger`, `message`, and its own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, in ASCII."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields_of(record),
        }
        if record.exc_info and record.exc_info[1]:
            line["traceback"] = self.formatException(record.exc_info)
        return _encode(line)


def _fields_of(record: logging.LogRecord) -> Mapping[str, Any]:
    """What the event says besides its message; nothing where there is nothing to say."""
    fields: Mapping[str, Any] = getattr(record, "fields", {})
    return {name: value for name, value in fields.items() if value is not None}
