"""Workloads: the same in every process, and worth measuring."""

from collections import Counter
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

from app.settings import SHIPPED
from benchmarks.batches import static_batches
from benchmarks.checkpoints import meta_model
from benchmarks.limits import flops_of, products_of
from benchmarks.shapes import SHAPES
from benchmarks.workloads import WORKLOADS, Item, Workload


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_requests_are_seeded_and_all_different(name: str) -> None:
    workload = WORKLOADS[name]
    items = workload.items(40)
    assert items == workload.items(40)
    assert len({item.text for item in items}) == 40
    assert items != workload.items(40, seed=1)


@pytest.mark.parametrize("name", [name for name in WORKLOADS if not name.startswith("shipped")])
def test_random_requests_have_known_words_and_forced_lengths(name: str) -> None:
    workload = WORKLOADS[name]
    shape = SHAPES[workload.checkpoint]
    for item in workload.items(40):
        ids = [int(word.removeprefix("t")) for word in item.text.split()]
        assert shape.pad_token_id not in ids
        assert max(ids) < shape.vocab_size
        assert item.target_len is not None
        assert item.target_len % 8 == 0
        assert item.parameters["min_length"] == item.parameters["max_length"] == item.target_len + 1
        assert Item.of(item.text, item.parameters) == item


def test_greedy_and_beam_requests_are_the_same_but_for_the_beams() -> None:
    beam, greedy = WORKLOADS["translate"].items(5), WORKLOADS["translate-greedy"].items(5)
    assert [(each.text, each.target_len) for each in beam] == [
        (each.text, each.target_len) for each in greedy
    ]


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_the_cost_that_plans_rely_on_is_that_of_the_products(name: str) -> None:
    workload = WORKLOADS[name]
    assert workload.gflops == pytest.approx(gflops_per_request(workload), rel=0.1)


def gflops_per_request(workload: Workload) -> float:
    items = workload.items(100)
    source_tokens = sum(len(item.text.split()) + 1 for item in items)
    if workload.checkpoint in SHAPES:
        model = meta_model(SHAPES[workload.checkpoint])
    else:
        folder = SHIPPED / workload.checkpoint
        tokenizers: Any = AutoTokenizer
        models: Any = AutoModelForSeq2SeqLM
        tokenizer = tokenizers.from_pretrained(folder)
        source_tokens = sum(len(tokenizer(item.text)["input_ids"]) for item in items)
        with torch.device("meta"):
            config = AutoConfig.from_pretrained(folder)
            model = models.from_config(config)
    typical = {"translate": source_tokens / 100, "summarize": 20}[workload.task]
    rows = sum((item.target_len or typical) * item.num_beams for item in items)
    return flops_of(products_of(model), source_tokens, int(rows)) / 100 / 1e9


@pytest.mark.parametrize("slack", [0.0, 0.25])
def test_static_batches_hold_every_request_once_beside_others_like_it(slack: float) -> None:
    items = [*WORKLOADS["translate"].items(150), *WORKLOADS["translate-greedy"].items(50)]
    batches = [[items[index] for index in batch] for batch in static_batches(items, 32, slack)]
    assert Counter(item for batch in batches for item in batch) == Counter(items)
    for batch in batches:
        targets = [item.target_len or 0 for item in batch]
        assert min(targets) >= (1 - slack) * max(targets)
        assert len({item.num_beams for item in batch}) == 1
        assert len(batch) <= 32
        lengths = [len(item.text) for item in batch]
        assert lengths == sorted(lengths)


def test_requests_without_forced_lengths_share_static_batches() -> None:
    items = WORKLOADS["shipped-translate"].items(40)
    assert sorted(map(len, static_batches(items, 32, 0.0))) == [8, 32]
