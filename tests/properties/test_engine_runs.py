"""Whatever is asked for, by whom, and when: everybody gets the answer of `generate()` alone.

Each example is one run of the engine from its first request to its end, over one architecture,
with requests of any parameters that come at any step, twice or again, hang up, or run out of time.
`make test-properties` draws many more runs, at random.
"""

import math

import pytest
from hypothesis import HealthCheck, example, given, settings

from tests import tiny
from tests.parity import TALLY
from tests.properties.found import FOUND
from tests.properties.plans import Plan, plans
from tests.properties.runs import Run

FALLBACK = ("prophetnet", "fsmt")
ARCHITECTURES = (*tiny.LEAN_ARCHITECTURES, *FALLBACK)
FEWEST_RUNS = 10_000 if settings.get_current_profile_name() == "long" else 500
RUNS_PER_ARCHITECTURE = math.ceil(FEWEST_RUNS / len(ARCHITECTURES))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_answer_is_that_of_generate_and_nothing_is_left(name: str) -> None:
    def run(plan: Plan) -> None:
        TALLY.num_drawn_runs += 1
        each = Run(name, plan)
        each.play()
        each.check()

    for plan in FOUND.get(name, ()):
        run = example(plan=plan)(run)
    # A run takes a few steps of a model: slow and large for Hypothesis, and meant to be.
    drawn = settings(max_examples=RUNS_PER_ARCHITECTURE, suppress_health_check=list(HealthCheck))
    drawn(given(plan=plans(name))(run))()


def test_enough_runs_were_made(request: pytest.FixtureRequest) -> None:
    selected = {each.name for each in request.session.items}
    if not all(any(f"[{name}]" in each for each in selected) for name in ARCHITECTURES):
        pytest.skip("some architectures were left out of this test run")
    assert TALLY.num_drawn_runs >= FEWEST_RUNS
