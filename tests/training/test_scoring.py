import pytest

from training.data import Pair
from training.scoring import SCORING

PAIRS = [Pair("One two three four five. Six.", "Eins zwei drei vier fünf sechs")]


@pytest.mark.parametrize("task", SCORING)
def test_the_reference_scores_full_marks(task: str) -> None:
    references = [pair.target for pair in PAIRS]
    scores = SCORING[task].score(references, references)
    assert SCORING[task].chosen_by in scores
    assert scores == pytest.approx(dict.fromkeys(scores, 100))


def test_baselines_of_summaries_are_beginnings_of_the_source() -> None:
    answers = SCORING["summarize"].baselines
    assert answers["first 10 words"](" ".join("abcdefghijkl")) == "a b c d e f g h i j"
    assert answers["first sentence"](PAIRS[0].source) == "One two three four five"
