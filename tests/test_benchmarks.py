"""Workloads of the benchmarks: the same in every process, and worth measuring."""

from collections import Counter

import pytest

from benchmarks.systems import _static_batches
from benchmarks.workloads import EOS, WORKLOADS


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_requests_are_seeded_and_end_with_eos(name: str) -> None:
    workload = WORKLOADS[name]
    items = workload.items(40)
    assert items == workload.items(40)
    assert len({len(item.source_ids) for item in items}) > 10
    for item in items:
        assert item.source_ids.count(EOS) == 1
        assert item.source_ids[-1] == EOS
        assert max(item.source_ids) < workload.vocab_size
        assert item.target_len % 8 == 0


def test_static_batches_hold_every_request_once_beside_others_of_its_target_length() -> None:
    items = WORKLOADS["translate"].items(200)
    batches = list(_static_batches(items))
    assert Counter(item for _, batch in batches for item in batch) == Counter(items)
    for target_len, batch in batches:
        assert {item.target_len for item in batch} == {target_len}
        assert len(batch) <= 32
        lengths = [len(item.source_ids) for item in batch]
        assert lengths == sorted(lengths)
