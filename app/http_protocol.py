"""HTTP on the wire: uvicorn's protocol, whose refusals of malformed requests are problems too."""

import sys
import uuid

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.calls import SECURITY_HEADERS
from app.errors import ProblemResponse, problem


class HttpProtocol(H11Protocol):
    """uvicorn's, over h11, which parses strictly and bounds the size of headers.

    Nothing of what could not be read is repeated, in the answer or in the log.
    """

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, where an answer can still be given, and close the connection."""
        if self.cycle is not None:
            # Its body does not continue: whoever still answers it must not write any more.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        error = sys.exception()
        # h11's hint is the only sign of headers that are too large.
        if isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == 431:
            self.refuse(431, "request-header-fields-too-large", "too large headers")
        else:
            self.refuse(400, "bad-request", "what was received is not HTTP/1.1")

    def refuse(self, status: int, kind: str, detail: str) -> None:
        """Answer what never became a request with a problem, and close the connection.

        Args:
            status: Of HTTP.
            kind: See `app.errors.problem`.
            detail: See `app.errors.problem`.
        """
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._write(problem(status, kind, detail))
        self.transport.close()

    def _write(self, answer: ProblemResponse) -> None:
        own = {**SECURITY_HEADERS, "X-Request-ID": uuid.uuid4().hex, "Connection": "close"}
        headers = [*answer.raw_headers, *((k.lower().encode(), v.encode()) for k, v in own.items())]
        response = h11.Response(status_code=answer.status_code, headers=headers)
        for event in (response, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
