"""Runs that once failed, by architecture: each is tried again before any is drawn."""

from tests.properties.plans import Plan, Wanted

FOUND: dict[str, list[Plan]] = {
    "bigbird-pegasus": [
        # Turning to full attention drew random numbers between the seed and the first token.
        Plan(requests=(Wanted(source=6, named=(("do_sample", True),)),)),
    ],
}
