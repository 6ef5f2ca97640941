"""Logging: one line per event on stderr; never a text of a request."""

import logging.config

from transformers.utils import logging as transformers_logging


def configure_logging() -> None:
    """Send every logger to stderr; libraries speak from WARNING on, and draw no bars."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"},
            },
            "handlers": {
                "stderr": {"class": "logging.StreamHandler", "formatter": "line"},
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
