"""Does an answer equal that of `generate()`? For tests, and for an operator's own checkpoint.

Nothing here is used to serve: a reference that shared code with what it judges would be worth
little. `reference` asks `generate()` alone, `compare` holds an answer against it, `near_tie` says
whether a difference is a tie that float noise decides, and `run` does all of it for many requests.
"""
