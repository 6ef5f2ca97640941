"""What the schema of a body refuses, as one message for each field."""

import reprlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from app.schemas import UNION_TAGS, Parameters
from model_core.errors import InvalidParameterError, UnknownLanguageError
from model_core.generation import NOT_SERVED
from model_core.spelling import did_you_mean

_MAX_FIELDS = 50  # a body of 4 MB can have a million wrong ones
_MAX_NAME_CHARS = 80  # of a client's own field name, repeated in an error
_TEXTS = ("text", "target_prefix")  # what a client wrote there is shown nowhere
_Error = Mapping[str, Any]


def invalid_fields(errors: Iterable[_Error], known: Collection[str]) -> list[dict[str, str]]:
    """The first fields that are wrong, by their paths in the body.

    Args:
        errors: As pydantic lists them.
        known: Fields of the body.
    """
    by_field: dict[str, list[_Error]] = defaultdict(list)
    for error in _without_other_kinds(errors):
        by_field[_field(error)].append(error)
    return [
        {"field": field, "message": _message(each, known)}
        for field, each in islice(by_field.items(), _MAX_FIELDS)
    ]


def refused_field(error: InvalidParameterError | UnknownLanguageError) -> dict[str, str]:
    """The same for a field that the engine refuses."""
    is_parameter = error.field in Parameters.model_fields
    path = f"parameters.{error.field}" if is_parameter else error.field
    return {"field": path, "message": str(error).removeprefix(f"{error.field} ")}


def _without_other_kinds(errors: Iterable[_Error]) -> Iterable[_Error]:
    """Of a parameter with several kinds of value, only what concerns the kind that was given."""
    by_name: dict[Sequence[int | str], list[_Error]] = defaultdict(list)
    for error in errors:
        by_name[error["loc"][:3]].append(error)
    for each in by_name.values():
        yield from [error for error in each if not _is_of_another_kind(error)] or each


def _is_of_another_kind(error: _Error) -> bool:
    loc = error["loc"]
    if not _is_of_parameters(error) or len(loc) != 4 or isinstance(loc[3], int):
        return False
    is_for_none = error["type"] == "too_long" and error["ctx"]["max_length"] == 0
    kind = str(error["type"])
    return kind.endswith("_type") or kind == "literal_error" or is_for_none


def _is_of_parameters(error: _Error) -> bool:
    return bool(error["loc"][:2] == ("body", "parameters"))


def _message(errors: Sequence[_Error], known: Collection[str]) -> str:
    """What was expected, and what was given where that cannot be a client's text."""
    error = errors[0]
    match error["type"]:
        case "json_invalid":
            return f"not JSON at character {error['loc'][-1]}: {error['ctx']['error']}"
        case "extra_forbidden":
            return _unknown(error, known)
        case "missing":
            return str(error["msg"])
        case "model_attributes_type" | "model_type" | "dict_type":
            if len(error["loc"]) == 1:
                return "expected a JSON object, sent with Content-Type: application/json"
            return f"is {reprlib.repr(error['input'])}: expected a JSON object"
    expected = [str(each["msg"]) for each in errors]
    others = [each.removeprefix("Input should be ") for each in expected[1:]]
    message = " or ".join(dict.fromkeys((expected[0], *others)))
    is_text = error["loc"][1:2] and error["loc"][1] in _TEXTS
    return message if is_text else f"is {reprlib.repr(error['input'])}: {message}"


def _unknown(error: _Error, known: Collection[str]) -> str:
    name = str(error["loc"][-1])[:_MAX_NAME_CHARS]
    if _is_of_parameters(error):
        if name in NOT_SERVED:
            return f"not served: {NOT_SERVED[name]}"
        return f"no such parameter{did_you_mean(name, Parameters.model_fields)}"
    if name in Parameters.model_fields:
        return f"no such field: did you mean parameters.{name}?"
    return f"no such field{did_you_mean(name, known)}"


def _field(error: _Error) -> str:
    """Path of a field, without the leading "body" and the kinds that a value could have had."""
    loc = error["loc"]
    if error["type"] == "json_invalid":
        return "body"
    if _is_of_parameters(error):
        loc = [*loc[:3], *(part for part in loc[3:] if isinstance(part, int))]
    names = [str(part)[:_MAX_NAME_CHARS] for part in loc if part not in UNION_TAGS]
    return ".".join(names[1:] if len(names) > 1 else names)
