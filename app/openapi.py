"""What the API's own page says about answers other than 200."""

from typing import Any

from app.schemas import Problem, Status

_DESCRIPTIONS = {
    400: "The body is no JSON.",
    413: "The body is larger than the server takes.",
    422: "The request can never be served as it is; the problem names the field.",
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
