"""What the API's own page says about answers other than 200."""

from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI

from app.schemas import Problem, Status
from app.settings import Settings

_DESCRIPTIONS = {
    400: "The body is no JSON.",
    408: "The body did not come in time.",
    413: "The body is larger than the server takes.",
    422: "The request can never be served as it is; the problem names the field.",
    429: "The client has sent more texts than it may; `Retry-After` says when to come back.",
    500: "The request failed; the problem has an id that finds it in the log.",
    503: "Too much is waiting, or the server is draining; `Retry-After` says when to come back.",
    504: "The request was not finished in its time.",
}

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": description,
        "content": {"application/problem+json": {"schema": Problem.model_json_schema()}},
    }
    for status, description in _DESCRIPTIONS.items()
}

NOT_SO: dict[int | str, dict[str, Any]] = {
    503: {"model": Status, "description": "Not so, for the reason that is named."}
}

_BOUND_NAMES = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}


def show_bounds(app: FastAPI, settings: Settings) -> None:
    """Let the API's page show the bounds that the operator has lowered."""
    whole_schema = app.openapi
    lowered = {
        "num_beams": settings.max_num_beams,
        "max_length": settings.max_target_tokens,
        "max_new_tokens": settings.max_target_tokens - 1,
        "min_length": settings.max_target_tokens,
        "min_new_tokens": settings.max_target_tokens - 1,
        **settings.parameter_bounds,
    }

    of_bodies = {"text": settings.max_texts_per_request, "timeout_s": settings.max_timeout_s}

    def openapi() -> dict[str, Any]:
        schema = whole_schema()
        schemas = schema["components"]["schemas"]
        _lower_all(schemas.get("Parameters"), lowered)
        for body in ("TranslateRequest", "SummarizeRequest"):
            _lower_all(schemas.get(body), of_bodies)
        _keep_whole(schema)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _lower_all(schema: dict[str, Any] | None, lowered: Mapping[str, float]) -> None:
    """Lower the bounds of an object's fields; None: no route takes such an object."""
    properties = schema["properties"] if schema else {}
    for name, most in lowered.items():
        for kind in _kinds(properties.get(name, {})):
            _lower(kind, most)


def _kinds(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The kinds of value that a field may have."""
    yield from schema.get("anyOf") or schema.get("oneOf") or [schema]


def _lower(kind: dict[str, Any], most: float) -> None:
    match kind.get("type"):
        case "integer" if "maximum" in kind:  # not a token id
            kind["maximum"] = int(min(most, kind["maximum"]))
        case "number":
            kind.pop("exclusiveMaximum", None)
            kind["maximum"] = most
        case "array":
            kind["maxItems"] = int(most)
        case "boolean" if most < 1:
            kind["const"] = False


def _keep_whole(schema: Any) -> None:
    """FastAPI turns every bound into a float; those of whole numbers are whole."""
    if isinstance(schema, list):
        for each in schema:
            _keep_whole(each)
    elif isinstance(schema, dict):
        for each in schema.values():
            _keep_whole(each)
        if schema.get("type") == "integer":
            for name in _BOUND_NAMES & schema.keys():
                schema[name] = int(schema[name])
