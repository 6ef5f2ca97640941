"""Several engines that serve the same checkpoints, each in a worker of its own, behind one."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import reduce
from itertools import compress
from operator import add, attrgetter
from typing import TypeVar

from model_core.engine import Condition, Engine
from model_core.errors import EngineClosedError, QueueFullError
from model_core.generation import GenerationParameters
from model_core.ledger import EngineStats
from model_core.request import Output, Priority, Prospect
from model_core.workers.process import Worker

_T = TypeVar("_T")


class Engines:
    """Hands each request to the engine with the least load; called as one `Engine` is.

    A request that is identical to one in flight goes where that is. An engine that is being
    rebuilt, or whose worker is started again, gets nothing while there is another.
    """

    def __init__(self, engines: Sequence[Engine], workers: Sequence[Worker] = ()) -> None:
        """Serve through engines.

        Args:
            engines: All of the same checkpoints.
            workers: The worker of each.
        """
        self.engines = tuple(engines)
        self._workers = tuple(workers)

    def submit(
        self,
        model: str,
        source_ids: Sequence[int],
        parameters: GenerationParameters,
        *,
        deadline: float | None = None,
        client: str = "",
        priority: Priority = "interactive",
    ) -> Future[Output]:
        """See `Engine.submit`."""

        def submit_to(engine: Engine) -> Future[Output]:
            return engine.submit(
                model, source_ids, parameters, deadline=deadline, client=client, priority=priority
            )

        able = self._able
        for engine in able:
            if engine.has(model, source_ids, parameters):
                return submit_to(engine)
        return _first_with_room(able, submit_to)

    def check_room(self, model: str, prospect: Prospect) -> None:
        """See `Engine.check_room`; those ahead are spread over the engines."""
        able = self._able
        part = replace(prospect, num_ahead=math.ceil(prospect.num_ahead / len(able)))
        _first_with_room(able, lambda engine: engine.check_room(model, part))

    def stats(self, model: str) -> EngineStats:
        """The load of one checkpoint in all engines."""
        return reduce(add, (each.stats(model) for each in self.engines))

    @property
    def condition(self) -> Condition:
        """See `Engine.condition`: of the worst, but where one is rebuilt the others go on."""
        conditions = {each.condition for each in self.engines}
        for each in ("lost", "dead", "ready"):
            if each in conditions:
                return each
        return "rebuilding"

    def step(self) -> bool:
        """See `Engine.step`: one iteration of each loop."""
        worked = [each.step() for each in self.engines]
        return any(worked)

    @property
    def _able(self) -> tuple[Engine, ...]:
        """Those that are in the best state."""
        has_worker = [worker.is_ready for worker in self._workers] or [True] * len(self.engines)
        states = [
            (engine.condition == "ready") + has
            for engine, has in zip(self.engines, has_worker, strict=True)
        ]
        best = max(states)
        return tuple(compress(self.engines, (state == best for state in states)))


def _first_with_room(engines: Sequence[Engine], ask: Callable[[Engine], _T]) -> _T:
    """What the least loaded engine says; where it refuses, those after it are asked too.

    Queues are of requests, and loads of what they cost: one may be full where the other is least.
    """
    refusal: QueueFullError | EngineClosedError | None = None
    for engine in sorted(engines, key=attrgetter("load")):
        try:
            return ask(engine)
        except (QueueFullError, EngineClosedError) as error:
            refusal = refusal or error
    assert refusal is not None
    raise refusal
