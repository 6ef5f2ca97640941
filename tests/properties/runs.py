"""One run of the engine over a plan, and what must hold of it."""

from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from typing import Any

from model_core.batching import may_pad, shares_experts
from model_core.cuda.runner import PooledRunner
from model_core.engine import Engine
from model_core.errors import DeadlineExceededError
from model_core.fallback import MAX_BATCH_SIZE, GenerateRunner
from model_core.generation import GenerationParameters
from model_core.lean import LeanRunner
from model_core.request import Output
from model_core.scheduler import EngineLimits
from model_core.verification.reference import Reference
from tests import tiny
from tests.lean import load_lean, stop_strings_of
from tests.model_core.fakes import Clock
from tests.parity import assert_same, generate_alone
from tests.properties.plans import TICK_S, Cancel, Plan, Step, Submit, parameters, source_ids

MODEL = "tiny"


@dataclass
class Submission:
    """One caller's wait for an answer."""

    source_ids: tuple[int, ...]
    parameters: GenerationParameters
    deadline: float | None
    future: Future[Output]


class Run:
    """An engine over a tiny model, driven step by step; `runner` in place of the usual one."""

    def __init__(self, name: str, plan: Plan, runner: Any = None) -> None:
        self.name = name
        self.plan = plan
        self.clock = Clock()
        self.runner = runner or _runner(name, plan, self.clock)
        limits = EngineLimits(
            max_running_requests=plan.max_running_requests,
            max_encode_tokens=plan.max_encode_tokens,
        )
        self.engine = Engine({MODEL: self.runner}, limits, clock=self.clock)
        self.submissions: list[Submission] = []

    def play(self) -> None:
        """All actions, then whatever of the plan was not submitted yet, then to the end."""
        for action in self.plan.actions:
            match action:
                case Submit(request, timeout_s):
                    self._submit(request % len(self.plan.requests), timeout_s)
                case Step(count):
                    for _ in range(count):
                        self._step()
                case Cancel(submission) if self.submissions:
                    self.submissions[submission % len(self.submissions)].future.cancel()
        for request in range(len(self.plan.requests)):
            self._submit(request, None)
        while self._step():
            pass

    def check(self) -> None:
        """Everybody ended; whoever waited long enough has the answer of `generate()`."""
        for each in self.submissions:
            assert each.future.done()
            if each.future.cancelled():
                continue
            if isinstance(each.future.exception(), DeadlineExceededError):
                assert each.deadline is not None
                assert each.deadline <= self.clock.now
                continue
            reference = reference_for(self.name, each.source_ids, each.parameters)
            assert_same(each.future.result(timeout=0), reference)
        stats = self.engine.stats(MODEL)
        assert (stats.waiting, stats.running, stats.reserved_bytes) == (0, 0, 0)
        assert not _held(self.runner)

    def _submit(self, request: int, timeout_s: float | None) -> None:
        wanted = self.plan.requests[request]
        source, resolved = source_ids(self.name, wanted.source), parameters(self.name, wanted)
        deadline = None if timeout_s is None else self.clock.now + timeout_s
        future = self.engine.submit(MODEL, source, resolved, deadline=deadline)
        self.submissions.append(Submission(source, resolved, deadline, future))

    def _step(self) -> bool:
        self.clock.now += TICK_S
        return self.engine.step()


@cache
def reference_for(name: str, source: tuple[int, ...], resolved: GenerationParameters) -> Reference:
    return generate_alone(load_lean(name).model, source, resolved, stop_strings_of(name))


def _runner(name: str, plan: Plan, clock: Clock) -> Any:
    lean = load_lean(name)
    if name in tiny.LEAN_ARCHITECTURES:
        return lean.runner(encoder_cache_bytes=plan.encoder_cache_bytes)
    return GenerateRunner(
        lean.model,
        lean.defaults.pad_token_id,
        is_padding_invariant=may_pad(lean.model),
        max_batch_size=1 if shares_experts(lean.model) else MAX_BATCH_SIZE,
        stop_strings=stop_strings_of(name),
        clock=clock,
    )


def _held(runner: Any) -> bool:
    """Whether a runner still holds a request."""
    if isinstance(runner, PooledRunner):
        return runner.num_free_pages < runner.num_pages
    held = runner._groups if isinstance(runner, LeanRunner) else runner._admitted
    return bool(held)
