"""The promise for every architecture: the tokens of `generate()`, whatever else is in the batch.

What comes in what order, with which parameters, is drawn more widely in `tests/properties`.
"""

import random
from dataclasses import replace
from typing import Any

import pytest

from model_core.engine import Engine
from model_core.scheduler import EngineLimits
from tests import tiny
from tests.lean import Lean, load_lean, random_parameters, random_source
from tests.parity import assert_same, generate_alone

SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beam": {"num_beams": 4},
    "beam-long": {
        "num_beams": 4,
        "length_penalty": 2.0,
        "early_stopping": True,
        "no_repeat_ngram_size": 3,
        "min_length": 8,
        "num_return_sequences": 4,
    },
    "beam-short": {
        "num_beams": 4,
        "length_penalty": 0.6,
        "early_stopping": "never",
        "repetition_penalty": 1.2,
        "max_length": 24,
        "num_return_sequences": 2,
    },
}


@pytest.fixture(params=list(tiny.LEAN_ARCHITECTURES))
def lean(request: pytest.FixtureRequest) -> Lean:
    return load_lean(request.param)


def test_engine_gives_the_tokens_of_generate_among_random_companions(lean: Lean) -> None:
    rng = random.Random(7)
    eos = lean.defaults.eos_token_ids[0]
    sources = tiny.random_sources(3, eos=eos)
    work = [
        (tuple(source), replace(lean.defaults, **setting))
        for source in sources
        for setting in SETTINGS.values()
    ]
    work += [(random_source(lean, rng), random_parameters(lean, rng)) for _ in range(8)]
    rng.shuffle(work)

    limits = EngineLimits(max_running_requests=9, max_encode_tokens=120)
    engine = Engine({"tiny": lean.runner(encoder_cache_bytes=4096)}, limits)
    futures = {}
    for source_ids, wanted in work:
        futures[source_ids, wanted] = engine.submit("tiny", source_ids, wanted)
        for _ in range(rng.randint(0, 3)):
            engine.step()
    while engine.step():
        pass

    answers = {}
    for (source_ids, wanted), future in futures.items():
        output = future.result(timeout=0)
        answers[source_ids, wanted] = output.best.token_ids
        assert_same(output, generate_alone(lean.model, source_ids, wanted))
    for setting in SETTINGS.values():
        wanted = replace(lean.defaults, **setting)
        own = {answers[tuple(source), wanted] for source in sources}
        assert len(own) > 1, "answers do not depend on their source"
