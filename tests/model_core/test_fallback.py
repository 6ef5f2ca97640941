from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from model_core.batching import may_pad, shares_experts
from model_core.engine import Engine
from model_core.fallback import MAX_BATCH_SIZE, GenerateRunner
from model_core.generation import GenerationParameters
from model_core.request import Output, Request, RequestStatus, finish_reason
from model_core.scheduler import EngineLimits
from tests.model_core.fakes import Clock
from tests.parity import assert_same, generate_alone
from tests.tiny import FALLBACK_ARCHITECTURES, TINY_ARCHITECTURES, answer_of, random_sources

SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy with processors": {
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2,
        "length_penalty": 0.7,
    },
    "beams": {"num_beams": 4, "num_return_sequences": 2},
    "beams, short": {
        "num_beams": 4,
        "length_penalty": 0.3,
        "early_stopping": True,
        "min_length": 5,
        "max_length": 12,
    },
    "beams, long": {"num_beams": 3, "length_penalty": 2.0, "early_stopping": "never"},
}


@pytest.fixture(scope="module", params=["prophetnet", "t5"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return TINY_ARCHITECTURES[request.param]()


def parameters_of(model: PreTrainedModel, **overrides: Any) -> GenerationParameters:
    defaults = model.generation_config
    assert defaults is not None
    eos = defaults.eos_token_id
    values: dict[str, Any] = {
        "decoder_start_token_id": defaults.decoder_start_token_id,
        "pad_token_id": defaults.pad_token_id,
        "eos_token_ids": tuple(eos) if isinstance(eos, list) else (eos,),
        "max_length": 24,
    }
    return GenerationParameters(**values | overrides)


def generated_alone(model: PreTrainedModel, request: Request) -> Any:
    return model.generate(  # type: ignore[operator]
        input_ids=torch.tensor([request.source_ids]),
        attention_mask=torch.ones(1, request.source_len, dtype=torch.long),
        **request.parameters.generate_kwargs(),
        return_dict_in_generate=True,
        output_scores=True,
    )


def requests_for(parameters: GenerationParameters, num: int) -> list[Request]:
    (eos, *_) = parameters.eos_token_ids
    sources = random_sources(num, min_len=5, max_len=9, eos=eos)
    return [Request(f"r{i}", source, parameters) for i, source in enumerate(sources)]


def run(runner: GenerateRunner, requests: list[Request]) -> dict[Request, Output]:
    runner.admit(requests)
    outputs: dict[Request, Output] = {}
    while report := runner.step().finished:
        outputs.update(report)
    return outputs


@pytest.mark.parametrize("is_padding_invariant", [False, True])
@pytest.mark.parametrize("search", SEARCHES)
def test_micro_batches_give_what_generate_gives_one_by_one(
    model: PreTrainedModel, search: str, is_padding_invariant: bool
) -> None:
    parameters = parameters_of(model, **SEARCHES[search])
    runner = GenerateRunner(
        model, parameters.pad_token_id, is_padding_invariant=is_padding_invariant
    )
    requests = requests_for(parameters, 8)
    outputs = run(runner, requests)
    for request in requests:
        expected = generated_alone(model, request)
        answers = [answer_of(row, parameters.eos_token_ids) for row in expected.sequences.tolist()]
        hypotheses = outputs[request].hypotheses
        assert [each.token_ids for each in hypotheses] == answers
        assert [each.score for each in hypotheses] == pytest.approx(
            scores_of(model, expected, answers, parameters), abs=1e-4
        )
        for each in hypotheses:
            assert each.finish_reason == finish_reason(each.token_ids, parameters)
    if search == "greedy":
        tokens = {outputs[request].best.token_ids for request in requests}
        assert len(tokens) >= len(requests) // 2, "answers too alike to prove anything"
        assert len({len(token_ids) for token_ids in tokens}) >= 3, tokens


def scores_of(
    model: PreTrainedModel,
    expected: Any,
    answers: list[tuple[int, ...]],
    parameters: GenerationParameters,
) -> list[float]:
    if parameters.num_beams > 1:
        scores: list[float] = expected.sequences_scores.tolist()
        return scores
    transitions = model.compute_transition_scores(  # type: ignore[operator]
        expected.sequences, expected.scores, normalize_logits=True
    )
    generated_len = len(answers[0])
    total = transitions[0, :generated_len].sum().item()
    return [total / generated_len**parameters.length_penalty]


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("name", FALLBACK_ARCHITECTURES)
def test_every_architecture_gives_what_generate_gives_one_by_one(name: str, num_beams: int) -> None:
    model = FALLBACK_ARCHITECTURES[name]()
    parameters = parameters_of(model, num_beams=num_beams)
    runner = GenerateRunner(
        model,
        parameters.pad_token_id,
        is_padding_invariant=may_pad(model),
        max_batch_size=1 if shares_experts(model) else MAX_BATCH_SIZE,
    )
    requests = requests_for(parameters, 6)
    outputs = run(runner, requests)
    for request in requests:
        assert_same(outputs[request], generate_alone(model, request.source_ids, parameters))
    assert len({output.best.token_ids for output in outputs.values()}) >= 3


def test_experts_with_a_capacity_answer_otherwise_in_a_batch() -> None:
    model = FALLBACK_ARCHITECTURES["nllb-moe"]()
    parameters = parameters_of(model)
    (eos,) = parameters.eos_token_ids
    sources = random_sources(8, min_len=9, max_len=9, eos=eos)
    requests = [Request(str(number), source, parameters) for number, source in enumerate(sources)]
    alone = run(GenerateRunner(model, parameters.pad_token_id, max_batch_size=1), requests)
    together = run(GenerateRunner(model, parameters.pad_token_id), requests)
    assert any(alone[each].best.token_ids != together[each].best.token_ids for each in requests)


def test_rows_that_never_finished_are_left_out(bart: PreTrainedModel) -> None:
    eos = bart.generation_config.eos_token_id
    parameters = parameters_of(
        bart, max_length=2, num_beams=4, num_return_sequences=4, forced_eos_token_ids=(eos,)
    )
    (request,) = requests_for(parameters, 1)
    output = run(GenerateRunner(bart, parameters.pad_token_id), [request])[request]
    assert len(generated_alone(bart, request).sequences) == 4
    assert [each.token_ids for each in output.hypotheses] == [(eos,)]


@pytest.fixture
def bart() -> PreTrainedModel:
    return TINY_ARCHITECTURES["bart"]()


def test_finish_reason_tells_a_forced_eos_from_one_of_its_own(bart: PreTrainedModel) -> None:
    own = parameters_of(bart, max_length=90)
    forced = parameters_of(bart, max_length=3, forced_eos_token_ids=own.eos_token_ids)
    cut = parameters_of(bart, max_length=3, min_length=3)
    reasons = []
    for parameters in (own, forced, cut):
        (request,) = requests_for(parameters, 1)
        outputs = run(GenerateRunner(bart, parameters.pad_token_id), [request])
        best = outputs[request].best
        reasons.append((best.finish_reason, best.token_ids[-1] in parameters.eos_token_ids))
    assert reasons == [("eos", True), ("length", True), ("length", False)]


def test_a_step_takes_the_oldest_request_and_those_alike(bart: PreTrainedModel) -> None:
    greedy, beams = (
        parameters_of(bart, max_length=4),
        parameters_of(bart, max_length=4, num_beams=2),
    )
    first, longer, other, alike, too_many = (
        Request(name, (5,) * length, parameters)
        for name, length, parameters in [
            ("first", 4, greedy),
            ("longer", 6, greedy),
            ("other", 4, beams),
            ("alike", 4, greedy),
            ("too many", 4, greedy),
        ]
    )
    runner = GenerateRunner(bart, greedy.pad_token_id, max_batch_size=2)
    runner.admit([first, longer, other, alike, too_many])
    steps = [runner.step() for _ in range(5)]
    batches = [[request for request, _ in step.finished] for step in steps]
    assert batches == [[first, alike], [longer], [other], [too_many], []]
    assert [step.num_rows for step in steps] == [2, 1, 2, 1, 0]
    most = [
        max((output.generated_tokens for _, output in step.finished), default=1) for step in steps
    ]
    assert [step.num_steps for step in steps] == most


class Interrupting:
    """Runs an action in the given decoder forward of a model, and counts the forwards."""

    def __init__(self, model: PreTrainedModel, at: int, action: Callable[[], object]) -> None:
        self.num_forwards = 0
        self._at = at
        self._action = action
        self._handle = model.register_forward_pre_hook(self._hook)

    def _hook(self, *_: object) -> None:
        self.num_forwards += 1
        if self.num_forwards == self._at:
            self._action()

    def __enter__(self) -> "Interrupting":
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


@pytest.mark.parametrize("num_beams", [1, 3])
def test_cancelling_the_whole_batch_stops_its_generation(
    bart: PreTrainedModel, num_beams: int
) -> None:
    parameters = parameters_of(bart, num_beams=num_beams, min_length=23)
    requests = [Request(f"r{i}", (5, 6 + i, 2), parameters) for i in range(2)]
    runner = GenerateRunner(bart, parameters.pad_token_id)
    runner.admit(requests)

    def cancel() -> None:
        for request in requests:
            request.status = RequestStatus.CANCELLED

    with Interrupting(bart, at=3, action=cancel) as forwards:
        assert runner.step().finished == ()
    assert forwards.num_forwards == 3
    runner.remove(requests)
    assert runner.step().finished == ()


@pytest.mark.parametrize("num_beams", [1, 3])
def test_cancelled_row_stops_and_its_mates_keep_their_answers(
    bart: PreTrainedModel, num_beams: int
) -> None:
    parameters = parameters_of(bart, num_beams=num_beams, min_length=8, max_length=20)
    requests = [Request(f"r{i}", (5, 9 + i, 30 - i, 2), parameters) for i in range(3)]
    expected = run(GenerateRunner(bart, parameters.pad_token_id), requests)
    runner = GenerateRunner(bart, parameters.pad_token_id)
    runner.admit(requests)

    def cancel() -> None:
        requests[1].status = RequestStatus.CANCELLED

    with Interrupting(bart, at=3, action=cancel):
        finished = dict(runner.step().finished)
    mates = [requests[0], requests[2]]
    assert list(finished) == mates
    for mate in mates:
        assert finished[mate].best.token_ids == expected[mate].best.token_ids


def test_request_that_is_wanted_again_after_it_was_stopped_starts_over(
    bart: PreTrainedModel,
) -> None:
    clock = Clock()
    parameters = parameters_of(bart, max_length=12)
    request = Request("r", (5, 6, 7, 2), parameters, deadline=clock.now + 1.0)
    (expected,) = run(
        GenerateRunner(bart, parameters.pad_token_id, clock=Clock()), [request]
    ).values()
    runner = GenerateRunner(bart, parameters.pad_token_id, clock=clock)
    runner.admit([request])

    def expire() -> None:
        clock.now += 2.0

    with Interrupting(bart, at=2, action=expire):
        assert runner.step().finished == ()
    request.deadline = clock.now + 10.0
    ((_, output),) = runner.step().finished
    assert output.best.token_ids == expected.best.token_ids


def test_engine_over_generate_answers_and_cancels(bart: PreTrainedModel) -> None:
    parameters = parameters_of(bart, min_length=20)
    runner = GenerateRunner(bart, parameters.pad_token_id)
    engine = Engine({"bart": runner}, EngineLimits())
    kept = engine.submit("bart", (5, 6, 7, 2), parameters)
    dropped = engine.submit("bart", (5, 6, 8, 2), parameters)
    with Interrupting(bart, at=2, action=dropped.cancel):
        engine.step()
    alone = generated_alone(bart, Request("alone", (5, 6, 7, 2), parameters))
    (expected,) = alone.sequences.tolist()
    assert kept.result(timeout=0).best.token_ids == answer_of(expected, parameters.eos_token_ids)
    assert engine.stats("bart").running == 1
    engine.step()
    assert engine.stats("bart").running == 0


def test_generate_keeps_no_scores_of_past_steps(bart: PreTrainedModel) -> None:
    parameters = parameters_of(bart, num_beams=2, max_length=8)
    kept: list[int] = []
    generate = bart.generate

    def watched(**kwargs: Any) -> Any:
        result = generate(**kwargs)  # type: ignore[operator]
        kept.extend(scores.untyped_storage().nbytes() for scores in result.scores)
        return result

    bart.generate = watched  # type: ignore[assignment]
    run(GenerateRunner(bart, parameters.pad_token_id), requests_for(parameters, 2))
    assert kept
    assert not any(kept)
