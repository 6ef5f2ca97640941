"""Texts of mixed lengths: everyday sentences, joined by one to six."""

import random
from pathlib import Path

_SENTENCES = Path(__file__).with_name("sentences.txt").read_text(encoding="utf-8").splitlines()
_MAX_SENTENCES = 6
_WEIGHTS = (8, 5, 3, 2, 1, 1)  # of one to six: short texts are the common case


def texts(num_texts: int, seed: int) -> list[str]:
    """So many different texts, the same for the same seed."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < num_texts:
        (length,) = rng.choices(range(1, _MAX_SENTENCES + 1), _WEIGHTS)
        found[" ".join(rng.sample(_SENTENCES, length))] = None
    chosen = list(found)
    rng.shuffle(chosen)
    return chosen
