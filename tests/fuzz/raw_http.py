"""HTTP on the wire, as it should not be: to a real server process, over real sockets."""

import contextlib
import json
import re
import socket

from hypothesis import strategies as st

Strategy = st.SearchStrategy[bytes]
TIMEOUT_S = 60.0
"""Only ends a run whose server hangs."""

_BODY = json.dumps({"text": "The coffee is cold.", "parameters": {"max_new_tokens": 2}}).encode()
_METHODS = st.sampled_from([b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"get", b"", b"P\x00ST"])
_ROUTES = [b"/health", b"/ready", b"/info", b"/translate", b"/languages", b"/docs", b"/nowhere"]
_ODD_PATHS = [
    b"*",
    b"//health",
    b"/health?a=b",
    b"/%00",
    b"/%ff%fe",
    b"http://a/health",
    b"/" * 999,
]
_PATHS = st.one_of(
    st.sampled_from(_ROUTES),
    st.sampled_from(_ODD_PATHS),
    st.binary(max_size=20).map(lambda tail: b"/" + tail),
)
_VERSIONS = st.sampled_from([*[b"HTTP/1.1"] * 6, b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9", b"", b"ICY"])
_ENDS = st.sampled_from([*[b"\r\n"] * 8, b"\n", b"\r", b"\r\n\r\n", b""])
_KNOWN_NAMES = (
    b"Host Content-Type Content-Length Transfer-Encoding Connection Expect X-Request-ID X-API-Key "
    b"Authorization traceparent Upgrade Origin Access-Control-Request-Method"
).split()
_NAMES = st.sampled_from([*_KNOWN_NAMES, b"X A", b""]) | st.binary(min_size=1, max_size=8)
_KNOWN_VALUES = (
    b"a application/json 0 5 -1 chunked gzip,chunked close keep-alive 100-continue websocket "
    b"upgrade"
).split()
_VALUES = st.one_of(
    st.sampled_from(_KNOWN_VALUES),
    st.sampled_from([b"9" * 30, b"x" * 5000, b"\xff", b"a\x00b", b"", b"a\r\n b"]),
    st.binary(max_size=20),
)
_HEADERS = st.lists(st.tuples(_NAMES, _VALUES), max_size=6) | st.builds(
    lambda header, count: [header] * count,
    st.tuples(_NAMES, _VALUES),
    st.sampled_from([100, 2000]),
)
_BAD_CHUNKS = [
    *(b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"zz\r\n", b"-1\r\n", b"5\r\nab\r\n"),
    *(b"5;a=b\r\nabcde\r\n", b"f" * 20 + b"\r\n", b"\r\n", b"1\r\na", b"5;" + b"x" * 9000),
]
_CHUNKS = st.lists(
    st.one_of(
        st.binary(max_size=30).map(lambda chunk: b"%x\r\n%s\r\n" % (len(chunk), chunk)),
        st.just(b"%x\r\n%s\r\n" % (len(_BODY), _BODY)),
        st.sampled_from(_BAD_CHUNKS),
    ),
    max_size=5,
).map(b"".join)


@st.composite
def _wrong(draw: st.DrawFn) -> bytes:
    """A request that is put together from parts that do not belong together."""
    end = draw(_ENDS)
    line = b" ".join([draw(_METHODS), draw(_PATHS), draw(_VERSIONS)])
    headers = [name + b": " + value for name, value in draw(_HEADERS)]
    if draw(st.integers(0, 3)):
        headers.insert(0, b"Host: a")
    return end.join([line, *headers, b"", b""]) + draw(_CHUNKS | st.binary(max_size=50))


@st.composite
def _nearly_right(draw: st.DrawFn) -> bytes:
    """A call whose body is framed in one of many ways."""
    framing = draw(
        st.one_of(
            st.integers(-3, 3).map(lambda off: b"Content-Length: %d" % (len(_BODY) + off)),
            st.just(b"Transfer-Encoding: chunked"),
            st.just(b"Content-Length: 4\r\nTransfer-Encoding: chunked"),
        )
    )
    body = draw(_CHUNKS) if b"chunked" in framing else _BODY
    head = b"POST /translate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    return head + framing + b"\r\n\r\n" + body


_RIGHT = st.sampled_from([b"/health", b"/ready", b"/languages"]).map(
    lambda path: b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path
)


def _cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def _changed(data: bytes, place: float, byte: int) -> bytes:
    index = min(int(len(data) * place), len(data) - 1)
    return data[:index] + bytes([byte]) + data[index + 1 :] if data else data


_ONE = st.one_of(_wrong(), _nearly_right(), _RIGHT)
_SHARES = st.floats(0, 1)
STREAMS: Strategy = st.one_of(
    _ONE,
    st.lists(_ONE, min_size=2, max_size=5).map(b"".join),  # pipelined
    st.builds(_cut, _ONE, _SHARES),
    st.builds(_changed, _ONE, _SHARES, st.integers(0, 255)),
    st.binary(max_size=100),
)


def exchange(port: int, *pieces: bytes, hangs_up: bool = True) -> bytes:
    """What a server answers to these bytes until it closes the connection.

    Args:
        port: Of the server.
        pieces: Sent one after the other.
        hangs_up: Whether the sender says that there are no more.
    """
    received = bytearray()
    # A server may close before it has read all, which resets the connection.
    with (
        contextlib.suppress(ConnectionError),
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection,
    ):
        for piece in pieces:
            connection.sendall(piece)
        if hangs_up:
            with contextlib.suppress(OSError):  # not connected: the server was faster
                connection.shutdown(socket.SHUT_WR)
        while answer := connection.recv(65_536):
            received += answer
    return bytes(received)


def statuses_of(received: bytes) -> list[int]:
    """The statuses of what may be several answers."""
    return [int(status) for status in re.findall(rb"^HTTP/1\.1 (\d{3}) ", received, re.MULTILINE)]
