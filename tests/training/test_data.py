import gzip
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from training.data import EpochPlanner, Example, Pair, collate, read_pairs, spread
from training.tasks import CropPolicy, JoinPolicy
from training.tokenizer import BOS_ID, EOS_ID, PAD_ID

# Every example has a first source token of its own, by which a test recognises it.
EXAMPLES = [Example([1000 + row] + [5] * (row % 7), [6] * (1 + row % 5)) for row in range(200)]

PLAIN = EpochPlanner(
    examples=EXAMPLES,
    max_source_len=40,
    max_target_len=40,
    batch_tokens=120,
    join=JoinPolicy(),
    crop=CropPolicy(),
    repeated_rows=0,
    seed=1,
)


def rows_seen(batches: list[list[Example]]) -> Counter[int]:
    return Counter(
        token - 1000
        for examples in batches
        for example in examples
        for token in example.source_ids
        if token >= 1000
    )


def test_an_epoch_is_a_function_of_seed_and_number() -> None:
    assert PLAIN.batches(3) == PLAIN.batches(3)
    assert PLAIN.batches(3) != PLAIN.batches(4)
    assert PLAIN.batches(3) != replace(PLAIN, seed=2).batches(3)


def test_joining_loses_and_repeats_no_pair() -> None:
    planner = replace(PLAIN, join=JoinPolicy(two=0.3, three=0.2, long=0.2))
    assert rows_seen(planner.batches(0)) == Counter(range(200))


def test_joined_examples_keep_within_the_positions() -> None:
    planner = replace(PLAIN, join=JoinPolicy(long=1.0))
    examples = [example for batch in planner.batches(0) for example in batch]
    assert max(len(example.source_ids) for example in examples) > 20
    assert all(len(e.source_ids) < 40 and len(e.target_ids) < 40 for e in examples)


def test_leading_rows_are_repeated() -> None:
    assert rows_seen(replace(PLAIN, repeated_rows=50).batches(0)) == Counter(
        [*range(200), *range(50)]
    )


def test_sources_are_cropped() -> None:
    planner = replace(PLAIN, crop=CropPolicy(share=1.0, source_len=3))
    examples = [example for batch in planner.batches(0) for example in batch]
    assert max(len(example.source_ids) for example in examples) == 3


def test_batches_keep_within_their_padded_tokens() -> None:
    for examples in PLAIN.batches(0):
        batch = collate(examples)
        assert batch.source_ids.numel() + batch.labels.numel() <= PLAIN.batch_tokens


def test_targets_are_shifted_behind_bos() -> None:
    batch = collate([Example([7, 8], [9]), Example([7], [9, 10])])
    assert batch.source_ids.tolist() == [[7, 8, EOS_ID], [7, EOS_ID, PAD_ID]]
    assert batch.source_mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.decoder_ids.tolist() == [[BOS_ID, 9, PAD_ID], [BOS_ID, 9, 10]]
    assert batch.labels.tolist() == [[9, EOS_ID, -100], [9, 10, EOS_ID]]


def test_pairs_are_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv.gz"
    path.write_bytes(gzip.compress("a\tä\nb\tß\n".encode()))
    assert read_pairs(path) == [Pair("a", "ä"), Pair("b", "ß")]


def test_a_line_without_a_tab_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv.gz"
    path.write_bytes(gzip.compress(b"a\tb\nalone\n"))
    with pytest.raises(ValueError, match=r"pairs\.tsv\.gz:2 has 1 fields"):
        read_pairs(path)


def test_a_sample_is_spread_evenly() -> None:
    pairs = [Pair(str(row), "") for row in range(10)]
    assert [pair.source for pair in spread(pairs, 4)] == ["0", "2", "5", "7"]
    assert spread(pairs, 20) == pairs
