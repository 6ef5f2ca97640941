"""Stop strings mean what the library's own criterion means by them."""

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, StopStringCriteria

from model_core.stopping import StopStrings
from tests import tiny

SEQ2SEQ = [*tiny.LEAN_ARCHITECTURES, *tiny.FALLBACK_ARCHITECTURES]
STRINGS = (("e",), ("ar", "the "), ("e c",), ("coffee", "is"), ("ü", "ß."), ("s s", "nn"), (". ",))


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_a_target_ends_where_the_library_ends_it(name: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny.build_tiny_checkpoint(name, tmp_path))
    stop_strings = StopStrings(tokenizer)
    rng = random.Random(name)
    sentences = [tokenizer(text).input_ids for text in tiny.SENTENCES[:8]]
    unknown = max(tokenizer.get_vocab().values()) + 5
    found = []
    for strings in STRINGS:
        try:
            criterion = StopStringCriteria(tokenizer, list(strings))
        except ValueError:  # no token ends so, and nothing ever stops
            criterion = None
        for _ in range(40):
            ids = [*rng.choice(sentences), *rng.choices(range(len(tokenizer)), k=3)]
            if rng.random() < 0.1:
                ids[rng.randrange(len(ids))] = unknown
            target = ids[: rng.randint(1, len(ids))]
            expected = criterion is not None and bool(criterion(torch.tensor([target]), None))
            assert stop_strings.ends(strings, target) == expected, (strings, target)
            found.append(expected)
    assert any(found)
    assert not all(found)
