"""Bounds of the generation parameters: the one table, which an operator can lower.

The API's schema, its page and `model_core.resolve` all take them from here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

# Above, `generated_len ** length_penalty` leaves the range of float32 at about 1,000 tokens; below,
# scores come near the -1e9 that stands for impossible hypotheses.
_LENGTH_PENALTIES = (-2.0, 10.0)
_MAX_SEED = 2**53 - 1  # larger numbers are not safe in JSON


@dataclass(frozen=True, slots=True)
class Bound:
    """What one parameter may be: of a number its value, of a list how many entries it has.

    Attributes:
        least: Smallest.
        most: Largest.
        excludes_least: Whether the smallest itself is out of bounds.
        excludes_most: Whether the largest itself is out of bounds.
    """

    least: float
    most: float
    excludes_least: bool = False
    excludes_most: bool = False

    def allows(self, value: float) -> bool:
        """Whether a value, or a number of entries, is within the bound; NaN never is."""
        above = self.least < value if self.excludes_least else self.least <= value
        below = value < self.most if self.excludes_most else value <= self.most
        return above and below

    def __str__(self) -> str:
        least, most = _plain(self.least), _plain(self.most)
        if not (self.excludes_least or self.excludes_most):
            return f"from {least} to {most}"
        low = f"above {least}" if self.excludes_least else f"at least {least}"
        high = f"below {most}" if self.excludes_most else f"at most {most}"
        return f"{low} and {high}"


def _plain(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


_ONE_OR_MORE = Bound(1, 1_000_000)
_FROM_ZERO = Bound(0, 1_000_000)

BOUNDS: Mapping[str, Bound] = {
    "num_beams": Bound(1, 1024),
    "num_return_sequences": Bound(1, 16),
    "max_length": Bound(2, 1_000_000),
    "max_new_tokens": _ONE_OR_MORE,
    "min_length": _FROM_ZERO,
    "min_new_tokens": _FROM_ZERO,
    "length_penalty": Bound(*_LENGTH_PENALTIES),
    "no_repeat_ngram_size": Bound(0, 1000),
    "encoder_no_repeat_ngram_size": Bound(0, 1000),
    "repetition_penalty": Bound(0.01, 100),
    "encoder_repetition_penalty": Bound(0.01, 100),
    "do_sample": Bound(0, 1),
    "temperature": Bound(0.001, 100),
    "top_k": _FROM_ZERO,
    "top_p": Bound(0, 1),
    "min_p": Bound(0, 1),
    "top_h": Bound(0, 1, excludes_least=True),
    "typical_p": Bound(0, 1, excludes_least=True),
    "epsilon_cutoff": Bound(0, 1, excludes_most=True),
    "eta_cutoff": Bound(0, 1, excludes_most=True),
    "seed": Bound(0, _MAX_SEED),
    "eos_token_id": Bound(0, 64),
    "forced_eos_token_id": Bound(0, 64),
    "suppress_tokens": Bound(0, 10_000),
    "begin_suppress_tokens": Bound(0, 10_000),
    "bad_words_ids": Bound(0, 1000),
    "sequence_bias": Bound(0, 1000),
    "stop_strings": Bound(0, 8),
}

MAX_RUN_LEN = 64
"""Tokens of one entry of `bad_words_ids` or `sequence_bias`, characters of one stop string."""
BIAS = Bound(-1e4, 1e4)
"""Of one entry of `sequence_bias`."""
DECAY_FACTOR = Bound(0, 10, excludes_least=True)
"""Second value of `exponential_decay_length_penalty`."""
MAX_DECAY = 1e5
"""What that factor may grow to at the maximum length: scores stay far from -1e9, "impossible"."""


@dataclass(frozen=True, slots=True)
class LoweredBounds:
    """Largest values that the operator allows, by parameter; the others stay as they are.

    Attributes:
        most: Largest value, or number of entries, below that of `BOUNDS`.
    """

    most: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what lowers nothing.

        Raises:
            ValueError: No such parameter, or a largest value that is out of its bounds.
        """
        for name, most in self.most.items():
            if name not in BOUNDS:
                raise ValueError(f"{name} is no bounded parameter: expected {_names(BOUNDS)}")
            if not BOUNDS[name].allows(most):
                raise ValueError(f"{name} is {most:g}: expected a bound {BOUNDS[name]}")

    def __getitem__(self, name: str) -> Bound:
        bound = BOUNDS[name]
        if name not in self.most:
            return bound
        return Bound(bound.least, self.most[name], excludes_least=bound.excludes_least)


def _names(names: Iterable[str]) -> str:
    return f"one of {', '.join(names)}"
