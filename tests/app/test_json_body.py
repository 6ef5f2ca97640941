import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.json_body import json_shape

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


def depth_of(value: Any) -> int:
    if not isinstance(value, (list, dict)):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max((depth_of(each) for each in inner), default=0)


@given(VALUES, st.booleans())
def test_the_depth_of_json_is_that_of_its_value(value: object, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")

    depth, num_brackets = json_shape(body)

    assert depth == depth_of(value)
    assert num_brackets >= 2 * depth


@given(st.binary() | st.text('[]{}",\\').map(str.encode))
def test_bytes_that_are_no_json_have_a_depth_too(body: bytes) -> None:
    depth, num_brackets = json_shape(body)

    assert 0 <= depth <= num_brackets <= len(body)
