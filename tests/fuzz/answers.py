"""What every answer keeps to, whatever was asked: the API's own page."""

from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol

import jsonschema_rs

NO_FAULTS = (503, 504)
"""Statuses from 500 on that say nothing of a fault: too much waits, or a call's time was over."""


class Answer(Protocol):
    """What the clients of every library call a response."""

    @property
    def status_code(self) -> int:
        """Of HTTP."""

    @property
    def text(self) -> str:
        """The body."""

    @property
    def headers(self) -> Mapping[str, str]:
        """By name, in any case."""

    def json(self) -> Any:
        """The body as a value."""


class Page:
    """The OpenAPI page of a server, as what its answers must be."""

    def __init__(self, page: Mapping[str, Any]) -> None:
        self._page = page
        self._validator = cache(self._new_validator)

    def check(self, method: str, path: str, answer: Answer) -> None:
        """Fail where an answer is not as the page says.

        Raises:
            AssertionError: Says what was answered.
        """
        status = answer.status_code
        shown = f"{method} {path}: {status} {answer.text[:500]}"
        assert status < 500 or status in NO_FAULTS, shown
        responses = self._page["paths"][path][method.lower()]["responses"]
        assert str(status) in responses, shown
        media_type = answer.headers["content-type"].partition(";")[0]
        content = responses[str(status)].get("content", {})
        assert not content or media_type in content, shown
        assert answer.headers["x-request-id"], shown
        if media_type.endswith("json"):
            errors = self._validator(method, path, status, media_type).iter_errors(answer.json())
            assert not (error := next(iter(errors), None)), f"{shown}\n{error}"

    def _new_validator(
        self, method: str, path: str, status: int, media_type: str
    ) -> jsonschema_rs.Draft202012Validator:
        responses = self._page["paths"][path][method.lower()]["responses"]
        schema = responses[str(status)]["content"][media_type]["schema"]
        # References point into the page's components.
        return jsonschema_rs.Draft202012Validator(
            {**schema, "components": self._page["components"]}
        )
