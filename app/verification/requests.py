"""What a checkpoint is verified with: texts, each with random parameters."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.verification.sample_texts import SAMPLE_TEXTS
from model_core.errors import InvalidParameterError
from model_core.generation import GenerationOverrides, Task
from model_core.models import ServedModel
from model_core.text import PreparedSource

_MOST_UNKNOWN = 0.2  # unknown tokens of a text, beyond which it says little of a checkpoint
_FEWEST_TEXTS = 4
_LONGEST_RANDOM = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """What to verify with.

    Attributes:
        task: Decides the prefix and the defaults, where the checkpoint has several.
        source_lang: Of the texts, where the checkpoint needs it.
        target_lang: Of the answers, likewise.
        texts: Lines of the operator's file; None for samples.
        num_sources: How many requests.
        max_beams: Widest beam.
        max_new_tokens: Longest answer; None for what the checkpoint says.
        seed: Draws sources, parameters and order.
    """

    task: Task
    source_lang: str | None = None
    target_lang: str | None = None
    texts: Sequence[str] | None = None
    num_sources: int
    max_beams: int
    max_new_tokens: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Requests:
    """What a checkpoint is verified with.

    Attributes:
        origin: Where the sources come from, in words.
        texts: Text of each request; None where its source is random tokens.
        sources: The requests.
    """

    origin: str
    texts: tuple[str | None, ...]
    sources: tuple[PreparedSource, ...]


def draw_requests(model: ServedModel, options: VerifyOptions, rng: random.Random) -> Requests:
    """Texts with random parameters.

    Raises:
        InvalidRequestError: The checkpoint does not take the languages, a text or a parameter.
    """
    origin, texts = _texts(model, options, rng)
    sources = [_prepare(model, text, options, rng) for text in texts]
    return Requests(origin, tuple(texts), tuple(sources))


def _texts(
    model: ServedModel, options: VerifyOptions, rng: random.Random
) -> tuple[str, list[str | None]]:
    """Where the sources come from, in words, and the text of each; None for random tokens."""
    count = options.num_sources
    if options.texts is not None:
        lines = [line.strip() for line in options.texts if line.strip()]
        if not lines:
            raise InvalidParameterError("texts", "empty", "a file with a text on some line")
        return f"the first {min(count, len(lines))} texts of the file", [*lines[:count]]
    known = [text for text in SAMPLE_TEXTS if _is_known(model, text, options)]
    if len(known) < _FEWEST_TEXTS:
        return "random tokens: the tokenizer does not know the sample texts", [None] * count
    most = 2 if options.task == "translate" else 8
    return f"drawn from {len(known)} sample sentences", [*_drawn(known, count, most, rng)]


def _drawn(sentences: Sequence[str], count: int, most: int, rng: random.Random) -> Iterator[str]:
    """Each sentence once, then `count` texts of up to `most` sentences."""
    yield from sentences[:count]
    for _ in range(count - len(sentences)):
        yield " ".join(rng.sample(sentences, rng.randint(2, most)))


def _is_known(model: ServedModel, text: str, options: VerifyOptions) -> bool:
    """Whether the tokenizer has tokens for most of a text."""
    try:
        source_ids = _prepared(model, text, options, GenerationOverrides()).source_ids
    except InvalidParameterError as error:
        if error.field != "text":
            raise
        return False
    unknown = source_ids.count(model.checkpoint.tokenizer.unk_token_id)
    return unknown <= _MOST_UNKNOWN * len(source_ids)


def _prepare(
    model: ServedModel, text: str | None, options: VerifyOptions, rng: random.Random
) -> PreparedSource:
    overrides = _random_overrides(options, rng)
    if text is not None:
        return _prepared(model, text, options, overrides)
    prepared = _prepared(model, "a", options, overrides)
    return replace(prepared, source_ids=_random_source(model, rng), truncated=False)


def _prepared(
    model: ServedModel, text: str, options: VerifyOptions, overrides: GenerationOverrides
) -> PreparedSource:
    return model.text.prepare(
        text,
        task=options.task,
        source_lang=options.source_lang,
        target_lang=options.target_lang,
        overrides=overrides,
        overflow="truncate",
    )


def _random_overrides(options: VerifyOptions, rng: random.Random) -> GenerationOverrides:
    """A random width for every request, and for every other one more parameters."""
    num_beams = rng.randint(1, options.max_beams)
    named: dict[str, Any] = {
        "num_beams": num_beams,
        "num_return_sequences": 1,
        "max_new_tokens": options.max_new_tokens,
    }
    if rng.random() < 0.5:
        named |= {
            "num_return_sequences": rng.randint(1, num_beams),
            "length_penalty": rng.choice([0.6, 1.0, 2.0]),
            "early_stopping": rng.choice([False, True, "never"]),
            "no_repeat_ngram_size": rng.choice([0, 3]),
            "repetition_penalty": rng.choice([1.0, 1.2]),
        }
    return GenerationOverrides(**named)


def _random_source(model: ServedModel, rng: random.Random) -> tuple[int, ...]:
    special = set(model.checkpoint.tokenizer.all_special_ids)
    known = range(model.checkpoint.source_vocab_size)
    longest = min(_LONGEST_RANDOM, model.text.max_source_len)
    length = rng.randint(1, longest)
    drawn = (token for token in iter(lambda: rng.choice(known), None) if token not in special)
    return tuple(next(drawn) for _ in range(length))
