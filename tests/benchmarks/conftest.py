"""Tiny checkpoints of the shapes that the benchmarks have."""

from pathlib import Path

import pytest

from benchmarks.checkpoints import build_checkpoint
from benchmarks.shapes import Shape, bart_like, bert2bert_like, marian_like
from benchmarks.workloads import Item

TINY = {
    "marian": Shape(96, 95, marian_like(32, 2, 64, 2)),
    "bart": Shape(96, 2, bart_like(32, 2, 64, 2)),
    "bert2bert": Shape(96, 1, bert2bert_like(32, 2, 64, 2)),
}
ITEMS = [
    Item("t10 t11 t12", 4, 8),
    Item("t20 t21 t22 t23 t24 t25 t26", 4, 8),
    Item("t30 t31", 4, 16),
    Item("t40 t41 t42 t43 t44", 4, 6),
    Item("t50 t51 t52", 4, 16),
]


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint folder of each shape."""
    folders = {name: tmp_path_factory.mktemp(name) for name in TINY}
    for name, folder in folders.items():
        build_checkpoint(TINY[name], folder)
    return folders
