"""Runs that once failed, by architecture: each is tried again before any is drawn."""

from tests.properties.plans import Plan, Wanted

FOUND: dict[str, list[Plan]] = {
    "bigbird-pegasus": [
        # Turning to full attention drew random numbers between the seed and the first token.
        Plan(requests=(Wanted(source=6, named=(("do_sample", True),)),)),
    ],
    "longt5-global": [
        # A negative length penalty multiplied the float noise of a sum by its 19 tokens.
        Plan(
            requests=(
                Wanted(source=6, named=(("length_penalty", -1.0), ("forced_bos_token_id", 105))),
            )
        ),
    ],
}
