"""The languages of a checkpoint, and how a source states which pair is meant."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from model_core.errors import UnknownLanguageError
from model_core.language_tags import match_language


@dataclass(frozen=True, slots=True)
class LanguagePair:
    """One direction of translation, in the checkpoint's own codes.

    Attributes:
        source_lang: None where the checkpoint says nothing of it.
        target_lang: The same for the target.
        tokenizer_lang: Source language that the tokenizer must be set to.
        target_token: Token that the answer has to begin with.
        prefix: Goes before the text.
        task_name: The entry of `task_specific_params` that describes this pair.
    """

    source_lang: str | None = None
    target_lang: str | None = None
    tokenizer_lang: str | None = None
    target_token: str | None = None
    prefix: str = ""
    task_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Languages:
    """The languages of one checkpoint.

    Attributes:
        sources: Codes, as the checkpoint writes them; empty where it does not name them.
        targets: The same for target languages.
        pair_prefixes: T5's text before the source, by pair; where given, no other pair is known.
        target_markers: Token before the source (Marian, MADLAD-400), by target language.
        target_tokens: The token that makes an answer begin in each target language.
        marks_source: Whether the tokenizer has a source language as state.
        starts_target: Whether the target token takes the place of the decoder start token, also
            where the generation defaults start from none.
        default_target: The target language that the checkpoint's generation defaults force.
    """

    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    pair_prefixes: Mapping[tuple[str, str], str] = field(default_factory=dict)
    target_markers: Mapping[str, str] = field(default_factory=dict)
    target_tokens: Mapping[str, str] = field(default_factory=dict)
    marks_source: bool = False
    starts_target: bool = False
    default_target: str | None = None

    @property
    def pairs(self) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
        """Every pair once, as products: each source of an entry with each of its targets.

        An empty side is one that the checkpoint does not name: any language is taken there.
        """
        if not self.pair_prefixes:
            return ((self.sources, self.targets),)
        return tuple(
            ((source,), tuple(sorted(end for start, end in self.pair_prefixes if start == source)))
            for source in self.sources
        )

    def accepts(self, source_lang: str | None, target_lang: str | None) -> bool:
        """Whether this pair, left out where there is no choice, can be translated."""
        try:
            self.choose(source_lang, target_lang)
        except UnknownLanguageError:
            return False
        return True

    def choose(self, source_lang: str | None, target_lang: str | None) -> LanguagePair:
        """The pair that is meant.

        Args:
            source_lang: The checkpoint's own code, an ISO code or a BCP 47 tag; may be left out
                where only one is possible.
            target_lang: The same for the target.

        Raises:
            UnknownLanguageError: The language is not known, or left out where there is a choice.
        """
        source = _choose("source_lang", source_lang, self.sources, default=None)
        targets = self.targets
        if self.pair_prefixes:
            targets = tuple(target for origin, target in self.pair_prefixes if origin == source)
        target = _choose("target_lang", target_lang, targets, default=self.default_target)
        return LanguagePair(
            source_lang=source,
            target_lang=target,
            tokenizer_lang=source if self.marks_source else None,
            target_token=self.target_tokens.get(target or ""),
            prefix=self._prefix(source or "", target or ""),
            task_name=f"translation_{source}_to_{target}" if self.pair_prefixes else None,
        )

    def _prefix(self, source: str, target: str) -> str:
        marker = self.target_markers.get(target)
        return self.pair_prefixes.get((source, target), "") if marker is None else f"{marker} "


def _choose(
    name: str, given: str | None, known: tuple[str, ...], *, default: str | None
) -> str | None:
    if not known:  # the checkpoint does not say: there is nothing to check against
        return given
    if given is None:
        if len(known) > 1 and default not in known:
            raise UnknownLanguageError(name, None, known)
        return default if default in known else known[0]
    code = match_language(given, known)
    if code is None:
        raise UnknownLanguageError(name, given, known)
    return code
