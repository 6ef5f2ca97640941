"""What the API's own page says of the generation parameters."""

from typing import Any

import pytest
from transformers import GenerationConfig

from app.factory import create_app
from app.schemas import Parameters
from app.settings import Settings
from model_core.bounds import BOUNDS, Bound
from model_core.generation import NOT_SERVED

_INNER = {"_from_model_config", "transformers_version"}
_OF_THE_API = {"seed"}


def parameters_page(**settings: Any) -> dict[str, Any]:
    page = create_app(Settings(**settings)).openapi()
    properties: dict[str, Any] = page["components"]["schemas"]["Parameters"]["properties"]
    return properties


def kind_of(schema: dict[str, Any], name: str) -> dict[str, Any]:
    kinds = schema["anyOf"]
    return next(kind for kind in kinds if kind["type"] == name)


def test_every_parameter_of_the_library_is_served_or_refused_by_name() -> None:
    config = GenerationConfig()  # type: ignore[no-untyped-call]
    known = {name for name in vars(config) if name not in _INNER}
    served = set(Parameters.model_fields) - _OF_THE_API
    assert known - served <= NOT_SERVED.keys()
    assert not served & NOT_SERVED.keys()
    assert served <= known


@pytest.mark.parametrize("name", sorted(BOUNDS.keys() & Parameters.model_fields.keys()))
def test_the_page_shows_the_bounds(name: str) -> None:
    schema = parameters_page(max_num_beams=1024, max_target_tokens=1_000_000)[name]
    bound = BOUNDS[name]
    kinds = [kind for kind in schema["anyOf"] if kind["type"] != "null"]
    shown = {_shown(kind) for kind in kinds} - {None}
    assert shown <= {bound, Bound(bound.least, bound.most - 1)}
    assert shown or kinds[0]["type"] == "boolean"


def _shown(kind: dict[str, Any]) -> Bound | None:
    if kind["type"] == "array":
        return Bound(kind.get("minItems", 0), kind["maxItems"])
    least = kind.get("minimum", kind.get("exclusiveMinimum"))
    most = kind.get("maximum", kind.get("exclusiveMaximum"))
    if least is None or most is None:
        return None  # a stop string, or a token id
    return Bound(
        least,
        most,
        excludes_least="exclusiveMinimum" in kind,
        excludes_most="exclusiveMaximum" in kind,
    )


def test_the_page_shows_what_the_operator_lowered() -> None:
    page = parameters_page(
        max_num_beams=6,
        max_target_tokens=200,
        parameter_bounds="top_k=100,stop_strings=2,epsilon_cutoff=0.5,do_sample=0,eos_token_id=3",
    )
    assert kind_of(page["num_beams"], "integer")["maximum"] == 6
    assert kind_of(page["max_length"], "integer")["maximum"] == 200
    assert kind_of(page["max_new_tokens"], "integer")["maximum"] == 199
    assert kind_of(page["top_k"], "integer")["maximum"] == 100
    assert kind_of(page["stop_strings"], "array")["maxItems"] == 2
    assert kind_of(page["epsilon_cutoff"], "number")["maximum"] == 0.5
    assert kind_of(page["do_sample"], "boolean")["const"] is False
    assert kind_of(page["eos_token_id"], "array")["maxItems"] == 3
    assert "maximum" not in kind_of(page["eos_token_id"], "integer")


@pytest.mark.parametrize("name", ["TranslateRequest", "SummarizeRequest"])
def test_the_page_shows_the_bounds_of_a_call(name: str) -> None:
    page = create_app(Settings(max_texts_per_request=7, max_timeout_s=90.5)).openapi()
    properties = page["components"]["schemas"][name]["properties"]
    (texts,) = (kind for kind in properties["text"]["oneOf"] if kind["type"] == "array")
    assert texts["maxItems"] == 7
    assert kind_of(properties["timeout_s"], "number")["maximum"] == 90.5


def test_bounds_of_whole_numbers_are_whole() -> None:
    page = parameters_page()
    for name in ("num_beams", "seed", "top_k", "eos_token_id"):
        kind = kind_of(page[name], "integer")
        bounds = [kind[bound] for bound in ("minimum", "maximum") if bound in kind]
        assert bounds, name
        assert {type(bound) for bound in bounds} == {int}, name
