"""Which checkpoint answers a call for a pair of languages."""

import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.routing import Routing
from model_core.errors import UnknownLanguageError
from model_core.languages import Languages
from model_core.models import ModelSet

BILINGUAL = Languages(sources=("en",), targets=("de",))
MANY = Languages(sources=("eng_Latn", "fra_Latn"), targets=("deu_Latn", "fra_Latn"))


def routing(**languages: Languages) -> Routing:
    models = {
        name: SimpleNamespace(name=name, checkpoint=SimpleNamespace(languages=each))
        for name, each in languages.items()
    }
    loaded: Any = SimpleNamespace(models=models)
    return Routing(cast(ModelSet, loaded), list(models), [])


def test_the_first_checkpoint_that_knows_the_pair_answers() -> None:
    found = routing(bilingual=BILINGUAL, many=MANY)
    assert found.translator("en", "de").name == "bilingual"
    assert found.translator("en", "fra_Latn").name == "many"


def test_a_missing_source_is_named_where_the_target_is_known() -> None:
    with pytest.raises(UnknownLanguageError) as caught:
        routing(bilingual=BILINGUAL, many=MANY).translator(None, "fr")
    assert (caught.value.field, caught.value.value) == ("source_lang", None)
    assert caught.value.known == ("eng_Latn", "fra_Latn")


def test_an_unknown_target_is_named_also_where_the_source_is_missing() -> None:
    with pytest.raises(UnknownLanguageError) as caught:
        routing(bilingual=BILINGUAL, many=MANY).translator(None, "ja")
    assert (caught.value.field, caught.value.value) == ("target_lang", "ja")


def test_a_checkpoint_that_nobody_reaches_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        routing(many=MANY, bilingual=BILINGUAL)
    assert "bilingual translates nothing" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        routing(bilingual=BILINGUAL, many=MANY)
    assert not caplog.text
