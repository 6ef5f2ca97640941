"""A model runner without a model, and what the engine's tests say about requests."""

from collections.abc import Sequence

from model_core.generation import GenerationParameters
from model_core.request import Hypothesis, Output, Request
from model_core.runner import EncodeReport, StepReport

POISON_IN_STEP = 666
POISON_IN_ENCODER = 667


def parameters(num_steps: int = 3, num_beams: int = 1) -> GenerationParameters:
    return GenerationParameters(
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_ids=(2,),
        max_length=num_steps + 1,
        num_beams=num_beams,
    )


def answer_to(source_ids: Sequence[int]) -> tuple[int, ...]:
    return tuple(reversed(source_ids))


class FakeRunner:
    """Answers after `max_length - 1` steps; raises for poisoned sources in their last step."""

    def __init__(self, *, cost_bytes: int = 1) -> None:
        self.slots: dict[Request, int] = {}  # request -> steps done
        self.num_resets = 0
        self.admissions: list[tuple[Request, ...]] = []
        self._cost_bytes = cost_bytes

    def cost_bytes(self, request: Request) -> int:
        return self._cost_bytes * request.parameters.num_beams

    def admit(self, requests: Sequence[Request]) -> EncodeReport:
        assert requests, "an empty admission"
        assert not self.slots.keys() & set(requests), "a request holds two slots"
        if any(POISON_IN_ENCODER in request.source_ids for request in requests):
            raise RuntimeError("poisoned source")
        self.admissions.append(tuple(requests))
        self.slots.update(dict.fromkeys(requests, 0))
        tokens = sum(request.source_len for request in requests)
        return EncodeReport(len(requests), source_tokens=tokens, padded_tokens=tokens)

    def step(self) -> StepReport:
        num_rows = sum(request.parameters.num_beams for request in self.slots)
        for request in self.slots:
            self.slots[request] += 1
        finished = [each for each, done in self.slots.items() if done == _num_steps(each)]
        if any(POISON_IN_STEP in request.source_ids for request in finished):
            raise RuntimeError("poisoned step")
        for request in finished:
            del self.slots[request]
        return StepReport(tuple((request, _output(request)) for request in finished), num_rows)

    def remove(self, requests: Sequence[Request]) -> None:
        for request in requests:
            del self.slots[request]

    def reset(self) -> None:
        self.num_resets += 1
        self.slots.clear()


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _num_steps(request: Request) -> int:
    return request.parameters.max_length - 1


def _output(request: Request) -> Output:
    hypothesis = Hypothesis(answer_to(request.source_ids), -1.0, "eos")
    return Output((hypothesis,), request.source_len)
