"""Checkpoint folders of the workloads: every server, ours and the others', loads the same ones."""

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from app.settings import SHIPPED
from benchmarks.shapes import BOS, EOS, SHAPES, UNK, Shape

_BUILT = Path(__file__).with_name("checkpoints-built")
_SEED = 0


def checkpoint_folder(name: str) -> Path:
    """Where a checkpoint is: a shipped one, or one of `SHAPES`, which is built on first use."""
    if name not in SHAPES:
        return SHIPPED / name
    shape = SHAPES[name]
    folder = _BUILT / f"{name}-{_digest(shape)}"
    if not folder.exists():
        _BUILT.mkdir(exist_ok=True)
        with TemporaryDirectory(dir=_BUILT) as unfinished:
            build_checkpoint(shape, Path(unfinished))
            Path(unfinished).rename(folder)
            Path(unfinished).mkdir()  # for the block to remove
    return folder


def build_checkpoint(shape: Shape, folder: Path) -> None:
    """Write a model with seeded random weights, and a tokenizer of words like `t123`."""
    torch.manual_seed(_SEED)
    model = shape.build(shape)
    config: Any = model.config
    defaults: Any = GenerationConfig
    model.generation_config = defaults(
        decoder_start_token_id=config.decoder_start_token_id,
        pad_token_id=config.pad_token_id,
        eos_token_id=config.eos_token_id,
        num_beams=4,  # as such checkpoints have it: on a GPU its steps are captured
    )
    model.save_pretrained(folder)
    _word_tokenizer(shape).save_pretrained(folder)


def _word_tokenizer(shape: Shape) -> PreTrainedTokenizerFast:
    """One token for each word, and `</s>` behind them."""
    special = {EOS: "</s>", BOS: "<s>", UNK: "<unk>", shape.pad_token_id: "<pad>"}
    names = [special.get(token_id, f"t{token_id}") for token_id in range(shape.vocab_size)]
    vocab = {name: token_id for token_id, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", EOS)]
    )
    fast: Any = PreTrainedTokenizerFast
    words: PreTrainedTokenizerFast = fast(
        tokenizer_object=tokenizer,
        eos_token="</s>",
        bos_token="<s>",
        unk_token="<unk>",
        pad_token="<pad>",
        model_max_length=1024,
    )
    return words


def _digest(shape: Shape) -> str:
    """Differs wherever the model would."""
    config = meta_model(shape).config.to_json_string()
    return hashlib.sha256(config.encode()).hexdigest()[:8]


def meta_model(shape: Shape) -> PreTrainedModel:
    """The model without its weights."""
    with torch.device("meta"):
        return shape.build(shape)
