"""Which of a checkpoint's codes a caller means, for the codes of the published checkpoints."""

import pytest
from transformers.models.m2m_100.tokenization_m2m_100 import (
    FAIRSEQ_LANGUAGE_CODES as M2M100_CODES,
)
from transformers.models.mbart50.tokenization_mbart50 import (
    FAIRSEQ_LANGUAGE_CODES as MBART50_CODES,
)
from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES as NLLB_CODES

from model_core.language_tags import bcp47_tag, match_language

NLLB = tuple(NLLB_CODES)
MBART50 = tuple(MBART50_CODES)
M2M100 = tuple(M2M100_CODES["m2m100"])
T5 = ("de", "fr", "ro")
MARIAN = ("cmn_Hans", "deu", "fra", "nld", "pt_BR", "pt_PT", "sr_Latn")
PLBART = ("en_XX", "java", "python")
SEAMLESS = ("arb", "cmn", "cmn_Hant", "deu", "eng", "fra", "yue")

# What is given -> what it means with each kind of checkpoint; None: refused.
MEANINGS: dict[str, tuple[str | None, str | None, str | None, str | None]] = {
    # given: (NLLB, mBART-50, M2M100, T5)
    "de": ("deu_Latn", "de_DE", "de", "de"),
    "deu": ("deu_Latn", "de_DE", "de", "de"),
    "ger": ("deu_Latn", "de_DE", "de", "de"),
    "DE": ("deu_Latn", "de_DE", "de", "de"),
    "de_DE": ("deu_Latn", "de_DE", "de", "de"),
    "deu_Latn": ("deu_Latn", "de_DE", "de", "de"),
    "__de__": ("deu_Latn", "de_DE", "de", "de"),
    "de-AT": ("deu_Latn", "de_DE", "de", "de"),
    "en-US": ("eng_Latn", "en_XX", "en", None),
    "en_XX": ("eng_Latn", "en_XX", "en", None),
    "pt-BR": ("por_Latn", "pt_XX", "pt", None),
    "pt-PT": ("por_Latn", "pt_XX", "pt", None),
    "zh": ("zho_Hans", "zh_CN", "zh", None),
    "zh-CN": ("zho_Hans", "zh_CN", "zh", None),
    "zh-Hans": ("zho_Hans", "zh_CN", "zh", None),
    "zh-Hant": ("zho_Hant", None, None, None),
    "zh-TW": ("zho_Hant", None, None, None),
    "zh-HK": ("zho_Hant", None, None, None),
    "zh-Latn": (None, None, None, None),
    "yue": ("yue_Hant", None, None, None),
    "sr": ("srp_Cyrl", None, "sr", None),
    "sr-Cyrl": ("srp_Cyrl", None, "sr", None),
    "sr-Latn": (None, None, None, None),
    "hr": ("hrv_Latn", "hr_HR", "hr", None),
    "no": ("nob_Latn", None, "no", None),
    "nb": ("nob_Latn", None, "no", None),
    "nn": ("nno_Latn", None, None, None),
    "iw": ("heb_Hebr", "he_IL", "he", None),
    "in": ("ind_Latn", "id_ID", "id", None),
    "tl": ("tgl_Latn", "tl_XX", "tl", None),
    "fil": ("tgl_Latn", "tl_XX", "tl", None),
    "mo": ("ron_Latn", "ro_RO", "ro", "ro"),
    "ar": ("arb_Arab", "ar_AR", "ar", None),
    "fa": ("pes_Arab", "fa_IR", "fa", None),
    "prs": ("prs_Arab", "fa_IR", "fa", None),
    "ps": ("pbt_Arab", "ps_AF", "ps", None),
    "qu": ("quy_Latn", None, None, None),
    "ak": ("aka_Latn", None, None, None),
    "tw": ("twi_Latn", None, None, None),
    "ku": ("kmr_Latn", None, None, None),
    "lv": ("lvs_Latn", "lv_LV", "lv", None),
    "sq": ("als_Latn", None, "sq", None),
    "mn": ("khk_Cyrl", "mn_MN", "mn", None),
    "ms": ("zsm_Latn", None, "ms", None),
    "tzm": ("tzm_Tfng", None, None, None),
    "nso": ("nso_Latn", None, "ns", None),
    "lb": ("ltz_Latn", None, "lb", None),
    "German": (None, None, None, None),
    "xx": (None, None, None, None),
    "mul": (None, None, None, None),
    "": (None, None, None, None),
    "-": (None, None, None, None),
    "e" * 64: (None, None, None, None),
}


@pytest.mark.parametrize("given", MEANINGS)
def test_a_code_is_taken_where_its_meaning_is_clear(given: str) -> None:
    kinds = (NLLB, MBART50, M2M100, T5)
    assert tuple(match_language(given, known) for known in kinds) == MEANINGS[given]


@pytest.mark.parametrize("known", [NLLB, MBART50, M2M100, T5, MARIAN, PLBART, SEAMLESS])
def test_a_checkpoints_own_code_means_itself(known: tuple[str, ...]) -> None:
    for code in known:
        assert match_language(code, known) == code
        assert match_language(f"__{code}__", known) == code
        assert match_language(f">>{code}<<", known) == code
        assert match_language(code.upper(), known) == code


def test_every_code_of_nllb_is_found_by_its_tag() -> None:
    tags = {code: bcp47_tag(code) for code in NLLB}
    assert None not in tags.values()
    assert {code: match_language(tag or "", NLLB) for code, tag in tags.items()} == {
        code: code for code in NLLB
    }


@pytest.mark.parametrize(
    ("given", "known", "code"),
    [
        ("pt", MARIAN, "pt_BR"),
        ("pt-PT", MARIAN, "pt_PT"),
        ("zh", MARIAN, "cmn_Hans"),
        ("sr-Latn", MARIAN, "sr_Latn"),
        ("sr-Cyrl", MARIAN, None),
        ("de", MARIAN, "deu"),
        (">>fra<<", MARIAN, "fra"),
        ("zh-Hant", SEAMLESS, "cmn_Hant"),
        ("zh", SEAMLESS, "cmn"),
        ("ar", SEAMLESS, "arb"),
        ("en", PLBART, "en_XX"),
        ("python", PLBART, "python"),
        ("jv", PLBART, None),
        ("ROMANCE", ("ROMANCE",), "ROMANCE"),
    ],
)
def test_codes_of_other_checkpoints(given: str, known: tuple[str, ...], code: str | None) -> None:
    assert match_language(given, known) == code


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ("en", ("en_AU", "en_GB")),
        ("lb", ("deu_Latn",)),
        ("hr", ("srp_Cyrl",)),
        ("zh-TW", ("zho_Hans",)),
        ("uk", ("rus_Cyrl",)),
        ("no", ("nno_Latn",)),
    ],
)
def test_a_near_language_or_one_of_several_is_not_guessed(
    given: str, known: tuple[str, ...]
) -> None:
    assert match_language(given, known) is None
