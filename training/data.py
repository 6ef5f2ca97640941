"""Sentence pairs on disk, and the batches of one epoch."""

import gzip
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from training.tasks import CropPolicy, JoinPolicy
from training.tokenizer import BOS_ID, EOS_ID, PAD_ID

_IGNORED_LABEL = -100


@dataclass(frozen=True)
class Pair:
    """One line of a data file."""

    source: str
    target: str


@dataclass(frozen=True)
class Example:
    """One training example as token ids, both sides without EOS."""

    source_ids: list[int]
    target_ids: list[int]


@dataclass(frozen=True)
class Batch:
    """Tensors of one step; labels are -100 where the target is padding.

    Shapes: sources [batch, source_len], targets [batch, target_len].
    """

    source_ids: Tensor
    source_mask: Tensor
    decoder_ids: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        return Batch(
            self.source_ids.to(device),
            self.source_mask.to(device),
            self.decoder_ids.to(device),
            self.labels.to(device),
        )


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a gzipped `source<TAB>target` file.

    Raises:
        ValueError: A line does not hold exactly one tab.
    """
    pairs = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.rstrip("\n").split("\t")
            if len(fields) != 2:
                raise ValueError(f"{path}:{number} has {len(fields)} fields, expected 2")
            pairs.append(Pair(*fields))
    return pairs


def spread(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """At most `count` of the pairs, evenly over all of them: a file may be grouped by origin."""
    count = min(count, len(pairs))
    return [pairs[row * len(pairs) // count] for row in range(count)]


def encode_pairs(tokenizer: PreTrainedTokenizerFast, pairs: Sequence[Pair]) -> list[Example]:
    """The pairs as token ids, uncut and without EOS."""

    def encode(texts: list[str]) -> list[list[int]]:
        encodings = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    sources = encode([pair.source for pair in pairs])
    targets = encode([pair.target for pair in pairs])
    return [Example(*ids) for ids in zip(sources, targets, strict=True)]


@dataclass(frozen=True)
class EpochPlanner:
    """Decides what each epoch holds: order, joins, crops and batches.

    An epoch is a pure function of the seed and its number, so that a resumed run finds the
    batches it has not seen by counting. Lengths below include EOS or BOS.
    """

    examples: list[Example]
    max_source_len: int
    max_target_len: int
    batch_tokens: int
    join: JoinPolicy
    crop: CropPolicy
    repeated_rows: int
    seed: int

    def batches(self, epoch: int) -> list[list[Example]]:
        """The batches of `epoch` (from 0), in the order of training."""
        rng = random.Random(f"{self.seed}-{epoch}")
        rows = [*range(len(self.examples)), *range(self.repeated_rows)]
        rng.shuffle(rows)
        joined = self._joined([self.examples[row] for row in rows], rng)
        batches = self._batched([self._cut(example, rng) for example in joined], rng)
        rng.shuffle(batches)
        return batches

    def _joined(self, examples: list[Example], rng: random.Random) -> Iterator[Example]:
        remaining = iter(examples)
        for example in remaining:
            count, room = self._draw_join(rng)
            source_ids, target_ids = list(example.source_ids), list(example.target_ids)
            while count > 1 and (following := next(remaining, None)) is not None:
                source_len = len(source_ids) + len(following.source_ids)
                target_len = len(target_ids) + len(following.target_ids)
                if max(source_len, target_len) >= room:
                    yield following
                    break
                source_ids += following.source_ids
                target_ids += following.target_ids
                count -= 1
            yield Example(source_ids, target_ids)

    def _draw_join(self, rng: random.Random) -> tuple[int, int]:
        """How many pairs to join, and the length both sides must stay below."""
        longest = min(self.max_source_len, self.max_target_len)
        draw = rng.random()
        if draw < self.join.long:
            return longest, rng.randint(longest // 8, longest)
        draw -= self.join.long
        if draw < self.join.three:
            return 3, longest
        return (2 if draw < self.join.three + self.join.two else 1), longest

    def _cut(self, example: Example, rng: random.Random) -> Example:
        source_len = self.max_source_len - 1
        if rng.random() < self.crop.share:
            source_len = min(source_len, self.crop.source_len)
        return Example(
            example.source_ids[:source_len], example.target_ids[: self.max_target_len - 1]
        )

    def _batched(self, examples: list[Example], rng: random.Random) -> list[list[Example]]:
        # Noise in the key: without it a batch would always meet the same neighbours in length.
        examples.sort(key=lambda e: (len(e.source_ids) + rng.randrange(2), len(e.target_ids)))
        batches: list[list[Example]] = []
        source_len = target_len = 0
        for example in examples:
            source_len = max(source_len, len(example.source_ids) + 1)
            target_len = max(target_len, len(example.target_ids) + 1)
            fits = batches and (source_len + target_len) * (len(batches[-1]) + 1)
            if fits and fits <= self.batch_tokens:
                batches[-1].append(example)
            else:
                batches.append([example])
                source_len, target_len = len(example.source_ids) + 1, len(example.target_ids) + 1
        return batches


def collate(examples: Sequence[Example]) -> Batch:
    """The padded tensors of one batch, with EOS added and targets shifted right behind BOS."""
    source_ids = _padded([[*e.source_ids, EOS_ID] for e in examples], PAD_ID)
    return Batch(
        source_ids=source_ids,
        source_mask=(source_ids != PAD_ID).long(),
        decoder_ids=_padded([[BOS_ID, *e.target_ids] for e in examples], PAD_ID),
        labels=_padded([[*e.target_ids, EOS_ID] for e in examples], _IGNORED_LABEL),
    )


def _padded(rows: list[list[int]], value: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])
