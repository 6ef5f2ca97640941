"""Sources for tests, and what their answers must be like."""

import random
from collections.abc import Sequence


def random_sources(
    num: int, *, vocab: int = 90, min_len: int = 4, max_len: int = 20, seed: int = 0, eos: int = 2
) -> list[tuple[int, ...]]:
    """Sources of unequal length without special tokens, apart from EOS at the end."""
    rng = random.Random(seed)
    return [
        (*(rng.randrange(5, vocab) for _ in range(rng.randint(min_len, max_len) - 1)), eos)
        for _ in range(num)
    ]


def answer_of(row: Sequence[int], eos_ids: Sequence[int]) -> tuple[int, ...]:
    """The target tokens of one row of `generate()`: after the start token, up to the first EOS."""
    answer = []
    for token in row[1:]:
        answer.append(int(token))
        if token in eos_ids:
            break
    return tuple(answer)


def assert_varied(answers: Sequence[Sequence[int]]) -> None:
    """Check that answers are worth comparing: they vary over steps, sources and lengths."""
    lengths = [len(answer) for answer in answers]
    assert len({tuple(answer) for answer in answers}) == len(answers), answers
    assert len(set(lengths)) >= len(answers) // 3, f"lengths: {lengths}"
    assert max(lengths) >= 12, f"lengths: {lengths}"
    long_ones = [answer for answer in answers if len(answer) >= 12]
    distinct = [len(set(answer)) for answer in long_ones]
    assert min(distinct) >= 5, f"distinct tokens: {distinct} in answers of {lengths}"
    starts = {answer[1] for answer in answers if len(answer) > 1}
    assert len(starts) >= 3, f"second tokens: {starts}"
