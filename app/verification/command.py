"""Loads a checkpoint, verifies it, and prints what came of it."""

import logging
import random
import sys
from dataclasses import replace

import click

from app.opening import open_service
from app.settings import Settings
from app.verification.report import describe, has_passed
from app.verification.requests import Requests, VerifyOptions, draw_requests
from model_core.models import ServedModel
from model_core.verification.run import Report, verify


def run_verify(settings: Settings, options: VerifyOptions, max_mismatch_rate: float) -> bool:
    """Verify the one checkpoint of the settings, and print what came of it.

    Returns:
        Whether no larger part of the answers differs than `max_mismatch_rate`.

    Raises:
        TandemError: The checkpoint cannot be loaded, or does not take the requests.
    """
    # Every request that names no beams would be told that a length penalty has no effect.
    logging.getLogger("transformers.generation").setLevel(logging.ERROR)
    routing = open_service(settings, is_partial=True).routing
    (model,) = routing.models
    # Draws requests, no secrets, and draws them again.
    rng = random.Random(options.seed)  # nosec B311
    max_beams = min(options.max_beams, settings.max_num_beams)
    requests = draw_requests(model, replace(options, max_beams=max_beams), rng)
    routing.start()
    try:
        report = _verify(model, requests, rng)
    finally:
        routing.close()
    for line in describe(model, requests, report, max_mismatch_rate):
        click.echo(line)
    return has_passed(report, max_mismatch_rate)


def _verify(model: ServedModel, requests: Requests, rng: random.Random) -> Report:
    with click.progressbar(
        length=2 * len(requests.sources),
        label="Verifying",
        item_show_func=lambda stage: stage,
        file=sys.stderr,
    ) as bar:
        return verify(model, requests.sources, rng, lambda stage: bar.update(1, stage))
