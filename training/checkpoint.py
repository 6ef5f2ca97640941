"""Writes and reads checkpoint folders that plain transformers understands."""

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    EncoderDecoderModel,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

from training.tasks import Task
from training.tokenizer import BOS_ID, EOS_ID, PAD_ID


def generation_config(task: Task, *, length_penalty: float) -> GenerationConfig:
    """The task's generation defaults with this length penalty."""
    defaults = task.generation
    return GenerationConfig(  # type: ignore[no-untyped-call]
        num_beams=defaults.num_beams,
        length_penalty=length_penalty,
        max_length=defaults.max_length,
        no_repeat_ngram_size=defaults.no_repeat_ngram_size,
        early_stopping=defaults.early_stopping,
        decoder_start_token_id=BOS_ID,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
    )


def save_checkpoint(
    model: EncoderDecoderModel,
    tokenizer: PreTrainedTokenizerFast,
    generation: GenerationConfig,
    folder: Path,
    *,
    languages: tuple[str, str] | None = None,
) -> None:
    """Write config, generation defaults, float16 weights and tokenizer; changes `model`.

    `languages`, source and target, go to the entry `tandem` of the config, where the server
    looks for them: an `EncoderDecoderModel` has no place of its own for them.

    transformers ties the decoder's embedding to its LM head but not to the encoder's, which
    therefore becomes a copy of its own.
    """
    encoder: Any = model.encoder
    encoder.set_input_embeddings(copy.deepcopy(encoder.get_input_embeddings()))
    model.generation_config = generation
    if languages is not None:
        model.config.tandem = dict(zip(("source_lang", "target_lang"), languages, strict=True))
    model.half().save_pretrained(folder)  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(folder)


def load_checkpoint(folder: Path) -> tuple[EncoderDecoderModel, PreTrainedTokenizerFast]:
    """The checkpoint in float32, as any user of transformers would load it.

    Raises:
        ValueError: The weights on disk and those of the model do not match name for name.
    """
    loaded: Any = EncoderDecoderModel.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    model, info = loaded
    if faults := {kind: keys for kind, keys in info.items() if keys}:
        raise ValueError(f"{folder} does not load cleanly: {faults}")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    return model.eval(), tokenizer
