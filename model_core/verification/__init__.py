"""Does an answer equal that of `generate()`? For tests, and for an operator's own checkpoint.

Nothing here is used to serve. The reference runs the library's own search, processors and stop
strings; what it shares with what it judges is how a request is written as a call of `generate()`,
and where padding begins. `reference` asks `generate()` alone, `compare` holds an answer against it,
`near_tie` says whether a difference is a tie that float noise decides, and `run` does all of it for
many requests.
"""
