"""Tiny checkpoints of many languages that share their model with another one.

Only the tokenizer is another, and what the generation defaults say of its tokens.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import MBart50Tokenizer, T5Tokenizer

from tests.tiny.checkpoints import build_tiny_checkpoint
from tests.tiny.draw import MAX_POSITIONS

MARKED_TARGETS = ("deu", "fra", "por")


def change_json(path: Path, **entries: Any) -> None:
    """Set entries of a JSON file; those set to None are removed."""
    content = {**json.loads(path.read_text()), **entries}
    path.write_text(json.dumps({key: each for key, each in content.items() if each is not None}))


def _mbart50(folder: Path) -> None:
    """mBART-50: answers start from EOS, and their language is forced."""
    build_tiny_checkpoint("mbart", folder)
    pieces = [(piece, score) for piece, score in _pieces_of(folder)[:72]]
    special = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
    tokenizer = MBart50Tokenizer(
        vocab=[*special, *pieces[4:]], src_lang="en_XX", model_max_length=MAX_POSITIONS
    )
    tokenizer.save_pretrained(folder)
    change_json(folder / "generation_config.json", decoder_start_token_id=2)


def _marian_multi(folder: Path) -> None:
    """A Marian from any Germanic to any Romance language, each with a token of its own."""
    build_tiny_checkpoint("marian", folder)
    path = folder / "vocab.json"
    vocab: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))
    rarest = [token for token in vocab if token != "<pad>"][-len(MARKED_TARGETS) :]
    markers = {token: f">>{lang}<<" for token, lang in zip(rarest, MARKED_TARGETS, strict=True)}
    renamed = {markers.get(token, token): token_id for token, token_id in vocab.items()}
    path.write_text(json.dumps(renamed), encoding="utf-8")
    change_json(folder / "tokenizer_config.json", source_lang="gem", target_lang="roa")


def _madlad(folder: Path) -> None:
    """A T5 whose vocabulary has a token for each target language."""
    build_tiny_checkpoint("t5", folder)
    ordinary = [(piece, score) for piece, score in _pieces_of(folder) if "<extra" not in piece]
    targets = [("<2de>", 0.0), ("<2fr>", 0.0)]
    T5Tokenizer(vocab=[*ordinary, *targets], extra_ids=8).save_pretrained(folder)


def _pieces_of(folder: Path) -> list[Any]:
    pieces: list[Any] = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    return pieces


MULTILINGUAL: dict[str, Callable[[Path], None]] = {
    "mbart50": _mbart50,
    "marian-multi": _marian_multi,
    "madlad": _madlad,
}
"""What is not an architecture of its own; each writes a whole checkpoint to a folder."""
