"""Which checkpoint answers which call."""

import logging
from collections.abc import Iterable, Sequence
from itertools import product

from model_core.engine import Engine
from model_core.errors import UnknownLanguageError
from model_core.language_tags import match_language
from model_core.models import ModelSet, ServedModel
from model_core.workers.process import Worker

_logger = logging.getLogger(__name__)

_MAX_PAIRS_TO_CHECK = 400  # a checkpoint of many languages is reached by one of them at least


class Routing:
    """The checkpoints that the settings name, by task; one checkpoint may serve both."""

    def __init__(
        self, loaded: ModelSet, translators: Sequence[str], summarizers: Sequence[str]
    ) -> None:
        self._loaded = loaded
        self.translators = tuple(loaded.models[name] for name in translators)
        self.summarizers = tuple(loaded.models[name] for name in summarizers)
        _warn_of_unreachable(self.translators)

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """Every checkpoint once."""
        return tuple(self._loaded.models.values())

    @property
    def engines(self) -> tuple[Engine, ...]:
        """What runs the checkpoints."""
        return self._loaded.engines

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Processes that some of them are in."""
        return self._loaded.workers

    def start(self) -> None:
        """Begin to answer."""
        self._loaded.start()

    def close(self, timeout_s: float | None = None) -> None:
        """Stop after the step that runs, or without it once the time is over."""
        self._loaded.close(timeout_s)

    def translator(self, source_lang: str | None, target_lang: str | None) -> ServedModel:
        """The first checkpoint that knows the pair.

        Raises:
            UnknownLanguageError: None does, or a language is missing and there is a choice.
        """
        if len(self.translators) == 1:
            return self.translators[0]  # it checks the pair itself, and says what it knows
        able = [
            model
            for model in self.translators
            if model.checkpoint.languages.accepts(source_lang, target_lang)
        ]
        if not able:
            raise self._unknown_pair(source_lang, target_lang)
        _refuse_choice(able, source_lang, target_lang)
        return able[0]

    def summarizer(self) -> ServedModel:
        """The checkpoint of `/summarize`."""
        return self.summarizers[0]

    def _unknown_pair(
        self, source_lang: str | None, target_lang: str | None
    ) -> UnknownLanguageError:
        from_source = [
            model.checkpoint.languages
            for model in self.translators
            if source_lang is None or _knows(model.checkpoint.languages.sources, source_lang)
        ]
        if source_lang is None:
            sources = self._sources_of(target_lang)
            if sources:  # the target is known, and what is missing is where from
                return UnknownLanguageError("source_lang", None, sources)
        if not from_source:
            sources = _all(model.checkpoint.languages.sources for model in self.translators)
            return UnknownLanguageError("source_lang", source_lang, sources)
        targets = _all(languages.targets for languages in from_source)
        return UnknownLanguageError("target_lang", target_lang, targets)

    def _sources_of(self, target_lang: str | None) -> tuple[str, ...]:
        """Languages from which somebody translates into this one."""
        knowing = [
            model.checkpoint.languages
            for model in self.translators
            if target_lang is not None and _knows(model.checkpoint.languages.targets, target_lang)
        ]
        return _all(languages.sources for languages in knowing)


def _warn_of_unreachable(translators: Sequence[ServedModel]) -> None:
    """Say which checkpoints nobody can ask for, because others come before them for every pair."""
    for index, model in enumerate(translators):
        languages = model.checkpoint.languages
        pairs = list(product(languages.sources, languages.targets))
        if not 0 < len(pairs) <= _MAX_PAIRS_TO_CHECK:
            continue
        earlier = [each.checkpoint.languages for each in translators[:index]]
        if all(any(each.accepts(*pair) for each in earlier) for pair in pairs):
            _logger.warning(
                "%s translates nothing: checkpoints that are named before it know all its pairs",
                model.name,
            )


def _refuse_choice(
    able: Sequence[ServedModel], source_lang: str | None, target_lang: str | None
) -> None:
    """Refuse to guess a language that was left out and that the checkpoints disagree about."""
    pairs = [model.checkpoint.languages.choose(source_lang, target_lang) for model in able]
    sources = _all([pair.source_lang] for pair in pairs if pair.source_lang)
    targets = _all([pair.target_lang] for pair in pairs if pair.target_lang)
    if source_lang is None and len(sources) > 1:
        raise UnknownLanguageError("source_lang", None, sources)
    if target_lang is None and len(targets) > 1:
        raise UnknownLanguageError("target_lang", None, targets)


def _knows(languages: tuple[str, ...], language: str) -> bool:
    return not languages or match_language(language, languages) is not None


def _all(languages: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(sorted({language for each in languages for language in each}))
