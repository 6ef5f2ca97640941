"""What is known of one call besides its body: who asks, under which id, and how it went."""

import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from starlette.types import Scope

from model_core.generation import Task
from model_core.request import Timing

ANONYMOUS = "anonymous"
"""Client name of every caller of a server without keys."""

UNKNOWN = "unknown"
"""Client name of a caller without a valid key, where one is needed or not."""

_STATE_KEY = "context"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
# W3C Trace Context, version 00; later versions may have more behind it, and ff is none.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


@dataclass(slots=True)
class RequestContext:
    """One call, from its headers to its line in the log. Holds no key, no address and no text.

    Attributes:
        request_id: The client's, where it is well-formed, else one of our own.
        trace_id: Of the trace that the client's `traceparent` names.
        client_name: Name of the caller's key, for the log and the metrics; see `app.caller` for
            whom turns and quotas are counted.
        task: What is asked for, once the body was read.
        num_texts: How many texts the body has.
        outcome: `finished`, or the kind of the problem that was answered.
        source_tokens: Of all answers.
        generated_tokens: Of all answers.
        timings: Of each answered text, in the order of their ends.
        started: `time.monotonic()` at its beginning.
    """

    request_id: str
    trace_id: str | None = None
    client_name: str = ANONYMOUS
    task: Task | None = None
    num_texts: int = 0
    outcome: str = "finished"
    source_tokens: int = 0
    generated_tokens: int = 0
    timings: list[Timing] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def of_headers(cls, headers: Mapping[str, str]) -> "RequestContext":
        """The context of a call that begins."""
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        return cls(request_id, trace_id=_trace_id(headers.get("traceparent", "")))


def set_context(scope: Scope, context: RequestContext) -> None:
    """Let the rest of the app find the context; the server may share the state of its scopes."""
    scope["state"] = {**scope.get("state", {}), _STATE_KEY: context}


def context_of(scope: Scope) -> RequestContext:
    """The context of the call with this scope."""
    context: RequestContext = scope["state"][_STATE_KEY]
    return context


async def get_context(request: Request) -> RequestContext:
    """The context, for a route that asks for it."""
    return context_of(request.scope)


ContextDep = Annotated[RequestContext, Depends(get_context)]


def _trace_id(traceparent: str) -> str | None:
    """The trace of a `traceparent` that is well-formed; one of zeros is none."""
    found = _TRACEPARENT.fullmatch(traceparent.strip())
    if not found or not int(found[1], 16) or not int(found[2], 16):
        return None
    if traceparent.strip().startswith("00-") and found[3]:
        return None
    return found[1]
