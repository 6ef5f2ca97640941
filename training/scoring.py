"""Quality metrics, and the answers that need no model to compare them with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from training.data import Pair

Scores = dict[str, float]
_Answer = Callable[[str], str]


@dataclass(frozen=True)
class Scoring:
    """How a task is scored; `chosen_by` is the metric that decides between settings."""

    chosen_by: str
    score: Callable[[Sequence[str], Sequence[str]], Scores]
    baselines: dict[str, _Answer]

    def baseline_scores(self, pairs: Sequence[Pair]) -> dict[str, Scores]:
        """Scores of the answers that need no model, by name."""
        references = [pair.target for pair in pairs]
        return {
            name: self.score([answer(pair.source) for pair in pairs], references)
            for name, answer in self.baselines.items()
        }


def _score_translation(outputs: Sequence[str], references: Sequence[str]) -> Scores:
    """Corpus BLEU and chrF of sacrebleu with its default settings, 0 to 100."""
    return {
        "BLEU": sacrebleu.corpus_bleu(outputs, [references]).score,
        "chrF": sacrebleu.corpus_chrf(outputs, [references]).score,
    }


def _score_summaries(outputs: Sequence[str], references: Sequence[str]) -> Scores:
    """Mean ROUGE F of rouge_score with its stemmer, 0 to 100."""
    shown = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
    scorer = RougeScorer(list(shown), tokenizer=DefaultTokenizer(use_stemmer=True))
    rows = [scorer.score(gold, ours) for ours, gold in zip(outputs, references, strict=True)]
    return {
        name: 100 * sum(row[key].fmeasure for row in rows) / len(rows)
        for key, name in shown.items()
    }


def _copy(source: str) -> str:
    return source


def _first_sentence(source: str) -> str:
    return source.split(". ")[0]


def _first_words(count: int) -> _Answer:
    return lambda source: " ".join(source.split()[:count])


SCORING = {
    "translate": Scoring(
        chosen_by="BLEU", score=_score_translation, baselines={"copy of the source": _copy}
    ),
    "summarize": Scoring(
        chosen_by="ROUGE-L",
        score=_score_summaries,
        baselines={
            "first 10 words": _first_words(10),
            "first 16 words": _first_words(16),
            "first sentence": _first_sentence,
        },
    ),
}


def shown(scores: Scores) -> str:
    """The scores on one line, for a log."""
    return ", ".join(f"{name} {value:.1f}" for name, value in scores.items())
