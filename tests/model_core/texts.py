"""Tokenizers and text processors of tiny checkpoints, each made once."""

import atexit
import warnings
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoTokenizer

from model_core.checkpoint import Checkpoint, CheckpointOptions, load_checkpoint
from model_core.generation import GenerationLimits
from model_core.models import ModelSource, ServedModel, load_models
from model_core.scheduler import EngineLimits
from tests import tiny
from tests.tiny.multilingual import MULTILINGUAL
from tests.tiny.tokenizers import TOKENIZERS

TOKENIZER_KINDS = (
    "bert2bert",
    "bert-generation",
    "roberta2roberta",
    "xlmr2xlmr",
    "camembert2camembert",
    "mbart",
    "marian",
    "m2m100",
    "nllb",
    "pegasus",
    "blenderbot",
    "blenderbot-small",
    "led",
    "plbart",
    "t5",
    "byt5",
    "fsmt",
    "t5gemma",
    "seamless-m4t",
    "gpt2",
)
"""One architecture for each class of tokenizer that the tiny checkpoints have."""


def _new_folder() -> Path:
    folder = TemporaryDirectory()
    atexit.register(folder.cleanup)
    return Path(folder.name)


@cache
def tokenizer_of(name: str) -> Any:
    """The tokenizer of a tiny checkpoint, as it is loaded from its files."""
    folder, scratch = _new_folder(), _new_folder()
    TOKENIZERS[name](scratch).save_pretrained(folder)
    return load_tokenizer(folder)


def load_tokenizer(folder: Path) -> Any:
    """What the library loads from a folder."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Recommended: pip install sacremoses")
        return AutoTokenizer.from_pretrained(folder)


def control_ids(tokenizer: Any) -> set[int]:
    """Tokens that no text may contain."""
    added = tokenizer.added_tokens_decoder.items()
    special = {token_id for token_id, token in added if token.special}
    return {*special, *tokenizer.all_special_ids} - {tokenizer.unk_token_id}


@cache
def folder_of(name: str) -> Path:
    """A tiny checkpoint on disk."""
    folder = _new_folder()
    if name in MULTILINGUAL:
        MULTILINGUAL[name](folder)
    else:
        tiny.build_tiny_checkpoint(name, folder)
    return folder


@cache
def checkpoint_of(name: str) -> Checkpoint:
    """A tiny checkpoint, loaded."""
    return load_checkpoint(str(folder_of(name)), CheckpointOptions(device="cpu"))


@cache
def serve(name: str) -> ServedModel:
    """A tiny checkpoint with its engine, which only `step` runs."""
    models = load_models(
        [ModelSource(name, str(folder_of(name)))],
        CheckpointOptions(device="cpu"),
        EngineLimits(),
        GenerationLimits(),
    )
    return models.models[name]
