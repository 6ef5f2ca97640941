from collections import defaultdict

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from model_core.turns import Turns

MOST_WORK = 10
MOST_WAITING = 5
WEIGHTS = {"heavy": 8.0, "light": 1.0}


def served(turns: Turns[str], num_turns: int, work: float = 1.0) -> list[str]:
    order = []
    for _ in range(num_turns):
        order.append(turns.next)
        turns.charge(order[-1], work)
    return order


def test_two_who_wait_take_turns() -> None:
    turns = Turns[str]()
    turns.join("a")
    turns.join("b")
    assert served(turns, 4) == ["a", "b", "a", "b"]


def test_what_somebody_takes_moves_its_next_turn_back() -> None:
    turns = Turns[str]()
    turns.join("a")
    turns.join("b")
    turns.charge("a", 3.0)
    assert served(turns, 4) == ["b", "b", "b", "a"]


def test_whoever_is_named_first_goes_first_and_has_more_turns() -> None:
    turns = Turns[str](WEIGHTS)
    turns.join("light")
    turns.join("heavy")
    order = served(turns, 18)
    assert order[0] == "heavy"
    assert order.count("light") == 2


def test_a_newcomer_waits_for_one_turn_of_those_who_had_their_share() -> None:
    turns = Turns[str]()
    turns.join("a")
    served(turns, 100)
    turns.join("b")
    assert served(turns, 2) == ["a", "b"]


def test_leaving_and_coming_back_gains_no_turn() -> None:
    turns = Turns[str]()
    turns.join("patient")
    order = []
    for _ in range(20):
        turns.join("hasty")
        order += served(turns, 1)
        turns.leave("hasty")
    assert order.count("patient") >= 9


def test_endless_newcomers_do_not_starve_one_who_waits() -> None:
    turns = Turns[str]()
    turns.join("old")
    turns.charge("old", 10.0)
    order = []
    for number in range(100):
        turns.join(newcomer := f"new {number}")
        order += served(turns, 1)
        turns.join(newcomer)
        turns.leave(newcomer)
    assert "old" in order


class TurnsMachine(RuleBasedStateMachine):
    """Any order of coming, taking and leaving: shares are fair, and nobody waits for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns[str](WEIGHTS)
        self.waiting: set[str] = set()
        # By pair: work of each since both wait.
        self.taken: dict[tuple[str, str], dict[str, float]] = {}
        self.passed_over: dict[str, float] = defaultdict(float)
        self.num_newcomers = 0

    @precondition(lambda self: len(self.waiting) < MOST_WAITING)
    @rule(key=st.sampled_from(["heavy", "light", "c", "new"]))
    def join(self, key: str) -> None:
        if key == "new":
            self.num_newcomers += 1
            key = f"new {self.num_newcomers}"
        self.turns.join(key)
        if key in self.waiting:
            return
        for other in self.waiting:
            self.taken[min(key, other), max(key, other)] = {key: 0.0, other: 0.0}
        self.waiting.add(key)
        self.passed_over[key] = 0.0

    @precondition(lambda self: self.waiting)
    @rule(work=st.integers(1, MOST_WORK))
    def take(self, work: int) -> None:
        key = self.turns.next
        assert key in self.waiting
        self.turns.charge(key, work)
        for pair, taken in self.taken.items():
            if key in pair:
                taken[key] += work / WEIGHTS.get(key, 1.0)
        for other in self.waiting:
            self.passed_over[other] += work
        self.passed_over[key] = 0.0

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.waiting)))
        self.turns.leave(key)
        self.waiting.remove(key)
        self.taken = {pair: taken for pair, taken in self.taken.items() if key not in pair}

    @invariant()
    def shares_are_fair(self) -> None:
        for (one, other), taken in self.taken.items():
            # A turn of each, and as much again: a newcomer is due by what all took, not by who is
            # behind.
            most = 2 * sum(MOST_WORK / WEIGHTS.get(key, 1.0) for key in (one, other))
            assert abs(taken[one] - taken[other]) <= most + 1e-6

    @invariant()
    def nobody_waits_for_ever(self) -> None:
        all_weights = sum(WEIGHTS.values()) + MOST_WAITING
        for key in self.waiting:
            assert self.passed_over[key] <= 4 * MOST_WORK * all_weights

    @invariant()
    def what_is_kept_is_bounded(self) -> None:
        if not self.waiting:
            assert not self.turns._due


TestTurnsMachine = TurnsMachine.TestCase
