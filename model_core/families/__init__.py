"""Decoder families: each maps the weights of Hugging Face modules onto `model_core.decoder`."""

from collections.abc import Callable

from transformers import PreTrainedModel

from model_core.cuda.suiting import suited
from model_core.decoder import Decoder
from model_core.families.bart import build_bart_decoder
from model_core.families.bert import build_bert_decoder
from model_core.families.gpt2 import build_gpt2_decoder
from model_core.families.t5 import build_t5_decoder

Builder = Callable[[PreTrainedModel], Decoder]

_FAMILIES: dict[str, tuple[str, Builder]] = {
    "bart": ("bart", build_bart_decoder),
    "mbart": ("bart", build_bart_decoder),
    "marian": ("bart", build_bart_decoder),
    "m2m_100": ("bart", build_bart_decoder),
    "pegasus": ("bart", build_bart_decoder),
    "bigbird_pegasus": ("bart", build_bart_decoder),
    "blenderbot": ("bart", build_bart_decoder),
    "blenderbot-small": ("bart", build_bart_decoder),
    "led": ("bart", build_bart_decoder),
    "mvp": ("bart", build_bart_decoder),
    "plbart": ("bart", build_bart_decoder),
    "t5": ("t5", build_t5_decoder),
    "mt5": ("t5", build_t5_decoder),
    "umt5": ("t5", build_t5_decoder),
    "longt5": ("t5", build_t5_decoder),
    "encoder-decoder/bert": ("bert", build_bert_decoder),
    "encoder-decoder/bert-generation": ("bert", build_bert_decoder),
    "encoder-decoder/roberta": ("bert", build_bert_decoder),
    "encoder-decoder/xlm-roberta": ("bert", build_bert_decoder),
    "encoder-decoder/camembert": ("bert", build_bert_decoder),
    "encoder-decoder/electra": ("bert", build_bert_decoder),
    "encoder-decoder/gpt2": ("gpt2", build_gpt2_decoder),
}


def find_family(model: PreTrainedModel) -> tuple[str, Builder] | None:
    """Name and builder of the family of a model, None where no family fits."""
    model_type = model.config.model_type
    if model_type == "encoder-decoder":
        model_type = f"encoder-decoder/{model.config.decoder.model_type}"
    if getattr(model.config, "use_prompt", False):
        return None  # MVP's prompts are keys and values in front of a target's own
    found = _FAMILIES.get(model_type)
    if found is None:
        return None
    family, build = found
    return family, lambda built: suited(build(built).folded()).packed()
