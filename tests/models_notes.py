"""What docs/models.md says about single architectures."""

_EQUAL_LENGTH = "encoder cuts sources into blocks: only equal lengths share an encoder batch"
_MICRO_BATCH = "micro-batches of equal parameters"
_EQUAL_MICRO_BATCH = f"{_MICRO_BATCH} and source length"

NOTES: dict[str, str] = {
    "bert2bert": "any encoder may stand before this decoder",
    "bert2bert-projected": "encoder and decoder of different width",
    "bert2bert-tied": "weights shared by both sides",
    "mbart": "mBART-50 too: another tokenizer",
    "marian": "bilingual; multi-target (`>>xx<<`) too: another tokenizer",
    "m2m100": "a pad token inside a target takes the padding position",
    "nllb": "M2M100 with another tokenizer",
    "bigbird-pegasus": f"{_EQUAL_LENGTH}; its attention mode is that of a fresh model",
    "blenderbot-small": "norm of the embeddings before the positions, scale in the encoder only",
    "led": f"{_EQUAL_LENGTH}; global attention is a setting",
    "mvp": "without prompts",
    "mvp-prompt": f"prompts are keys and values of their own; {_MICRO_BATCH}",
    "t5": "T5 v1.0; more decoder than encoder layers, too, where `generate()` itself fails",
    "t5-gated": "T5 v1.1, Flan-T5",
    "umt5": "a position bias per layer",
    "byt5": "T5 over bytes",
    "longt5-local": _EQUAL_LENGTH,
    "longt5-global": _EQUAL_LENGTH,
    "prophetnet": _MICRO_BATCH,
    "fsmt": f"two vocabularies; {_MICRO_BATCH}",
    "pegasus-x": _EQUAL_MICRO_BATCH,
    "nllb-moe": "alone: experts drop tokens over their capacity",
    "switch": "alone: experts drop tokens over their capacity",
    "t5gemma": _EQUAL_MICRO_BATCH,
    "t5gemma2": f"text only; {_EQUAL_MICRO_BATCH}",
    "seamless-m4t": f"text to text; {_MICRO_BATCH}",
    "seamless-m4t-v2": f"text to text; {_MICRO_BATCH}",
}
