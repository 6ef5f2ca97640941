"""What a checkpoint is verified with: texts, each with random parameters."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.settings import Settings
from app.verification.sample_texts import SAMPLE_TEXTS
from model_core.checkpoint import TASK_NAMES
from model_core.errors import InvalidParameterError
from model_core.generation import GenerationOverrides, Task
from model_core.language_tags import match_language
from model_core.models import ServedModel
from model_core.text import PreparedSource

_MOST_UNKNOWN = 0.2  # unknown tokens of a text, beyond which it says little of a checkpoint
_FEWEST_TEXTS = 4
_LONGEST_RANDOM = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """What to verify with.

    Attributes:
        task: Decides the prefix and the defaults, where the checkpoint has several; None for what
            the checkpoint is made for.
        source_lang: Of the texts, where the checkpoint needs it.
        target_lang: Of the answers, likewise.
        texts: Lines of the operator's file; None for samples.
        num_sources: How many requests.
        max_beams: Widest beam.
        max_new_tokens: Longest answer; None for what the checkpoint says.
        seed: Draws sources, parameters and order.
    """

    task: Task | None = None
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
        task: The task and why it is this one, in words.
        origin: Where the sources come from, in words.
        texts: Text of each request; None where its source is random tokens.
        sources: The requests.
    """

    task: str
    origin: str
    texts: tuple[str | None, ...]
    sources: tuple[PreparedSource, ...]

    @property
    def num_cut(self) -> int:
        """How many texts are longer than the checkpoint takes, and were cut."""
        return sum(source.truncated for source in self.sources)


def draw_requests(model: ServedModel, options: VerifyOptions, rng: random.Random) -> Requests:
    """Texts with random parameters.

    Raises:
        InvalidRequestError: The checkpoint does not take the languages, a text or a parameter.
    """
    origin, texts = _texts(model, options, rng)
    sources = [_prepare(model, text, options, rng) for text in texts]
    task, reason = _choose_task(model, options)
    return Requests(f"{task} ({reason})", origin, tuple(texts), tuple(sources))


def _choose_task(model: ServedModel, options: VerifyOptions) -> tuple[Task, str]:
    """What to verify a checkpoint as, and why."""
    if options.task is not None:
        return options.task, "as --task says"
    if model.name in Settings.model_fields["summarize_model"].default:
        return "summarize", "shipped for it; see --task"
    names = [name for name, _ in model.checkpoint.defaults.task_values]
    if TASK_NAMES["summarize"] in names and not any(
        name.startswith("translation") for name in names
    ):
        return "summarize", "as the checkpoint's own defaults say; see --task"
    return "translate", "see --task"


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
    sentences, reason = _sample_sentences(model, options)
    if len(sentences) < _FEWEST_TEXTS:
        return "random tokens: the tokenizer does not know the sample texts", [None] * count
    most = 2 if _choose_task(model, options)[0] == "translate" else 8
    origin = f"drawn from {len(sentences)} of {len(_all_samples())} sample sentences, {reason}"
    return origin, [*_drawn(sentences, count, most, rng)]


def _sample_sentences(model: ServedModel, options: VerifyOptions) -> tuple[list[str], str]:
    """The sample sentences that suit a checkpoint, and why it is these."""
    source_lang = _source_lang(model, options)
    language = source_lang and match_language(source_lang, tuple(SAMPLE_TEXTS))
    if language:
        in_language = [each for each in SAMPLE_TEXTS[language] if _is_known(model, each, options)]
        if len(in_language) >= _FEWEST_TEXTS:
            return in_language, f"those in {source_lang}, the source language"
    known = [each for each in _all_samples() if _is_known(model, each, options)]
    why = "no source language is named" if source_lang is None else f"too few are in {source_lang}"
    return known, f"those that the tokenizer knows ({why})"


def _source_lang(model: ServedModel, options: VerifyOptions) -> str | None:
    """Language of the texts; None where neither the operator nor the checkpoint says."""
    is_named = options.source_lang is not None or options.target_lang is not None
    if _choose_task(model, options)[0] == "summarize" and not is_named:
        return None
    pair = model.checkpoint.languages.choose(options.source_lang, options.target_lang)
    return pair.source_lang


def _all_samples() -> list[str]:
    return [each for sentences in SAMPLE_TEXTS.values() for each in sentences]


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
        task=_choose_task(model, options)[0],
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
        "seed": rng.getrandbits(32),  # for a checkpoint that draws its tokens by default
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
