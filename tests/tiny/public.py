"""Tiny replicas of two public checkpoints: their files and configuration keys, other sizes.

Their `config.json` is of the time of transformers 3: every key of both parts is written out, the
generation defaults are in `config.json` itself, and the weights are in a pickle.
"""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, EncoderDecoderModel

from tests.tiny.draw import Spread, finish
from tests.tiny.tokenizers import SENTENCES, sentencepiece_model, word_pieces

ARTICLES = (
    "The old bridge was built a hundred years ago. It rains, and the streets are wet. "
    "The children play in the garden, and my brother works in a small office.",
    " ".join(SENTENCES[3:7]),
    " ".join(SENTENCES[6:10]),
)

_WRITTEN_OUT: dict[str, Any] = {
    "_name_or_path": "",
    "add_cross_attention": False,
    "architectures": None,
    "attention_probs_dropout_prob": 0.1,
    "bad_words_ids": None,
    "bos_token_id": None,
    "chunk_size_feed_forward": 0,
    "decoder_start_token_id": None,
    "do_sample": False,
    "early_stopping": False,
    "eos_token_id": None,
    "finetuning_task": None,
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "initializer_range": 0.02,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "layer_norm_eps": 1e-12,
    "length_penalty": 1.0,
    "max_length": 20,
    "max_position_embeddings": 512,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "output_attentions": False,
    "output_hidden_states": False,
    "pad_token_id": 0,
    "prefix": None,
    "pruned_heads": {},
    "repetition_penalty": 1.0,
    "return_dict": False,
    "sep_token_id": None,
    "task_specific_params": None,
    "temperature": 1.0,
    "tie_encoder_decoder": False,
    "tie_word_embeddings": True,
    "tokenizer_class": None,
    "top_k": 50,
    "top_p": 1.0,
    "torchscript": False,
    "use_bfloat16": False,
    "use_cache": True,
    "xla_device": None,
}
_TINY: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
}


def build_bert2bert_cnn_dailymail(folder: Path) -> Path:
    """`patrickvonplaten/bert2bert-cnn_dailymail-fp16`."""
    unused = [f"[unused{index}]" for index in range(99)]
    special = ["[PAD]", *unused, "[UNK]", "[CLS]", "[SEP]", "[MASK]"]  # ids 0, 100, 101, 102, 103
    vocab = [*special, *(piece for piece in word_pieces() if piece not in special)]
    part = {
        **_WRITTEN_OUT,
        **_TINY,
        "model_type": "bert",
        "type_vocab_size": 2,
        "vocab_size": len(vocab),
    }
    config = {
        "architectures": ["EncoderDecoderModel"],
        "decoder": {**part, "add_cross_attention": True, "is_decoder": True},
        "decoder_start_token_id": 101,
        "early_stopping": True,
        "encoder": part,
        "eos_token_id": 102,
        "is_encoder_decoder": True,
        "length_penalty": 2.0,
        "max_length": 142,
        "min_length": 56,
        "model_type": "encoder-decoder",
        "no_repeat_ngram_size": 3,
        "num_beams": 4,
        "pad_token_id": 0,
        "tie_encoder_decoder": False,
    }
    _write(
        folder,
        config,
        Spread(
            seed=914,
            token=0.8,
            position=2,
            query=3,
            value=0.5,
            cross=2,
            feed_forward=2,
            bias=0.1,
            head=3,
            sharpness=1.0,
            eos=2.0,
            eos_bias=-1,
        ),
    )
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    _write_json(folder / "tokenizer_config.json", {"do_lower_case": True, "model_max_length": 512})
    tokens = {f"{role}_token": f"[{role.upper()}]" for role in ("unk", "sep", "pad", "cls", "mask")}
    _write_json(folder / "special_tokens_map.json", tokens)
    return folder


def build_bert2bert_wmt_en_de(folder: Path) -> Path:
    """`google/bert2bert_L-24_wmt_en_de`."""
    model = sentencepiece_model(127, pad=0, eos=1, bos=2, unk=3)
    part = {
        **_WRITTEN_OUT,
        **_TINY,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "model_type": "bert-generation",
        "vocab_size": 128,
    }
    config = {
        "architectures": ["EncoderDecoderModel"],
        "bos_token_id": 2,
        "decoder": {**part, "add_cross_attention": True, "is_decoder": True},
        "decoder_start_token_id": 2,
        "early_stopping": True,
        "encoder": part,
        "eos_token_id": 1,
        "is_encoder_decoder": True,
        "length_penalty": 0.6,
        "max_length": 128,
        "model_type": "encoder-decoder",
        "num_beams": 4,
        "pad_token_id": 0,
        "tie_encoder_decoder": False,
    }
    _write(
        folder,
        config,
        Spread(
            seed=17,
            token=0.5,
            position=3,
            query=2,
            value=1,
            cross=0.7,
            feed_forward=1,
            bias=0.1,
            head=2,
            sharpness=3.0,
            eos=1.6,
            eos_bias=1,
        ),
    )
    (folder / "spiece.model").write_bytes(model)
    _write_json(folder / "tokenizer_config.json", {"do_lower_case": False})
    return folder


def _write(folder: Path, config: dict[str, Any], spread: Spread) -> None:
    """The configuration as it stands here, and weights for it."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config)
    model = EncoderDecoderModel(config=AutoConfig.from_pretrained(folder))
    finish(model, spread, model.generation_config)
    weights = model.state_dict()
    for name in ("encoder", f"decoder.{model.decoder.base_model_prefix}"):  # a buffer of that time
        weights[f"{name}.embeddings.position_ids"] = torch.arange(512).expand(1, -1)
    torch.save(weights, folder / "pytorch_model.bin")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
