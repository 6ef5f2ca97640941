from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from training.model import build_model
from training.tasks import ModelSize
from training.warm_start import PretrainedEncoder, transfer_vocabulary, warm_start, word_pieces

IDS = {piece: row for row, piece in enumerate(["[UNK]", "the", "cat", "##s", "##at", "."])}


@pytest.fixture
def pretrained(tmp_path: Path, size: ModelSize) -> PretrainedEncoder:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(IDS),
        hidden_size=size.hidden,
        num_hidden_layers=3,
        num_attention_heads=size.num_heads,
        intermediate_size=size.intermediate,
        max_position_embeddings=64,
    )
    save_file(BertModel(config).state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "vocab.txt").write_text("\n".join(IDS), encoding="utf-8")
    return PretrainedEncoder(tmp_path)


@pytest.mark.parametrize(
    ("word", "starts_word", "pieces"),
    [
        ("cats", True, ["cat", "##s"]),
        ("sat", False, ["##s", "##at"]),
        ("cat", False, ["[UNK]"]),
        ("dog", True, ["[UNK]"]),
    ],
)
def test_words_split_longest_match_first(word: str, starts_word: bool, pieces: list[str]) -> None:
    assert word_pieces(word, IDS, starts_word=starts_word) == [IDS[piece] for piece in pieces]


def test_cased_pieces_take_the_uncased_embedding(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    embeddings = torch.eye(len(IDS)) * 10

    transferred = transfer_vocabulary(tokenizer, embeddings, IDS)

    for token, piece in {"\u0120The": "the", "\u0120the": "the", ".": "."}.items():
        row = transferred[tokenizer.convert_tokens_to_ids(token)]
        assert int(row.argmax()) == IDS[piece], token


def test_both_sides_start_from_the_lower_layers(
    pretrained: PretrainedEncoder, tokenizer: PreTrainedTokenizerFast, size: ModelSize
) -> None:
    model = build_model(size, dropout=0.0)

    copied = warm_start(model, tokenizer, pretrained)

    weights = model.state_dict()
    query = "encoder.layer.0.attention.self.query.weight"
    crossed = "decoder.bert.encoder.layer.0.crossattention.self.query.weight"
    for name in (f"encoder.{query}", f"decoder.bert.{query}", crossed):
        torch.testing.assert_close(weights[name], pretrained.weights[query])
    assert f"encoder.{query}" in copied
    assert crossed not in copied
    positions = "embeddings.position_embeddings.weight"
    torch.testing.assert_close(
        weights[f"encoder.{positions}"], pretrained.weights[positions][: size.max_source_len]
    )
