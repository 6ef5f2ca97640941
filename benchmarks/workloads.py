"""The one table of workloads: which checkpoint, and what is asked of it.

Requests of random checkpoints have the length of their targets forced, so that every system does
the same work. Lengths are multiples of 8: a system that takes one length per batch gets full
batches of equal ones. The shipped checkpoints get real text and end their answers by themselves.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from app.verification.sample_texts import SAMPLE_TEXTS
from benchmarks.shapes import SHAPES

_LENGTH_UNIT = 8
_SENTENCES = (
    *Path(__file__).with_name("sentences.txt").read_text(encoding="utf-8").splitlines(),
    *SAMPLE_TEXTS["en"],
)

Task = Literal["translate", "summarize"]


@dataclass(frozen=True)
class Item:
    """One request.

    Attributes:
        text: Its source.
        num_beams: 1 is greedy.
        target_len: Tokens of its target, the start token apart; None leaves them to the checkpoint.
    """

    text: str
    num_beams: int
    target_len: int | None = None

    @property
    def parameters(self) -> dict[str, int]:
        """As `generate()` and the HTTP API name them; the start token counts there."""
        if self.target_len is None:
            return {"num_beams": self.num_beams}
        length = self.target_len + 1
        return {"num_beams": self.num_beams, "min_length": length, "max_length": length}

    @classmethod
    def of(cls, text: str, parameters: Mapping[str, Any]) -> Self:
        """The request that has these parameters."""
        length = parameters.get("max_length")
        return cls(text, parameters["num_beams"], None if length is None else length - 1)


@dataclass(frozen=True)
class Workload:
    """A checkpoint and a mixture of requests.

    Attributes:
        checkpoint: One of `SHAPES`, or a shipped one.
        task: Endpoint that it is served at.
        draw: Makes one request.
        gflops: Operations in the matrix products of one request, on average, in 10^9.
        about: Its line in the report.
    """

    checkpoint: str
    task: Task
    draw: Callable[[random.Random], Item]
    gflops: float
    about: str

    def items(self, num_items: int, seed: int = 0) -> list[Item]:
        """So many different requests, the same in every process."""
        rng = random.Random(f"{self.checkpoint} {seed}")
        found: dict[Item, None] = {}
        while len(found) < num_items:
            found[self.draw(rng)] = None
        return list(found)


def words(
    checkpoint: str, num_beams: int, source_len: "_Length", target_len: "_TargetLength"
) -> Callable[[random.Random], Item]:
    """Draws requests of random words; lengths count tokens, the source's `</s>` among them."""
    vocabulary = SHAPES[checkpoint].words

    def draw(rng: random.Random) -> Item:
        length = source_len(rng)
        text = " ".join(f"t{token_id}" for token_id in rng.choices(vocabulary, k=length - 1))
        units = round(target_len(rng, length) / _LENGTH_UNIT)
        return Item(text, num_beams, max(1, units) * _LENGTH_UNIT)

    return draw


def sentences(least: int, most: int) -> Callable[[random.Random], Item]:
    """Draws requests of everyday sentences: short texts are the common case."""

    def draw(rng: random.Random) -> Item:
        counts = range(least, most + 1)
        (count,) = rng.choices(counts, [1 / count for count in counts])
        return Item(" ".join(rng.sample(_SENTENCES, count)), num_beams=4)

    return draw


_Length = Callable[[random.Random], int]
_TargetLength = Callable[[random.Random, int], float]


def _short_source(rng: random.Random) -> int:
    """5 to 60 tokens, log-normal, 22 in the middle."""
    return min(60, max(5, round(rng.lognormvariate(3.09, 0.5))))


def _translated(rng: random.Random, source_len: int) -> float:
    return source_len * rng.uniform(0.7, 1.4)


def _summarized(rng: random.Random, source_len: int) -> float:
    return rng.uniform(40, 120)


def _uniform(least: int, most: int) -> _Length:
    return lambda rng: rng.randint(least, most)


_TRANSLATE = (
    "6+6 layers, 512 wide, 58,101 words; sources of 5 to 60 tokens, targets 0.7 to 1.4 of it"
)
_LARGE = "12+12 layers, 1024 wide; sources of 260 to 440 tokens, targets of 128"

WORKLOADS: dict[str, Workload] = {
    "translate": Workload(
        "opus-mt",
        "translate",
        words("opus-mt", 4, _short_source, _translated),
        11.6,
        f"the OPUS-MT shape ({_TRANSLATE}), beam 4",
    ),
    "translate-greedy": Workload(
        "opus-mt",
        "translate",
        words("opus-mt", 1, _short_source, _translated),
        3.7,
        "the requests of `translate`, greedy",
    ),
    "translate-even": Workload(
        "opus-mt",
        "translate",
        words("opus-mt", 4, _short_source, lambda rng, source_len: 24),
        11.0,
        "sources as in `translate`, targets of 24 tokens, so that any of them may share a batch",
    ),
    "summarize": Workload(
        "bart-base",
        "summarize",
        words("bart-base", 4, _uniform(200, 900), _summarized),
        111,
        "the BART-base shape (6+6 layers, 768 wide); sources of 200 to 900 tokens, targets of 40 "
        "to 120, beam 4",
    ),
    "summarize-large": Workload(
        "bart-large",
        "summarize",
        words("bart-large", 4, _uniform(260, 440), lambda rng, source_len: 128),
        355,
        f"the BART-large-CNN shape ({_LARGE}), beam 4; for a GPU",
    ),
    "summarize-large-greedy": Workload(
        "bart-large",
        "summarize",
        words("bart-large", 1, _uniform(260, 440), lambda rng, source_len: 128),
        180,
        "the same requests, greedy; for a GPU",
    ),
    "bert2bert": Workload(
        "bert2bert",
        "summarize",
        words("bert2bert", 4, _uniform(100, 500), _summarized),
        139,
        "two BERTs (12+12 layers, 768 wide); sources of 100 to 500 tokens, targets of 40 to 120, "
        "beam 4",
    ),
    "shipped-translate": Workload(
        "translate-en-de",
        "translate",
        sentences(1, 6),
        1.1,
        "`translate-en-de` on one to six everyday sentences, beam 4",
    ),
    "shipped-summarize": Workload(
        "summarize-en",
        "summarize",
        sentences(6, 14),
        3.1,
        "`summarize-en` on six to fourteen everyday sentences, beam 4",
    ),
}
