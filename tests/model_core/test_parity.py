"""The promise: the tokens of `generate()`, whatever else is in the batch."""

import random
from dataclasses import replace
from typing import Any

import pytest

from model_core.engine import Engine
from model_core.request import Output, Request
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


@pytest.mark.parametrize("setting", list(SETTINGS))
def test_engine_gives_the_tokens_of_generate_among_random_companions(
    lean: Lean, setting: str
) -> None:
    rng = random.Random(setting)
    parameters = replace(lean.defaults, **SETTINGS[setting])
    eos = lean.defaults.eos_token_ids[0]
    sources = [tuple(source) for source in tiny.random_sources(8, eos=eos)]
    work = [(source, parameters) for source in sources]
    work += [(random_source(lean, rng), random_parameters(lean, rng)) for _ in range(12)]
    rng.shuffle(work)

    limits = EngineLimits(max_running_requests=9, max_encode_tokens=120)
    engine = Engine({"tiny": lean.runner()}, limits)
    futures = {}
    for source_ids, wanted in work:
        futures[source_ids, wanted] = engine.submit("tiny", source_ids, wanted)
        for _ in range(rng.randint(0, 3)):
            engine.step()
    while engine.step():
        pass

    outputs = {source: futures[source, parameters].result(timeout=0) for source in sources}
    answers = {output.best.token_ids for output in outputs.values()}
    assert len(answers) > len(sources) // 2, "answers do not depend on their source"
    for source_ids, output in outputs.items():
        assert_same(output, generate_alone(lean.model, source_ids, parameters))


def test_every_mixture_of_parameters_shares_a_batch(lean: Lean) -> None:
    rng = random.Random(7)
    requests = [
        Request(str(number), random_source(lean, rng), random_parameters(lean, rng))
        for number in range(24)
    ]
    runner = lean.runner(encoder_cache_bytes=4096)
    waiting = list(requests)
    outputs: dict[Request, Output] = {}
    while len(outputs) < len(requests):
        joining = [waiting.pop() for _ in range(min(len(waiting), rng.randint(0, 4)))]
        if joining:
            runner.admit(joining)
        outputs.update(runner.step().finished)

    for request in requests:
        reference = generate_alone(lean.model, request.source_ids, request.parameters)
        output = outputs[request]
        found = len(output.hypotheses)
        # Where the search found fewer hypotheses than asked for, transformers fills up with rows
        # that never finished; we leave them out.
        reference.token_ids[found:] = []
        assert all(score < -1e6 for score in reference.scores[found:])
        reference.scores[found:] = []
        assert_same(output, reference)
