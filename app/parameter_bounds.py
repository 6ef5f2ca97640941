"""Reads `TANDEM_PARAMETER_BOUNDS`: the operator's tighter upper bounds of single parameters."""

import math
from collections.abc import Mapping

from model_core.bounds import BOUNDS
from model_core.spelling import did_you_mean

# These have settings of their own, which also lower what a checkpoint asks for.
_BOUNDED_BY = {
    "num_beams": "TANDEM_MAX_NUM_BEAMS",
    **dict.fromkeys(
        ("max_length", "max_new_tokens", "min_length", "min_new_tokens"),
        "TANDEM_MAX_TARGET_TOKENS",
    ),
}
_NOT_OF_REQUESTS = ("target_prefix_ids",)
LOWERABLE = tuple(
    name for name in BOUNDS if name not in _BOUNDED_BY and name not in _NOT_OF_REQUESTS
)
"""Parameters whose upper bound the setting can lower."""


def split_bounds(text: str) -> dict[str, str | None]:
    """`top_k=100,stop_strings=2` -> values by name, unchecked; None where there is no `=`.

    Raises:
        ValueError: A parameter is named twice.
    """
    bounds: dict[str, str | None] = {}
    for pair in text.split(","):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if name in bounds:
            raise ValueError(f"{name} is named twice")
        if name or equals:
            bounds[name] = value if equals else None
    return bounds


def check_bounds(bounds: Mapping[str, object]) -> dict[str, float]:
    """The same as numbers.

    Raises:
        ValueError: Says which parameter, its value, and what was expected.
    """
    return {name: _checked(name, value) for name, value in bounds.items()}


def _checked(name: str, value: object) -> float:
    if name in _BOUNDED_BY:
        raise ValueError(f"{name} cannot be bounded here: expected {_BOUNDED_BY[name]} for it")
    if name not in LOWERABLE:
        hint = did_you_mean(name, LOWERABLE) or f": expected one of {', '.join(LOWERABLE)}"
        raise ValueError(f"{name!r} is no parameter that can be bounded{hint}")
    most = _number(value)
    if not BOUNDS[name].allows(most):
        given = "without a value" if value is None else repr(value)
        raise ValueError(f"{name} is {given}: expected {name}=NUMBER, a number {BOUNDS[name]}")
    return most


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]  # what is no number is refused
    except (TypeError, ValueError):
        return math.nan
