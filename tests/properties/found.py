"""Runs that once failed, by architecture: each is tried again before any is drawn."""

from tests.properties.plans import Plan, Wanted

FOUND: dict[str, list[Plan]] = {
    "bigbird-pegasus": [
        # A short source turned the encoder to full attention for the long ones after it.
        Plan(requests=(Wanted(source=6, named=()), Wanted(source=2, named=()))),
        # Turning drew random numbers between the seed and the first token.
        Plan(requests=(Wanted(source=6, named=(("do_sample", True),)),)),
    ],
}
