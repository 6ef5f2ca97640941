"""The judge must see a tie where there is one, and must not excuse anything else."""

import copy
import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from model_core.generation import GenerationParameters
from model_core.request import Hypothesis, Output
from model_core.verification.compare import compare
from model_core.verification.near_tie import explain
from model_core.verification.reference import Reference, generate_alone
from tests.lean import load_lean, random_source
from tests.parity import TALLY, assert_same

LEAN = load_lean("bart")
SOURCE = random_source(LEAN, random.Random(5))
GREEDY = replace(LEAN.defaults, max_length=12, eos_token_ids=())
BEAM = replace(GREEDY, num_beams=3, num_return_sequences=3)
AT = 4
"""Position of the token that has a twin."""


def twins(parameters: GenerationParameters, gap: float, at: int = AT) -> tuple[Reference, int, int]:
    """A model in which one token of its answer has a twin whose logit is lower by `gap`."""
    answer = generate_alone(LEAN.model, SOURCE, parameters).hypotheses[0].token_ids
    token = answer[at]
    twin = next(each for each in range(5, LEAN.vocab) if each > token and each not in answer)
    model: Any = copy.deepcopy(LEAN.model)
    with torch.no_grad():
        model.model.shared.weight[twin] = model.model.shared.weight[token]
        model.final_logits_bias[0, twin] = model.final_logits_bias[0, token] - gap
    reference = generate_alone(model, SOURCE, parameters)
    found = reference.hypotheses[0].token_ids[at]
    assert found in (token, twin)
    return reference, found, token + twin - found


def changed(hypothesis: Hypothesis, position: int, token: int) -> Hypothesis:
    token_ids = list(hypothesis.token_ids)
    token_ids[position] = token
    return replace(hypothesis, token_ids=tuple(token_ids))


def output(*hypotheses: Hypothesis) -> Output:
    return Output(hypotheses, len(SOURCE))


@pytest.mark.parametrize("gap", [0.0, 4e-6])
def test_a_twin_token_is_excused_and_shown(gap: float) -> None:
    reference, token, twin = twins(GREEDY, gap)
    ours = output(changed(reference.hypotheses[0], AT, twin))

    ties = explain(reference, ours)

    assert ties is not None
    (tie,) = ties
    assert (tie.winner.candidate[-1], tie.loser.candidate[-1]) == (token, twin)
    assert tie.gap <= tie.bound
    assert tie.float64_gap == pytest.approx(gap, abs=4e-6)
    assert f"token at position {AT}: {token} after" in str(tie)


def test_a_token_that_is_less_likely_by_more_than_noise_is_not_excused() -> None:
    reference, _, twin = twins(GREEDY, 1e-3)
    ours = output(changed(reference.hypotheses[0], AT, twin))

    assert explain(reference, ours) is None
    with pytest.raises(AssertionError):
        assert_same(ours, reference)


@pytest.mark.parametrize("parameters", [GREEDY, BEAM])
def test_a_tie_does_not_excuse_a_wrong_token_elsewhere(parameters: GenerationParameters) -> None:
    reference, token, twin = twins(parameters, 0.0)
    best, *others = reference.hypotheses
    wrong = next(each for each in range(5, LEAN.vocab) if each not in (*best.token_ids, twin))

    assert explain(reference, output(changed(best, AT + 1, wrong), *others)) is None
    both = changed(changed(best, AT, twin), AT + 1, wrong)
    assert explain(reference, output(both, *others)) is None
    assert token in best.token_ids


def test_hypotheses_of_equal_score_may_change_places() -> None:
    reference, _, _ = twins(BEAM, 0.0, at=-1)
    hypotheses = list(reference.hypotheses)
    scores = [each.score for each in hypotheses]
    gaps = [higher - lower for higher, lower in pairwise(scores)]
    rank = gaps.index(min(gaps))
    assert gaps[rank] == pytest.approx(0.0, abs=1e-6)
    hypotheses[rank : rank + 2] = reversed(hypotheses[rank : rank + 2])

    ties = explain(reference, output(*hypotheses))

    assert ties is not None
    assert {tie.decision for tie in ties} <= {"token", "rank of a finished hypothesis"}


def test_several_ties_are_turned_one_after_the_other() -> None:
    reference, token, twin = twins(replace(GREEDY, max_length=30), 0.0)
    best = reference.hypotheses[0]
    places = [place for place, each in enumerate(best.token_ids) if each == token]
    assert len(places) > 1
    for place in places[:2]:
        best = changed(best, place, twin)

    ties = explain(reference, output(best))

    assert ties is not None
    assert len(ties) == 2


def test_a_wrong_score_is_never_excused() -> None:
    reference, _, _ = twins(GREEDY, 0.0)
    best = reference.hypotheses[0]
    for score in (best.score + 0.01, float("nan")):
        ours = output(replace(best, score=score))
        assert not compare(ours, reference).is_same
        with pytest.raises(AssertionError):
            assert_same(ours, reference)


def test_a_wrong_finish_reason_is_never_excused() -> None:
    reference, _, _ = twins(GREEDY, 0.0)
    with pytest.raises(AssertionError):
        assert_same(output(replace(reference.hypotheses[0], finish_reason="eos")), reference)


def test_an_excused_tie_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TALLY, "excused", [])
    monkeypatch.setattr(TALLY, "num_comparisons", 0)
    reference, _, twin = twins(GREEDY, 0.0)

    assert_same(output(reference.hypotheses[0]), reference)
    assert_same(output(changed(reference.hypotheses[0], AT, twin)), reference)

    assert TALLY.summary() == "near-ties excused: 1 of 2 comparisons"
    assert len(TALLY.excused) == 1
