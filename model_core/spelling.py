"""What somebody may have meant by a name that does not exist."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """The end of an error: `: did you mean …?` with the nearest name, or nothing if none is near.

    Args:
        name: As it was written.
        known: Names that exist.
        cutoff: How alike two names must be, from 0 to 1.
    """
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f": did you mean {nearest[0]}?" if nearest else ""
