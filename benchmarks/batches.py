"""Static batches, for systems that take one target length per batch."""

from collections.abc import Iterator, Sequence

from benchmarks.workloads import Item


def static_batches(
    items: Sequence[Item], max_size: int, length_slack: float
) -> Iterator[list[int]]:
    """Indices of batches: like searches, like target lengths, sorted by source length.

    Args:
        items: In any order.
        max_size: Most requests in a batch.
        length_slack: A batch is decoded to its longest target, and takes in requests whose own is
            at most this much shorter, relative to it: 0 for equal lengths only.
    """
    order = sorted(range(len(items)), key=lambda index: _by_length(items[index]))
    alike: list[int] = []
    for index in order:
        if alike and not fits(items[index], items[alike[0]], length_slack):
            yield from _split(items, alike, max_size)
            alike = []
        alike.append(index)
    yield from _split(items, alike, max_size)


def fits(item: Item, longest: Item, length_slack: float) -> bool:
    """Whether a request may share a batch with one whose target is as long or longer."""
    if item.num_beams != longest.num_beams:
        return False
    if item.target_len is None or longest.target_len is None:
        return item.target_len == longest.target_len
    return longest.target_len * (1 - length_slack) <= item.target_len <= longest.target_len


def by_target_len(item: Item) -> int:
    """Orders requests by how long their targets are; those without a length are shortest."""
    return item.target_len or 0


def _by_length(item: Item) -> tuple[int, int]:
    return item.num_beams, -by_target_len(item)


def _split(items: Sequence[Item], alike: list[int], max_size: int) -> Iterator[list[int]]:
    by_source = sorted(alike, key=lambda index: len(items[index].text))
    for start in range(0, len(by_source), max_size):
        yield by_source[start : start + max_size]
