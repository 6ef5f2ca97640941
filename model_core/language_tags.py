"""Which of a checkpoint's language codes a caller means: BCP 47 tags, compared after CLDR."""

from collections.abc import Iterable
from functools import lru_cache

import langcodes
from langcodes.tag_parser import LanguageTagError

# Largest distance (langcodes, after CLDR) at which two tags of one language mean the same: it
# allows for territories (de, de_DE) and dialects of a macrolanguage, not for other scripts.
_MAX_DISTANCE = 14
# Languages of several members, and the one that is meant where a checkpoint has no other of them.
_MEMBERS = {"ps": "pbt", "qu": "quy"}
_FAIRSEQ = {"ns": "nso"}  # M2M100's only code that is none of ISO's


@lru_cache(maxsize=4096)
def match_language(given: str, known: tuple[str, ...]) -> str | None:
    """The one of the known codes that means the given language; None where none clearly does.

    A code of the checkpoint itself is taken as it is. Others are compared as BCP 47 tags: `de`
    and `deu` mean `de_DE`, `deu_Latn` or `__de__`; `zh-TW` means `zho_Hant`, never `zho_Hans`.
    """
    if given in known:
        return given
    by_spelling = {_bare(code).lower(): code for code in known}
    if _bare(given).lower() in by_spelling:
        return by_spelling[_bare(given).lower()]
    wanted = bcp47_tag(given)
    if wanted is None:
        return None
    tags = {tag: code for code in reversed(known) if (tag := bcp47_tag(code)) is not None}
    found = _nearest(wanted, tags) or _nearest(_MEMBERS.get(wanted, wanted), tags)
    return None if found is None else tags[found]


def bcp47_tag(code: str) -> str | None:
    """The BCP 47 tag of a language code; None where the code is of no language.

    fairseq's `XX`, no territory in particular, is left out.
    """
    bare = _bare(code).removesuffix("_XX")
    try:
        tag = langcodes.standardize_tag(_FAIRSEQ.get(bare, bare))
    except LanguageTagError:
        return None
    return tag if langcodes.tag_is_valid(tag) else None


def _nearest(wanted: str, tags: Iterable[str]) -> str | None:
    """The tag that means the wanted one; None where none does, or two do equally well."""
    alike = [tag for tag in tags if _means_same(wanted, tag) and _shares_script(wanted, tag)]
    nearness = {
        tag: (langcodes.tag_distance(wanted, tag), _subtag(tag) != _subtag(wanted)) for tag in alike
    }
    nearest = min(nearness.values(), default=(_MAX_DISTANCE + 1, True))
    best = [tag for tag in alike if nearness[tag] == nearest]
    if nearest[0] > _MAX_DISTANCE:  # then only a language without any other script or territory
        best = [tag for tag in alike if _subtag(tag) == wanted]
    return best[0] if len(best) == 1 else None


def _subtag(tag: str) -> str:
    """The language of a tag, without script and territory."""
    return tag.split("-")[0]


def _shares_script(wanted: str, known: str) -> bool:
    """False where one script is asked for and the other is known: `sr-Latn` is not `srp_Cyrl`."""
    script = langcodes.Language.get(wanted).script
    return script is None or script == langcodes.Language.get(known).maximize().script


def _bare(code: str) -> str:
    return code.strip("_<>")


def _means_same(wanted: str, known: str) -> bool:
    """Whether two tags are of one (macro)language: near ones, as `lb` and `de`, are not."""
    if _macrolanguage(wanted) == _macrolanguage(known):
        return True
    return langcodes.tag_distance(wanted, known) <= 1


def _macrolanguage(tag: str) -> str | None:
    return langcodes.Language.get(langcodes.standardize_tag(tag, macro=True)).language
