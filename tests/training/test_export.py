from training.data import Pair
from training.export import join_pairs


def test_pairs_are_joined_until_long_enough_and_a_short_rest_is_left_out() -> None:
    pairs = [Pair(f"a {row}", f"b {row}") for row in range(5)]
    assert join_pairs(pairs, min_words=4) == [
        Pair("a 0 a 1", "b 0 b 1"),
        Pair("a 2 a 3", "b 2 b 3"),
    ]
