"""Which requests may share a batch without changing each other's answers."""

from transformers import PreTrainedModel

_ATTEND_IN_FULL = frozenset(
    {
        "albert",
        "bart",
        "bert",
        "bert-generation",
        "blenderbot",
        "blenderbot-small",
        "camembert",
        "distilbert",
        "electra",
        "fsmt",
        "m2m_100",
        "marian",
        "mbart",
        "mt5",
        "mvp",
        "pegasus",
        "plbart",
        "prophetnet",
        "roberta",
        "seamless_m4t",
        "seamless_m4t_v2",
        "t5",
        "umt5",
        "xlm-roberta",
    }
)
"""Encoders in which every token attends to every token that is not masked, and to nothing else."""


def may_pad(model: PreTrainedModel) -> bool:
    """Whether an encoder is of a kind that gives a source the same outputs when it is padded.

    Encoders of long sources (LED, LongT5, BigBird, Pegasus-X) cut them into blocks, and what is
    in a block, or whether there are blocks, depends on the padding too. Those and all kinds that
    nobody has tried get their sources unpadded: batches of equal length.
    """
    config = model.config
    if config.model_type == "encoder-decoder":
        config = config.encoder
    return config.model_type in _ATTEND_IN_FULL


def shares_experts(model: PreTrainedModel) -> bool:
    """Whether rows of a batch compete: an expert takes so many tokens, and drops the others."""
    return hasattr(model.config, "num_experts")
