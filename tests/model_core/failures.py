"""A request that fails, and what that must not cost the others."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from model_core.engine import Engine
from model_core.errors import RequestFailedError
from model_core.request import Request
from model_core.scheduler import EngineLimits
from tests.lean import Lean
from tests.parity import assert_same, generate_alone


def assert_nobody_else_fails(
    runner: Any,
    lean: Lean,
    requests: Sequence[Request],
    poison: Callable[[pytest.MonkeyPatch], None],
) -> None:
    """The first request is poisoned, the last one comes when the others have ended."""
    poisoned, *companions, later = requests
    assert len({each.source_len for each in requests}) == len(requests)
    engine = Engine({"m": runner}, EngineLimits())

    def submit(*wanted: Request) -> None:
        for each in wanted:
            futures[each] = engine.submit("m", each.source_ids, each.parameters)
        while engine.step():
            pass

    futures: dict[Request, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        poison(patch)
        submit(poisoned, *companions)
    submit(later)
    with pytest.raises(RequestFailedError):
        futures[poisoned].result(timeout=0)
    for each in (*companions, later):
        reference = generate_alone(lean.model, each.source_ids, each.parameters)
        assert_same(futures[each].result(timeout=0), reference)
