"""The parameters that few requests use: each gives the tokens of `generate()`, and changes some."""

import copy
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model_core.checkpoint import load_checkpoint
from model_core.choose_runner import choose_runner
from model_core.fallback import GenerateRunner
from model_core.generation import GenerationParameters
from model_core.request import Output, Request
from model_core.runner import ModelRunner
from tests import tiny
from tests.lean import Lean, load_lean, random_parameters, random_source
from tests.parity import assert_same, generate_alone

NUM_SOURCES = 6

SINGLE: dict[str, dict[str, Any]] = {
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 3.0},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": (3, 0.5)},
    "begin_suppress_tokens": {"begin_suppress_tokens": tuple(range(40, 90))},
    "begin_suppress_tokens after a forced BOS": {
        "begin_suppress_tokens": tuple(range(40, 90)),
        "forced_bos_token_id": 50,
    },
    "sequence_bias": {"sequence_bias": (((20,), 8.0), ((20, 21), 9.0), ((20, 21, 22), 9.0))},
    "target_prefix_ids": {"target_prefix_ids": (11, 30, 12)},
    "a prefix, a minimum and a forced end": {
        "target_prefix_ids": (11, 30),
        "min_length": 10,
        "max_length": 14,
        "forced_eos_token_ids": (2,),
    },
    "decoder_start_token_id": {"decoder_start_token_id": 17},
    "do_sample": {"do_sample": True, "seed": 5},
    "temperature": {"do_sample": True, "seed": 5, "temperature": 2.5},
    "top_k": {"do_sample": True, "seed": 5, "top_k": 3},
    "top_p": {"do_sample": True, "seed": 5, "top_p": 0.5},
    "min_p": {"do_sample": True, "seed": 5, "min_p": 0.3},
    "top_h": {"do_sample": True, "seed": 5, "top_h": 0.4},
    "typical_p": {"do_sample": True, "seed": 5, "typical_p": 0.4},
    "epsilon_cutoff": {"do_sample": True, "seed": 5, "epsilon_cutoff": 0.1},
    "eta_cutoff": {"do_sample": True, "seed": 5, "eta_cutoff": 0.3},
    "drawn after a prefix": {"do_sample": True, "seed": 5, "target_prefix_ids": (11, 30)},
}
CHANGES_NOTHING_ALONE = {"remove_invalid_values": {"remove_invalid_values": True}}


def run(runner: ModelRunner, requests: list[Request], rng: random.Random) -> dict[Request, Output]:
    """Their outputs, when they come in random order at different steps."""
    waiting = rng.sample(requests, len(requests))
    outputs: dict[Request, Output] = {}
    while len(outputs) < len(requests):
        joining = [waiting.pop() for _ in range(min(len(waiting), rng.randint(0, 4)))]
        if joining:
            runner.admit(joining)
        outputs.update(runner.step().finished)
    return outputs


def requests_for(lean: Lean, parameters: GenerationParameters, rng: random.Random) -> list[Request]:
    return [
        Request(f"{number}", random_source(lean, rng, 20), parameters)
        for number in range(NUM_SOURCES)
    ]


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("name", [*SINGLE, *CHANGES_NOTHING_ALONE])
def test_a_parameter_gives_the_tokens_of_generate_among_companions(
    name: str, num_beams: int
) -> None:
    lean = load_lean("bart")
    rng = random.Random(name)
    several = 2 if num_beams > 1 else 1
    plain = replace(lean.defaults, num_beams=num_beams, num_return_sequences=several)
    parameters = replace(plain, **(SINGLE | CHANGES_NOTHING_ALONE)[name])
    requests = requests_for(lean, parameters, rng)
    companions = [
        Request("companion", random_source(lean, rng), random_parameters(lean, rng))
        for _ in range(6)
    ]
    outputs = run(lean.runner(), requests + companions, rng)

    changed = 0
    for request in requests:
        reference = generate_alone(lean.model, request.source_ids, parameters)
        assert_same(outputs[request], reference)
        without = generate_alone(lean.model, request.source_ids, plain)
        changed += reference.hypotheses != without.hypotheses
    assert changed or name in CHANGES_NOTHING_ALONE, "the parameter had no effect"


def test_equal_scores_are_ranked_the_same_beside_requests_with_more_candidates() -> None:
    lean = load_lean("bart")
    rng = random.Random(5)
    forced = replace(
        lean.defaults, num_beams=4, max_length=2, forced_eos_token_ids=(3, 4), eos_token_ids=(2,)
    )
    more = replace(lean.defaults, num_beams=4, eos_token_ids=(2, 7, 8))
    requests = requests_for(lean, forced, rng)
    outputs = run(lean.runner(), requests + requests_for(lean, more, rng), rng)
    for request in requests:
        reference = generate_alone(lean.model, request.source_ids, forced)
        assert outputs[request].hypotheses == reference.hypotheses


@pytest.mark.parametrize(
    "changed", [{}, {"num_beams": 3}, {"do_sample": True}, {"do_sample": True, "num_beams": 3}]
)
def test_a_request_without_a_finite_score_fails_alone_and_leaves_nothing_behind(
    changed: dict[str, Any],
) -> None:
    lean = load_lean("bert2bert")
    rng = random.Random(6)
    parameters = replace(lean.defaults, **changed)
    requests = requests_for(lean, parameters, rng)
    broken: Any = copy.deepcopy(lean.model)
    broken.encoder.embeddings.word_embeddings.weight.data[127] = torch.nan
    requests = [each for each in requests if 127 not in each.source_ids]
    runner = replace(lean, model=broken).runner()

    bad = Request("bad", (9, 127, 3), parameters)
    runner.admit([requests[0], bad])
    report = runner.step()
    assert report.failed == (bad,)
    # Its slot is taken by the next request.
    outputs = dict(report.finished)
    runner.admit(requests[1:])
    while len(outputs) < len(requests):
        outputs.update(runner.step().finished)
    for request in requests:
        assert_same(outputs[request], generate_alone(lean.model, request.source_ids, parameters))


def test_several_sequences_are_drawn_as_generate_draws_them() -> None:
    lean = load_lean("t5")
    rng = random.Random(3)
    parameters = replace(lean.defaults, do_sample=True, seed=9, num_return_sequences=4)
    requests = requests_for(lean, parameters, rng)
    outputs = run(lean.runner(), requests, rng)
    for request in requests:
        assert len({each.token_ids for each in outputs[request].hypotheses}) > 1
        assert_same(outputs[request], generate_alone(lean.model, request.source_ids, parameters))


def test_a_seed_gives_one_answer_in_any_batch_and_others_give_others() -> None:
    lean = load_lean("marian")
    source = random_source(lean, random.Random(1))

    def answers(seeds: list[int], batch: int) -> list[tuple[int, ...]]:
        drawn = replace(lean.defaults, do_sample=True)
        requests = [Request(f"{seed}", source, replace(drawn, seed=seed)) for seed in seeds]
        outputs = run(lean.runner(), requests, random.Random(batch))
        return [outputs[request].best.token_ids for request in requests]

    seeds = list(range(12))
    together = answers(seeds, batch=0)
    assert len(set(together)) == len(seeds)
    assert answers(seeds, batch=1) == together
    assert [answers([seed], batch=2)[0] for seed in seeds] == together


def test_tokens_are_drawn_with_the_processed_probabilities() -> None:
    lean = load_lean("bart")
    source = random_source(lean, random.Random(4))
    parameters = replace(
        lean.defaults, do_sample=True, temperature=1.5, top_k=8, top_p=0.9, max_length=2
    )
    num_draws = 2000
    requests = [Request("", source, replace(parameters, seed=seed)) for seed in range(num_draws)]
    outputs = run(lean.runner(encoder_cache_bytes=1 << 20), requests, random.Random(0))
    drawn = Counter(output.best.token_ids[0] for output in outputs.values())

    model: Any = lean.model
    result = model.generate(
        torch.tensor([source]),
        **parameters.generate_kwargs(),
        return_dict_in_generate=True,
        output_scores=True,
    )
    probabilities = result.scores[0].softmax(-1)[0]
    expected = {int(token): float(probabilities[token]) for token in probabilities.nonzero()}
    assert 3 <= len(expected) <= 8
    assert drawn.keys() <= expected.keys()
    for token, probability in expected.items():
        spread = (probability * (1 - probability) / num_draws) ** 0.5
        assert abs(drawn[token] / num_draws - probability) < 4 * spread


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("name", ["marian", "bart", "t5", "bert2bert", "prophetnet"])
def test_stop_strings_end_answers_as_in_generate(name: str, num_beams: int, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(tiny.build_tiny_checkpoint(name, tmp_path)))
    runner = choose_runner(checkpoint).runner
    defaults = checkpoint.defaults
    parameters = GenerationParameters(
        decoder_start_token_id=defaults.decoder_start_token_id,
        pad_token_id=defaults.pad_token_id,
        eos_token_ids=(2,),
        max_length=24,
        num_beams=num_beams,
        stop_strings=("e", "ar"),
        no_repeat_ngram_size=3,
    )
    sources = tiny.random_sources(NUM_SOURCES)
    requests = [Request(f"{source}", source, parameters) for source in sources]
    outputs = run(runner, requests, random.Random(0))
    reasons = []
    for request in requests:
        reference = generate_alone(
            checkpoint.model, request.source_ids, parameters, checkpoint.stop_strings
        )
        assert_same(outputs[request], reference)
        reasons.append(outputs[request].best.finish_reason)
    assert "stop_string" in reasons
    for output in outputs.values():
        text = checkpoint.target_tokenizer.decode(list(output.best.token_ids))
        has_stop = any(string in text for string in parameters.stop_strings)
        assert has_stop or output.best.finish_reason != "stop_string"


@pytest.mark.parametrize(
    "changed",
    [
        {"do_sample": True, "seed": 3},
        {"do_sample": True, "seed": 3, "num_return_sequences": 3},
        {"do_sample": True, "seed": 3, "num_beams": 2},
        {"target_prefix_ids": (11, 30), "num_beams": 2},
        {"target_prefix_ids": (11, 30), "sequence_bias": (((20,), 8.0),)},
        {"encoder_no_repeat_ngram_size": 1},
    ],
)
def test_generate_itself_serves_them_too(changed: dict[str, Any]) -> None:
    model = tiny.FALLBACK_ARCHITECTURES["prophetnet"]()
    parameters = GenerationParameters(
        decoder_start_token_id=2, pad_token_id=0, eos_token_ids=(3,), max_length=16
    )
    sources = tiny.random_sources(4)
    wanted = replace(parameters, **changed)
    requests = [Request(f"{source}", source, wanted) for source in sources]
    outputs = run(GenerateRunner(model, 0), requests, random.Random(0))
    for request in requests:
        assert_same(outputs[request], generate_alone(model, request.source_ids, wanted))
