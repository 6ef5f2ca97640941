"""Tiny random checkpoints of every architecture that the tests need: seeded, no download.

A freshly initialised tiny decoder soon repeats one token, whatever its source says; parity on such
answers proves little. So every parameter is drawn again from a seeded generator: matrices large
enough that attention is peaked and layers outweigh the residual, norms, biases and output biases
away from 1 and 0 so that a test notices when one is dropped, EOS likely enough to end answers at
different lengths. `assert_varied` states what that must achieve.
"""

import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sentencepiece
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BartTokenizer,
    BertConfig,
    BertGenerationConfig,
    BertGenerationTokenizer,
    BertTokenizer,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Tokenizer,
    M2M100Config,
    M2M100ForConditionalGeneration,
    M2M100Tokenizer,
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
    MBartTokenizer,
    MT5Config,
    MT5ForConditionalGeneration,
    NllbTokenizer,
    PegasusConfig,
    PegasusForConditionalGeneration,
    PegasusTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProphetNetConfig,
    ProphetNetForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

VOCAB = 128  # every token id below it can be detokenized
M2M100_VOCAB = 200  # its tokenizer brings 100 languages and 8 made-up words of its own
MAX_POSITIONS = 96
MAX_LENGTH = 40
NLLB_LANGUAGES = ("deu_Latn", "eng_Latn", "fra_Latn", "ron_Latn", "zho_Hans", "zho_Hant")

MBART_GERMAN = 97
M2M100_LANGUAGES = tuple(FAIRSEQ_LANGUAGE_CODES["m2m100"])

SENTENCES = (
    "The coffee is cold.",
    "Where is the train station?",
    "She reads a book every evening.",
    "We have not seen him since Monday.",
    "The children play in the garden.",
    "It rains, and the streets are wet.",
    "Can you help me with this question?",
    "They bought three red apples and some bread.",
    "My brother works in a small office.",
    "Tomorrow we will go to the museum.",
    "The old bridge was built a hundred years ago.",
    "I would like a cup of tea, please.",
    "Der Kaffee ist kalt.",
    "Wo ist der Bahnhof?",
    "Sie liest jeden Abend ein Buch.",
    "Wir haben ihn seit Montag nicht gesehen.",
    "Die Kinder spielen im Garten.",
    "Es regnet, und die Strassen sind nass.",
    "Kannst du mir bei dieser Frage helfen?",
    "Sie kauften drei rote Apfel und etwas Brot.",
    "Mein Bruder arbeitet in einem kleinen Laden.",
    "Morgen gehen wir ins Museum.",
    "Die alte Brucke wurde vor hundert Jahren gebaut.",
    "Ich hatte gern eine Tasse Tee, bitte.",
)


# Models ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """How widely the parameters of one architecture are drawn.

    Standard deviations; those of linear layers are times `1 / sqrt(fan_in)`.

    Attributes:
        seed: Of the generator that draws every parameter.
        token: Token embeddings, as the first layer sees them (after a model's own scaling).
        position: Position embeddings and relative biases.
        query: Query and key projections: larger means more peaked attention.
        value: Value and output projections of self-attention.
        cross: Value and output projections of cross-attention.
        feed_forward: Feed-forward layers and projections.
        bias: Biases of linear layers and norms.
        head: Output projection, where it is not tied.
        sharpness: Factor on the last norm before the output projection: scale of the logits.
        eos: Factor on the output row of EOS, and on its embedding where that is tied.
        eos_bias: Added to the output bias of EOS, where there is one.
    """

    seed: int = 0
    token: float = 0.7
    position: float = 0.7
    query: float = 2.0
    value: float = 1.0
    cross: float = 2.0
    feed_forward: float = 2.0
    bias: float = 0.2
    head: float = 1.0
    sharpness: float = 1.0
    eos: float = 1.6
    eos_bias: float = 0.0


_QUERY_NAMES = ("query", "key", "q_proj", "k_proj", "attention.q.", "attention.k.")
_TOKEN_NAMES = ("shared", "embed_tokens", "word_embeddings", "wte")
_CROSS_NAMES = ("cross", "encoder_attn", "encdecattention")


def _std(name: str, parameter: torch.Tensor, spread: Spread, embedding_scale: float) -> float:
    fan_in = math.sqrt(parameter.shape[-1])
    leaf = name.lower()

    def has(parts: Sequence[str]) -> bool:
        return any(part in leaf for part in parts)

    if has(("relative_attention_bias", "position", "wpe")):
        return spread.position
    if has(_TOKEN_NAMES):
        return spread.token / embedding_scale
    if has(("lm_head", "predictions.decoder")):
        return spread.head / fan_in
    if has(_QUERY_NAMES):
        return spread.query / fan_in
    if has(_CROSS_NAMES):
        return spread.cross / fan_in
    return (spread.value if "att" in leaf else spread.feed_forward) / fan_in


def _last_norm(model: PreTrainedModel) -> nn.Module:
    """The norm whose output the head (or the head's last linear layer) projects."""
    modules: dict[str, nn.Module] = dict(model.named_modules())
    for name in ("decoder.cls.predictions.transform.LayerNorm", "model.decoder.layer_norm"):
        if name in modules:
            return modules[name]
    decoder_norms = [
        module
        for name, module in modules.items()
        if "decoder" in name and "norm" in name.lower() and hasattr(module, "weight")
    ]
    return decoder_norms[-1]


@torch.no_grad()
def _draw(model: PreTrainedModel, spread: Spread) -> None:
    """Draw every parameter and output bias again; tied ones stay tied, sinusoids stay."""
    generator = torch.Generator().manual_seed(spread.seed)
    scaled = getattr(model.config, "scale_embedding", False)
    embedding_scale = model.config.d_model**0.5 if scaled else 1.0

    def normal(shape: torch.Size) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    for name, parameter in sorted(model.named_parameters()):
        if not parameter.requires_grad:
            continue
        if parameter.ndim > 1:
            std = _std(name, parameter, spread, embedding_scale)
            parameter.copy_(normal(parameter.shape) * std)
        else:
            centre = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            parameter.copy_(centre + normal(parameter.shape) * spread.bias)
    for name, buffer in sorted(model.named_buffers()):
        if name.endswith("final_logits_bias"):
            buffer.copy_(normal(buffer.shape))
    if not isinstance(model, GPT2LMHeadModel):
        for parameter in _last_norm(model).parameters():
            parameter.mul_(spread.sharpness * embedding_scale)


@torch.no_grad()
def _favour_eos(model: PreTrainedModel, spread: Spread) -> None:
    eos = model.generation_config.eos_token_id
    output = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    assert isinstance(output, nn.Linear)
    output.weight[eos] *= spread.eos
    if output.bias is not None:
        output.bias[eos] += spread.eos_bias
    if hasattr(model, "final_logits_bias"):
        bias = model.final_logits_bias
        assert isinstance(bias, torch.Tensor)
        bias[0, eos] += spread.eos_bias


def _generation(**defaults: Any) -> GenerationConfig:
    return GenerationConfig(max_length=MAX_LENGTH, **defaults)  # type: ignore[no-untyped-call]


def _finish(
    model: PreTrainedModel, spread: Spread, generation: GenerationConfig
) -> PreTrainedModel:
    model.generation_config = generation
    _draw(model, spread)
    _favour_eos(model, spread)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def _bert_config(kind: type[Any], *, hidden: int, layers: int, decoder: bool, **extra: Any) -> Any:
    return kind(
        vocab_size=VOCAB,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        max_position_embeddings=MAX_POSITIONS,
        is_decoder=decoder,
        add_cross_attention=decoder,
        **extra,
    )


def _encoder_decoder(encoder: Any, decoder: Any, **special: int) -> EncoderDecoderModel:
    config = EncoderDecoderConfig.from_encoder_decoder_configs(
        encoder,
        decoder,
        decoder_start_token_id=special["bos"],
        pad_token_id=special["pad"],
        eos_token_id=special["eos"],
    )
    return EncoderDecoderModel(config=config)


def _bert_generation_defaults() -> GenerationConfig:
    return _generation(decoder_start_token_id=2, pad_token_id=0, eos_token_id=3)


def _bert2bert() -> PreTrainedModel:
    model = _encoder_decoder(
        _bert_config(BertConfig, hidden=32, layers=3, decoder=False),
        _bert_config(BertConfig, hidden=32, layers=2, decoder=True),
        bos=2,
        pad=0,
        eos=3,
    )
    return _finish(model, SPREADS["bert2bert"], _bert_generation_defaults())


def _bert2bert_projected() -> PreTrainedModel:
    model = _encoder_decoder(
        _bert_config(BertConfig, hidden=48, layers=2, decoder=False),
        _bert_config(BertConfig, hidden=32, layers=2, decoder=True),
        bos=2,
        pad=0,
        eos=3,
    )
    return _finish(model, SPREADS["bert2bert-projected"], _bert_generation_defaults())


def _bert_generation() -> PreTrainedModel:
    model = _encoder_decoder(
        _bert_config(BertGenerationConfig, hidden=32, layers=2, decoder=False),
        _bert_config(BertGenerationConfig, hidden=32, layers=2, decoder=True),
        bos=2,
        pad=0,
        eos=1,
    )
    generation = _generation(decoder_start_token_id=2, pad_token_id=0, eos_token_id=1)
    return _finish(model, SPREADS["bert-generation"], generation)


def _bart_sizes(**extra: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCAB,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": MAX_POSITIONS,
        **extra,
    }


def _bart() -> PreTrainedModel:
    model = BartForConditionalGeneration(
        BartConfig(**_bart_sizes(bos_token_id=0, pad_token_id=1, eos_token_id=2))
    )
    generation = _generation(
        decoder_start_token_id=2,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        forced_bos_token_id=0,
        forced_eos_token_id=2,
        no_repeat_ngram_size=3,
        num_beams=4,
        early_stopping=True,
    )
    return _finish(model, SPREADS["bart"], generation)


def _mbart() -> PreTrainedModel:
    model = MBartForConditionalGeneration(
        MBartConfig(
            **_bart_sizes(bos_token_id=0, pad_token_id=1, eos_token_id=2, scale_embedding=True)
        )
    )
    generation = _generation(
        decoder_start_token_id=MBART_GERMAN,
        pad_token_id=1,
        eos_token_id=2,
        num_beams=5,
        early_stopping=True,
    )
    return _finish(model, SPREADS["mbart"], generation)


def _marian() -> PreTrainedModel:
    pad = VOCAB - 1
    model = MarianMTModel(
        MarianConfig(
            **_bart_sizes(
                pad_token_id=pad,
                eos_token_id=0,
                decoder_start_token_id=pad,
                scale_embedding=True,
                activation_function="swish",
            )
        )
    )
    generation = _generation(
        decoder_start_token_id=pad,
        pad_token_id=pad,
        eos_token_id=0,
        forced_eos_token_id=0,
        bad_words_ids=[[pad]],
        num_beams=4,
        renormalize_logits=True,  # as the published Marian checkpoints have it,
    )
    return _finish(model, SPREADS["marian"], generation)


def _m2m100_model(vocab: int, spread: Spread) -> PreTrainedModel:
    model = M2M100ForConditionalGeneration(
        M2M100Config(
            **_bart_sizes(
                vocab_size=vocab,
                bos_token_id=0,
                pad_token_id=1,
                eos_token_id=2,
                scale_embedding=True,
            )
        )
    )
    generation = _generation(
        decoder_start_token_id=2,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        num_beams=5,
        early_stopping=True,
    )
    return _finish(model, spread, generation)


def _m2m100() -> PreTrainedModel:
    return _m2m100_model(M2M100_VOCAB, SPREADS["m2m100"])


def _nllb() -> PreTrainedModel:
    return _m2m100_model(VOCAB, SPREADS["nllb"])


def _pegasus() -> PreTrainedModel:
    model = PegasusForConditionalGeneration(
        PegasusConfig(
            **_bart_sizes(
                pad_token_id=0, eos_token_id=1, scale_embedding=True, activation_function="relu"
            )
        )
    )
    generation = _generation(
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
        forced_eos_token_id=1,
        num_beams=8,
        length_penalty=0.8,
    )
    return _finish(model, SPREADS["pegasus"], generation)


def _t5_sizes(**extra: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCAB,
        "d_model": 32,
        "d_kv": 12,  # 4 heads of 12 are not d_model
        "d_ff": 64,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 20,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        **extra,
    }


def _t5_generation_defaults() -> GenerationConfig:
    return _generation(decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)


def _t5() -> PreTrainedModel:
    model = T5ForConditionalGeneration(
        T5Config(**_t5_sizes(feed_forward_proj="relu", tie_word_embeddings=True))
    )
    return _finish(model, SPREADS["t5"], _t5_generation_defaults())


def _t5_gated() -> PreTrainedModel:
    model = T5ForConditionalGeneration(
        T5Config(
            **_t5_sizes(num_layers=3, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
        )
    )
    return _finish(model, SPREADS["t5-gated"], _t5_generation_defaults())


def _mt5() -> PreTrainedModel:
    model = MT5ForConditionalGeneration(
        MT5Config(**_t5_sizes(d_kv=8, feed_forward_proj="gated-gelu", tie_word_embeddings=False))
    )
    return _finish(model, SPREADS["mt5"], _t5_generation_defaults())


def _prophetnet() -> PreTrainedModel:
    model = ProphetNetForConditionalGeneration(
        ProphetNetConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            num_encoder_layers=2,
            num_decoder_layers=2,
            num_encoder_attention_heads=4,
            num_decoder_attention_heads=4,
            max_position_embeddings=MAX_POSITIONS,
            decoder_start_token_id=2,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=3,
        )
    )
    return _finish(model, SPREADS["prophetnet"], _bert_generation_defaults())


def _gpt2() -> PreTrainedModel:
    model = GPT2LMHeadModel(
        GPT2Config(
            bos_token_id=0,
            eos_token_id=0,
            vocab_size=VOCAB,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=MAX_POSITIONS,
        )
    )
    generation = _generation(eos_token_id=2, pad_token_id=1)
    return _finish(model, Spread(), generation)


SPREADS: dict[str, Spread] = {
    "bert2bert": Spread(
        seed=860,
        token=0.5,
        position=2,
        query=3,
        value=0.7,
        cross=0.7,
        feed_forward=1.0,
        bias=0.1,
        head=3.0,
        sharpness=3.0,
        eos=2.0,
        eos_bias=-1,
    ),
    "bert2bert-projected": Spread(
        seed=220,
        token=0.8,
        position=3,
        query=2,
        value=0.7,
        cross=1,
        feed_forward=1.0,
        bias=0.1,
        head=1.0,
        sharpness=2.0,
        eos=1.2,
        eos_bias=2,
    ),
    "bert-generation": Spread(
        seed=908,
        token=0.3,
        position=1.5,
        query=3,
        value=0.5,
        cross=1,
        feed_forward=4,
        bias=0.1,
        head=3.0,
        sharpness=6.0,
        eos=2.2,
        eos_bias=0,
    ),
    "bart": Spread(
        seed=338,
        token=0.3,
        position=0.5,
        query=3,
        value=1.5,
        cross=0.7,
        feed_forward=1.0,
        bias=0.1,
        head=1.0,
        sharpness=2.0,
        eos=2.0,
        eos_bias=2,
    ),
    "mbart": Spread(
        seed=861,
        token=0.5,
        position=1.5,
        query=3,
        value=1,
        cross=4,
        feed_forward=2,
        bias=0.1,
        head=3.0,
        sharpness=2.0,
        eos=2.0,
        eos_bias=2,
    ),
    "marian": Spread(
        seed=266,
        token=0.5,
        position=0.3,
        query=1.5,
        value=0.5,
        cross=0.7,
        feed_forward=3,
        bias=0.1,
        head=2.0,
        sharpness=6.0,
        eos=2.2,
        eos_bias=-1,
    ),
    "m2m100": Spread(
        seed=775,
        token=0.5,
        position=1.5,
        query=4,
        value=0.5,
        cross=1.5,
        feed_forward=4,
        bias=0.2,
        head=1.0,
        sharpness=2.0,
        eos=2.0,
        eos_bias=0,
    ),
    "nllb": Spread(
        seed=130,
        token=0.2,
        position=1.5,
        query=3,
        value=1.5,
        cross=1,
        feed_forward=3,
        bias=0.1,
        head=3.0,
        sharpness=6.0,
        eos=2.6,
        eos_bias=0,
    ),
    "pegasus": Spread(
        seed=151,
        token=0.5,
        position=0.3,
        query=2,
        value=0.5,
        cross=0.7,
        feed_forward=4,
        bias=0.1,
        head=2.0,
        sharpness=1.0,
        eos=2.2,
        eos_bias=-1,
    ),
    "t5": Spread(
        seed=833,
        token=0.5,
        position=3,
        query=1.5,
        value=2,
        cross=1.5,
        feed_forward=3,
        bias=0.2,
        head=3.0,
        sharpness=2.0,
        eos=2.0,
        eos_bias=2,
    ),
    "t5-gated": Spread(
        seed=529,
        token=0.8,
        position=3,
        query=2,
        value=0.7,
        cross=2,
        feed_forward=4,
        bias=0.3,
        head=3.0,
        sharpness=2.0,
        eos=1.8,
        eos_bias=-1,
    ),
    "mt5": Spread(
        seed=861,
        token=1.2,
        position=3,
        query=2,
        value=1,
        cross=0.7,
        feed_forward=6,
        bias=0.1,
        head=1.0,
        sharpness=6.0,
        eos=1.4,
        eos_bias=-1,
    ),
    "prophetnet": Spread(
        seed=274,
        token=1.2,
        position=1.5,
        query=1.5,
        value=0.7,
        cross=0.7,
        feed_forward=4,
        bias=0.3,
        head=1.0,
        sharpness=6.0,
        eos=2.2,
        eos_bias=2,
    ),
}

LEAN_ARCHITECTURES: dict[str, Callable[[], PreTrainedModel]] = {
    "bert2bert": _bert2bert,
    "bert2bert-projected": _bert2bert_projected,
    "bert-generation": _bert_generation,
    "bart": _bart,
    "mbart": _mbart,
    "marian": _marian,
    "m2m100": _m2m100,
    "nllb": _nllb,
    "pegasus": _pegasus,
    "t5": _t5,
    "t5-gated": _t5_gated,
    "mt5": _mt5,
}
FALLBACK_ARCHITECTURES: dict[str, Callable[[], PreTrainedModel]] = {"prophetnet": _prophetnet}
DECODER_ONLY_ARCHITECTURES: dict[str, Callable[[], PreTrainedModel]] = {"gpt2": _gpt2}
TINY_ARCHITECTURES: dict[str, Callable[[], PreTrainedModel]] = {
    **LEAN_ARCHITECTURES,
    **FALLBACK_ARCHITECTURES,
    **DECODER_ONLY_ARCHITECTURES,
}


# Tokenizers --------------------------------------------------------------------------------------


@cache
def _byte_bpe(*special_tokens: str) -> tuple[dict[str, int], list[Any]]:
    """A byte-level BPE over the bytes of `SENTENCES`: vocabulary and merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=list(special_tokens), show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return _merges_of(tokenizer)


def _merges_of(tokenizer: Tokenizer) -> tuple[dict[str, int], list[Any]]:
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


@cache
def _word_pieces() -> dict[str, int]:
    """Special tokens, characters and frequent words: the library's trainer varies with the run."""
    words = re.findall(r"\w+|[^\w\s]", " ".join(SENTENCES).lower())
    characters = sorted(set("".join(words)))
    letters = [f"##{character}" for character in characters if character.isalpha()]
    frequent = sorted(Counter(words).items(), key=lambda pair: (-pair[1], pair[0]))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = dict.fromkeys([*special, *characters, *letters, *(word for word, _ in frequent)])
    return {piece: index for index, piece in enumerate(list(pieces)[:VOCAB])}


@cache
def _metaspace_bpe(size: int, *special_tokens: str) -> tuple[dict[str, int], list[Any]]:
    """A sentencepiece-like BPE: `▁` for a space."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(special_tokens), show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return _merges_of(tokenizer)


@cache
def _sentencepiece_model(size: int, **special: int) -> bytes:
    model = BytesIO()
    ids: dict[str, Any] = {f"{name}_id": token_id for name, token_id in special.items()}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        vocab_size=size,
        model_type="unigram",
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
        **ids,
    )
    return model.getvalue()


@cache
def _unigram(size: int) -> tuple[tuple[str, float], ...]:
    """Pieces with log-probabilities, special tokens apart."""
    processor = sentencepiece.SentencePieceProcessor(
        model_proto=_sentencepiece_model(size + 1, unk=0, bos=-1, eos=-1, pad=-1)
    )
    ids = range(1, processor.GetPieceSize())
    return tuple((processor.IdToPiece(index), processor.GetScore(index)) for index in ids)


def _pieces_of(model: bytes) -> list[str]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [processor.IdToPiece(index) for index in range(processor.GetPieceSize())]


def _bert_tokenizer(_folder: Path) -> PreTrainedTokenizerBase:
    return BertTokenizer(vocab=_word_pieces(), model_max_length=MAX_POSITIONS)


def _bart_tokenizer(_folder: Path) -> PreTrainedTokenizerBase:
    vocab, merges = _byte_bpe("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    return BartTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_POSITIONS)


def _gpt2_tokenizer(_folder: Path) -> PreTrainedTokenizerBase:
    vocab, merges = _byte_bpe("<|endoftext|>")
    return GPT2Tokenizer(vocab=vocab, merges=merges)


def _mbart_tokenizer(_folder: Path | None = None) -> MBartTokenizer:
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return MBartTokenizer(
        vocab=[*special, *_unigram(90)], src_lang="en_XX", model_max_length=MAX_POSITIONS
    )


def _nllb_tokenizer(_folder: Path) -> PreTrainedTokenizerBase:
    vocab, merges = _metaspace_bpe(110, "<s>", "<pad>", "</s>", "<unk>")
    return NllbTokenizer(
        vocab=vocab,
        merges=merges,
        extra_special_tokens=list(NLLB_LANGUAGES),
        model_max_length=MAX_POSITIONS,
    )


def _t5_tokenizer(_folder: Path) -> PreTrainedTokenizerBase:
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return T5Tokenizer(vocab=[*special, *_unigram(110)], extra_ids=8)


def _pegasus_tokenizer(_folder: Path) -> PreTrainedTokenizerBase:
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("<mask_1>", 0.0), ("<mask_2>", 0.0)]
    return PegasusTokenizer(
        vocab=[*special, *_unigram(110)], offset=4, model_max_length=MAX_POSITIONS
    )


def _bert_generation_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    path = folder / "spiece.model"
    path.write_bytes(_sentencepiece_model(VOCAB - 1, pad=0, eos=1, bos=2, unk=3))
    return BertGenerationTokenizer(vocab_file=str(path), model_max_length=MAX_POSITIONS)


def _marian_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    model = _sentencepiece_model(VOCAB - 1, unk=1, bos=-1, eos=0, pad=-1)
    pieces = _pieces_of(model)
    vocab = {piece: index for index, piece in enumerate(pieces)} | {"<pad>": VOCAB - 1}
    (folder / "source.spm").write_bytes(model)
    (folder / "target.spm").write_bytes(model)
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    return MarianTokenizer(
        source_spm=str(folder / "source.spm"),
        target_spm=str(folder / "target.spm"),
        vocab=str(folder / "vocab.json"),
        source_lang="en",
        target_lang="de",
        model_max_length=MAX_POSITIONS,
    )


def _m2m100_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    model = _sentencepiece_model(92, unk=3, bos=0, eos=2, pad=1)
    pieces = _pieces_of(model)
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    vocab = {piece: index for index, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    return M2M100Tokenizer(
        vocab_file=str(folder / "vocab.json"),
        spm_file=str(folder / "sentencepiece.bpe.model"),
        additional_special_tokens=[f"__{code}__" for code in M2M100_LANGUAGES],
        model_max_length=MAX_POSITIONS,
    )


_TOKENIZERS: dict[str, Callable[[Path], PreTrainedTokenizerBase]] = {
    "bert2bert": _bert_tokenizer,
    "bert2bert-projected": _bert_tokenizer,
    "bert-generation": _bert_generation_tokenizer,
    "bart": _bart_tokenizer,
    "mbart": _mbart_tokenizer,
    "marian": _marian_tokenizer,
    "m2m100": _m2m100_tokenizer,
    "nllb": _nllb_tokenizer,
    "pegasus": _pegasus_tokenizer,
    "t5": _t5_tokenizer,
    "t5-gated": _t5_tokenizer,
    "mt5": _t5_tokenizer,
    "prophetnet": _bert_tokenizer,
    "gpt2": _gpt2_tokenizer,
}


# Checkpoints and what tests ask of them -----------------------------------------------------------


def build_tiny_checkpoint(name: str, folder: Path) -> Path:
    """Write config, weights, tokenizer and generation defaults of one architecture to a folder.

    Args:
        name: A key of `TINY_ARCHITECTURES`.
        folder: Made where it does not exist.

    Returns:
        The folder, ready for `from_pretrained`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    TINY_ARCHITECTURES[name]().save_pretrained(folder)
    with TemporaryDirectory() as scratch:
        _TOKENIZERS[name](Path(scratch)).save_pretrained(folder)
    return folder


def random_sources(
    num: int, *, vocab: int = 90, min_len: int = 4, max_len: int = 20, seed: int = 0, eos: int = 2
) -> list[tuple[int, ...]]:
    """Sources of unequal length without special tokens, apart from EOS at the end."""
    rng = random.Random(seed)
    return [
        (*(rng.randrange(5, vocab) for _ in range(rng.randint(min_len, max_len) - 1)), eos)
        for _ in range(num)
    ]


def answer_of(row: Sequence[int], eos_ids: Sequence[int]) -> tuple[int, ...]:
    """The target tokens of one row of `generate()`: after the start token, up to the first EOS."""
    answer = []
    for token in row[1:]:
        answer.append(int(token))
        if token in eos_ids:
            break
    return tuple(answer)


def assert_varied(answers: Sequence[Sequence[int]]) -> None:
    """Check that answers are worth comparing: they vary over steps, sources and lengths."""
    lengths = [len(answer) for answer in answers]
    assert len({tuple(answer) for answer in answers}) == len(answers), answers
    assert len(set(lengths)) >= len(answers) // 3, f"lengths: {lengths}"
    assert max(lengths) >= 12, f"lengths: {lengths}"
    long_ones = [answer for answer in answers if len(answer) >= 12]
    distinct = [len(set(answer)) for answer in long_ones]
    assert min(distinct) >= 5, f"distinct tokens: {distinct} in answers of {lengths}"
    starts = {answer[1] for answer in answers if len(answer) > 1}
    assert len(starts) >= 3, f"second tokens: {starts}"
