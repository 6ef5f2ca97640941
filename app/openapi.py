"""What the API's own page says about answers other than 200."""

from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI

from app.gate import OPEN_PATHS
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


def _problem(description: str) -> dict[str, Any]:
    schema = Problem.model_json_schema()
    return {
        "description": description,
        "content": {"application/problem+json": {"schema": schema}},
    }


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: _problem(description) for status, description in _DESCRIPTIONS.items()
}

NOT_SO: dict[int | str, dict[str, Any]] = {
    503: {"model": Status, "description": "Not so, for the reason that is named."}
}

_TOO_LARGE_HEADERS = "The request's line and headers are larger than the server takes."
_NO_KEY = "A key is needed, as `Authorization: Bearer` or as `X-API-Key`."
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_BOUND_NAMES = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}


def complete_page(app: FastAPI, settings: Settings, *, needs_key: bool) -> None:
    """Let the API's page show the operator's bounds, and what stands before every route."""
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
            _bound_texts(schemas.get(body), settings.max_text_chars)
        _link_languages(schema["paths"])
        _show_gate(schema, needs_key=needs_key)
        _keep_whole(schema)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _lower_all(schema: dict[str, Any] | None, lowered: Mapping[str, float]) -> None:
    """Lower the bounds of an object's fields; None: no route takes such an object."""
    properties = schema["properties"] if schema else {}
    for name, most in lowered.items():
        for kind in _kinds(properties.get(name, {})):
            _lower(kind, most)


def _bound_texts(schema: dict[str, Any] | None, max_chars: int) -> None:
    properties = schema["properties"] if schema else {}
    for name in ("text", "target_prefix"):
        for kind in _kinds(properties.get(name, {})):
            for of_text in (kind, kind.get("items", {})):
                if of_text.get("type") == "string":
                    of_text["maxLength"] = max_chars


def _link_languages(paths: dict[str, Any]) -> None:
    """Let the page say that what `/languages` names can be translated."""
    if "/translate" not in paths:
        return
    first = "$response.body#/models/0/pairs/0"
    body = {
        "text": "The coffee is cold.",
        "source_lang": f"{first}/source_languages/0",
        "target_lang": f"{first}/target_languages/0",
    }
    operation_id = paths["/translate"]["post"]["operationId"]
    answer = paths["/languages"]["get"]["responses"]["200"]
    answer["links"] = {"translate": {"operationId": operation_id, "requestBody": body}}


def _show_gate(schema: dict[str, Any], *, needs_key: bool) -> None:
    """Add what any route may answer before it is asked, and the key that it needs."""
    if needs_key:
        schema["components"]["securitySchemes"] = _SCHEMES
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            responses = operation["responses"]
            responses["431"] = _problem(_TOO_LARGE_HEADERS)
            if needs_key and path not in OPEN_PATHS:
                operation["security"] = [{name: []} for name in _SCHEMES]
                responses["401"] = _problem(_NO_KEY)


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
