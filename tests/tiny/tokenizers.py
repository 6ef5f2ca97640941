"""Tokenizers trained on a few sentences, one for each kind of checkpoint."""

import json
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (  # type: ignore[attr-defined]  # LED and MVP are lazy names
    BartTokenizer,
    BertGenerationTokenizer,
    BertTokenizer,
    BlenderbotSmallTokenizer,
    BlenderbotTokenizer,
    ByT5Tokenizer,
    CamembertTokenizer,
    FSMTTokenizer,
    GemmaTokenizer,
    GPT2Tokenizer,
    LEDTokenizer,
    M2M100Tokenizer,
    MarianTokenizer,
    MBartTokenizer,
    MvpTokenizer,
    NllbTokenizer,
    PegasusTokenizer,
    PLBartTokenizer,
    PreTrainedTokenizerBase,
    RobertaTokenizer,
    SeamlessM4TTokenizer,
    T5Tokenizer,
    XLMRobertaTokenizer,
)
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

from tests.tiny.draw import MAX_POSITIONS, VOCAB

NLLB_LANGUAGES = ("deu_Latn", "eng_Latn", "fra_Latn", "ron_Latn", "zho_Hans", "zho_Hant")
SEAMLESS_LANGUAGES = ("deu", "eng", "fra")
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
def word_pieces() -> dict[str, int]:
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
def sentencepiece_model(size: int, **special: int) -> bytes:
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
        model_proto=sentencepiece_model(size + 1, unk=0, bos=-1, eos=-1, pad=-1)
    )
    ids = range(1, processor.GetPieceSize())
    return tuple((processor.IdToPiece(index), processor.GetScore(index)) for index in ids)


def _pieces_of(model: bytes) -> list[str]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [processor.IdToPiece(index) for index in range(processor.GetPieceSize())]


def _bert_tokenizer(_folder: Path) -> PreTrainedTokenizerBase:
    return BertTokenizer(vocab=word_pieces(), model_max_length=MAX_POSITIONS)


def _bart_tokenizer(_folder: Path) -> PreTrainedTokenizerBase:
    vocab, merges = _byte_bpe("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    return BartTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_POSITIONS)


def _roberta_tokenizer(_folder: Path) -> PreTrainedTokenizerBase:
    vocab, merges = _byte_bpe("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    return RobertaTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_POSITIONS)


def _xlm_roberta_tokenizer(_folder: Path) -> PreTrainedTokenizerBase:
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return XLMRobertaTokenizer(
        vocab=[*special, *_unigram(110), ("<mask>", 0.0)], model_max_length=MAX_POSITIONS
    )


def _camembert_tokenizer(_folder: Path) -> PreTrainedTokenizerBase:
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return CamembertTokenizer(
        vocab=[*special, *_unigram(110), ("<mask>", 0.0)],
        additional_special_tokens=[],
        model_max_length=MAX_POSITIONS,
    )


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
    path.write_bytes(sentencepiece_model(VOCAB - 1, pad=0, eos=1, bos=2, unk=3))
    return BertGenerationTokenizer(vocab_file=str(path), model_max_length=MAX_POSITIONS)


def _marian_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    model = sentencepiece_model(VOCAB - 1, unk=1, bos=-1, eos=0, pad=-1)
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
    model = sentencepiece_model(92, unk=3, bos=0, eos=2, pad=1)
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


def _made(kind: Any, **arguments: Any) -> PreTrainedTokenizerBase:
    """A tokenizer of a class that carries no types."""
    tokenizer = kind(**arguments)
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def _blenderbot_tokenizer(_folder: Path) -> PreTrainedTokenizerBase:
    vocab, merges = _byte_bpe("<pad>", "<s>", "</s>", "<unk>", "<mask>")
    return _made(BlenderbotTokenizer, vocab=vocab, merges=merges, model_max_length=MAX_POSITIONS)


def _blenderbot_small_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    letters = sorted(set("".join(SENTENCES).lower()) - {" "})
    pieces = ["__null__", "__start__", "__end__", "__unk__", "__newln__", *letters]
    pieces += [f"{letter}@@" for letter in letters]
    pieces += [f"__{index}__" for index in range(VOCAB - len(pieces))]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    files = {"vocab_file": str(folder / "vocab.json"), "merges_file": str(folder / "merges.txt")}
    return _made(BlenderbotSmallTokenizer, **files, model_max_length=MAX_POSITIONS)


def _led_tokenizer(_folder: Path) -> PreTrainedTokenizerBase:
    vocab, merges = _byte_bpe("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    return _made(LEDTokenizer, vocab=vocab, merges=merges, model_max_length=MAX_POSITIONS)


def _mvp_tokenizer(_folder: Path) -> PreTrainedTokenizerBase:
    vocab, merges = _byte_bpe("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    return _made(MvpTokenizer, vocab=vocab, merges=merges, model_max_length=MAX_POSITIONS)


def _plbart_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    path = folder / "sentencepiece.bpe.model"
    path.write_bytes(sentencepiece_model(VOCAB - 5, unk=0, bos=1, eos=2, pad=-1))
    return PLBartTokenizer(
        str(path), src_lang="en_XX", tgt_lang="python", model_max_length=MAX_POSITIONS
    )


def _byt5_tokenizer(_folder: Path) -> PreTrainedTokenizerBase:
    return ByT5Tokenizer()


def _fsmt_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    letters = sorted(set("".join(SENTENCES)) - {" "})
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *letters, *(f"{letter}</w>" for letter in letters)]
    vocab = {piece: index for index, piece in enumerate(pieces[:VOCAB])}
    for name in ("vocab-src.json", "vocab-tgt.json"):
        (folder / name).write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("", encoding="utf-8")
    return _made(
        FSMTTokenizer,
        langs=["en", "de"],
        src_vocab_file=str(folder / "vocab-src.json"),
        tgt_vocab_file=str(folder / "vocab-tgt.json"),
        merges_file=str(folder / "merges.txt"),
        model_max_length=MAX_POSITIONS,
    )


def _gemma_tokenizer(_folder: Path) -> PreTrainedTokenizerBase:
    vocab, merges = _metaspace_bpe(VOCAB, "<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
    return GemmaTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_POSITIONS)


def _seamless_tokenizer(_folder: Path) -> PreTrainedTokenizerBase:
    vocab, merges = _metaspace_bpe(110, "<pad>", "<unk>", "<s>", "</s>")
    return SeamlessM4TTokenizer(
        vocab=vocab,
        merges=merges,
        extra_special_tokens=[f"__{code}__" for code in SEAMLESS_LANGUAGES],
        src_lang="eng",
        tgt_lang="deu",
        model_max_length=MAX_POSITIONS,
    )


TOKENIZERS: dict[str, Callable[[Path], PreTrainedTokenizerBase]] = {
    "bert2bert": _bert_tokenizer,
    "bert2bert-projected": _bert_tokenizer,
    "bert-generation": _bert_generation_tokenizer,
    "bert2bert-tied": _bert_tokenizer,
    "roberta2roberta": _roberta_tokenizer,
    "electra2electra": _bert_tokenizer,
    "bert2gpt2": _bert_tokenizer,
    "bert2roberta": _bert_tokenizer,
    "xlmr2xlmr": _xlm_roberta_tokenizer,
    "camembert2camembert": _camembert_tokenizer,
    "bart": _bart_tokenizer,
    "mbart": _mbart_tokenizer,
    "marian": _marian_tokenizer,
    "m2m100": _m2m100_tokenizer,
    "nllb": _nllb_tokenizer,
    "pegasus": _pegasus_tokenizer,
    "bigbird-pegasus": _pegasus_tokenizer,
    "blenderbot": _blenderbot_tokenizer,
    "blenderbot-small": _blenderbot_small_tokenizer,
    "led": _led_tokenizer,
    "mvp": _mvp_tokenizer,
    "mvp-prompt": _mvp_tokenizer,
    "plbart": _plbart_tokenizer,
    "t5": _t5_tokenizer,
    "t5-gated": _t5_tokenizer,
    "mt5": _t5_tokenizer,
    "umt5": _t5_tokenizer,
    "byt5": _byt5_tokenizer,
    "longt5-local": _t5_tokenizer,
    "longt5-global": _t5_tokenizer,
    "prophetnet": _bert_tokenizer,
    "fsmt": _fsmt_tokenizer,
    "pegasus-x": _pegasus_tokenizer,
    "nllb-moe": _nllb_tokenizer,
    "switch": _t5_tokenizer,
    "t5gemma": _gemma_tokenizer,
    "t5gemma2": _gemma_tokenizer,
    "seamless-m4t": _seamless_tokenizer,
    "seamless-m4t-v2": _seamless_tokenizer,
    "gpt2": _gpt2_tokenizer,
}
