"""What every call gets: an id, headers, a line in the log, a trace."""

import asyncio
import json
import logging
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from asgi_lifespan import LifespanManager
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext
from pydantic import SecretStr

from app.calls import SECURITY_HEADERS
from app.factory import create_app
from app.logs import JsonLines, TextLines
from app.tracing import TracingError, open_provider
from tests.app.connection import Connection
from tests.app.fakes import SETTINGS, Backwards, client_of
from tests.app.waiting import eventually

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TEXT = {"text": "abc"}


def calls_of(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The lines of the calls, as JSON."""
    records = [record for record in caplog.records if record.name == "app.calls"]
    return [json.loads(JsonLines().format(record)) for record in records]


# Ids and headers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["a", "A-b_c.7", "x" * 128])
async def test_a_request_id_is_echoed_where_it_is_well_formed(given: str) -> None:
    async with Backwards().client() as client:
        answer = await client.get("/ready", headers={"X-Request-ID": given})

    assert answer.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\xe9", '"', "a,b"])
async def test_a_request_id_that_is_not_well_formed_is_replaced(given: str) -> None:
    async with Backwards().client() as client:
        headers = {b"X-Request-ID": given.encode("latin-1")}
        answer = await client.get("/ready", headers=headers)

    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/health", None),
        ("GET", "/nowhere", None),
        ("GET", "/translate", None),
        ("POST", "/summarize", TEXT),
        ("POST", "/summarize", {}),
        ("POST", "/summarize", {"text": "bug"}),
    ],
)
async def test_every_answer_has_an_id_and_the_security_headers(
    method: str, path: str, body: dict[str, Any] | None
) -> None:
    async with Backwards().client() as client:
        answer = await client.request(method, path, json=body)

    assert answer.headers["x-request-id"]
    assert SECURITY_HEADERS.items() <= {k.title(): v for k, v in answer.headers.items()}.items()
    assert "server" not in answer.headers


async def test_only_the_pages_for_people_load_scripts() -> None:
    async with Backwards().client() as client:
        answer = await client.get("/docs")

    assert answer.status_code == 200
    assert "content-security-policy" not in answer.headers
    assert answer.headers["x-content-type-options"] == "nosniff"


# Origins -----------------------------------------------------------------------------------------

_PREFLIGHT = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}


async def test_no_origin_may_call_unless_it_is_allowed() -> None:
    async with Backwards().client() as client:
        asked = await client.options("/summarize", headers=_PREFLIGHT)
        answer = await client.post("/summarize", json=TEXT, headers={"Origin": "https://a.example"})

    assert asked.status_code == 405
    for each in (asked, answer):
        assert not [name for name in each.headers if name.startswith("access-control-")]


async def test_an_allowed_origin_may_call_and_asks_without_a_key() -> None:
    key = "ada-0123456789abcdef"
    settings = SETTINGS.model_copy(
        update={"cors_origins": ("https://a.example",), "api_keys": SecretStr(f"ada:{key}")}
    )
    async with Backwards(settings).client() as client:
        asked = await client.options("/summarize", headers=_PREFLIGHT)
        headers = {"Origin": "https://a.example", "X-API-Key": key}
        answer = await client.post("/summarize", json=TEXT, headers=headers)
        other = await client.options(
            "/summarize", headers={**_PREFLIGHT, "Origin": "https://b.example"}
        )

    assert asked.status_code == 200
    assert "authorization" in asked.headers["access-control-allow-headers"].lower()
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    assert "access-control-allow-credentials" not in answer.headers
    assert other.status_code == 400
    assert "access-control-allow-origin" not in other.headers


# Bounds before the body --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/ready", {"X-Long": "x" * 2000}),
        ("/ready", {f"X-{number}": "x" for number in range(300)}),
        ("/ready?" + "x" * 2000, {}),
        ("/" + "x" * 2000, {}),
    ],
    ids=["one", "many", "query", "path"],
)
async def test_headers_that_are_too_large_are_refused(path: str, headers: dict[str, str]) -> None:
    settings = SETTINGS.model_copy(update={"max_header_bytes": 1024})
    async with Backwards(settings).client() as client:
        answer = await client.get(path, headers=headers)
        assert (await client.get("/ready")).status_code == 200

    assert answer.status_code == 431
    assert answer.json()["type"] == "urn:tandem:request-header-fields-too-large"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"text": "x" * 11}, "text"),
        ({"text": ["x", "x" * 11]}, "text.1"),
        ({"text": "x", "target_prefix": "x" * 11}, "target_prefix"),
    ],
)
async def test_a_text_with_too_many_characters_is_refused_before_it_is_tokenized(
    body: dict[str, Any], field: str
) -> None:
    app = Backwards(SETTINGS, max_text_chars=10)
    app.loaded.models["short"].text.gate.clear()  # a tokenizer that was asked would never answer
    async with app.client() as client:
        problem = (await client.post("/summarize", json=body)).json()

    assert (problem["status"], problem["field"]) == (422, field)
    assert problem["expected"] == "at most 10 characters"
    assert "xxx" not in str(problem)


# Log ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "outcome"),
    [
        ({"text": ["abc", "de"]}, 200, "finished"),
        ({"text": ""}, 422, "invalid-request"),
        ({"text": "bug"}, 500, "internal-error"),
        ({"text": "a", "timeout_s": 601}, 422, "invalid-parameter"),
    ],
)
async def test_every_call_has_one_line_with_its_outcome(
    body: dict[str, Any], status: int, outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app.calls")
    async with Backwards().client() as client:
        await client.post("/summarize", json=body, headers={"X-Request-ID": "id-7"})

    (line,) = calls_of(caplog)
    assert (line["request_id"], line["status"], line["outcome"]) == ("id-7", status, outcome)
    assert (line["client"], line["path"]) == ("anonymous", "/summarize")


async def test_the_line_of_a_call_has_its_task_counts_and_times(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "app.calls")
    headers = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"}
    async with Backwards().client() as client:
        await client.post("/summarize", json={"text": ["abc", "de"]}, headers=headers)

    (line,) = calls_of(caplog)
    assert (line["task"], line["num_texts"]) == ("summarize", 2)
    assert (line["source_tokens"], line["generated_tokens"]) == (5, 5)
    assert 0 <= line["queue_s"] + line["encode_s"] + line["decode_s"] <= 2 * line["seconds"]
    assert line["trace_id"] == TRACE_ID


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "00",
        f"ff-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-01-more",
        f"00-{TRACE_ID.upper()}-{SPAN_ID}-01",
    ],
)
async def test_a_traceparent_that_is_not_well_formed_is_passed_over(
    traceparent: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app.calls")
    async with Backwards().client() as client:
        await client.get("/info", headers={"traceparent": traceparent})

    (line,) = calls_of(caplog)
    assert "trace_id" not in line


async def test_probes_that_succeed_have_no_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "app.calls")
    app = Backwards()
    async with app.client() as client:
        await client.get("/ready")
        await app.service.drain(0)
        await client.get("/ready")

    assert [line["status"] for line in calls_of(caplog)] == [503]


async def test_a_client_that_hangs_up_has_a_line_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "app.calls")
    app = Backwards()
    runner = app.runners["short"]
    runner.gate.clear()
    call = Connection("/summarize", TEXT)
    async with LifespanManager(app.app) as manager:
        calling = asyncio.create_task(call.call(manager.app))
        await eventually(runner.entered.is_set)
        call.hang_up()
        await calling

    (line,) = calls_of(caplog)
    assert (line["status"], line["outcome"]) == (499, "client-disconnected")


async def test_a_line_names_the_route_and_not_what_the_client_wrote(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with Backwards().client() as client:
        await client.request("SECRET", "/secret/text?text=secret", headers={"X-A": "secret"})

    (line,) = calls_of(caplog)
    assert (line["method"], line["path"]) == ("other", "none")
    records = [record for record in caplog.records if record.name != "httpx"]
    assert not [record for record in records if "secret" in JsonLines().format(record).lower()]


async def test_a_fault_is_logged_with_its_place_and_without_its_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Backwards().client() as client:
        problem = (await client.post("/summarize", json={"text": "bug"})).json()

    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    line = json.loads(JsonLines().format(record))
    assert problem["error_id"] in line["message"]
    assert line["frames"][0] == "RuntimeError"
    assert any("fakes.py" in frame and frame.endswith(" prepare") for frame in line["frames"])
    assert "secret" not in str(line)
    assert record.exc_info is None


def test_lines_of_both_formats_have_the_fields_that_are_known() -> None:
    record = logging.makeLogRecord(
        {"msg": "call", "levelname": "INFO", "name": "app", "fields": {"a": 1, "b": None}}
    )

    assert TextLines().format(record).endswith("INFO app: call a=1")
    line = json.loads(JsonLines().format(record))
    assert (line["level"], line["message"], line["a"]) == ("info", "call", 1)
    assert "b" not in line


# Traces ------------------------------------------------------------------------------------------


async def test_a_call_is_traced_with_its_queueing_encoding_and_decoding() -> None:
    spans = await traced({"text": ["abc", "de"]}, traceparent=f"00-{TRACE_ID}-{SPAN_ID}-01")

    (root,) = [span for span in spans if span.parent and span.parent.is_remote]
    assert root.name == "POST /summarize"
    assert root.parent is not None
    assert root.parent.span_id == int(SPAN_ID, 16)
    assert {_context_of(span).trace_id for span in spans} == {int(TRACE_ID, 16)}
    assert (root.attributes or {})["tandem.outcome"] == "finished"
    phases = [span for span in spans if span is not root]
    assert sorted(span.name for span in phases) == sorted(["queue", "encode", "decode"] * 2)
    for span in phases:
        assert span.parent is not None
        assert span.parent.span_id == _context_of(root).span_id
        assert 0 < (span.start_time or 0) <= (span.end_time or 0)
    by_name = {span.name: span for span in phases}
    assert by_name["queue"].end_time == pytest.approx(by_name["encode"].start_time, abs=1e6)
    assert by_name["encode"].end_time == pytest.approx(by_name["decode"].start_time, abs=1e6)


async def test_a_trace_shows_no_text_and_no_address() -> None:
    spans = await traced({"text": "bug secret"}, path="/summarize?secret=1")
    spans += await traced({"text": "a"}, path="/secret")

    assert spans
    shown = "".join(span.to_json() for span in spans)
    assert "secret" not in shown
    assert "127.0.0.1" not in shown


async def traced(
    body: dict[str, Any], *, path: str = "/summarize", traceparent: str = ""
) -> list[ReadableSpan]:
    """The spans of one call."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    fake = Backwards()
    app = create_app(SETTINGS, lambda: fake.service, tracer_provider=provider)
    async with LifespanManager(app) as manager, client_of(manager.app) as client:
        await client.post(path, json=body, headers={"traceparent": traceparent})
    return list(exporter.get_finished_spans())


def _context_of(span: ReadableSpan) -> SpanContext:
    context = span.get_span_context()
    assert context is not None
    return context


def test_spans_are_sent_where_the_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the library's name
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{collector.server_port}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        provider = open_provider(otlp_traces=True)
        assert isinstance(provider, TracerProvider)
        provider.get_tracer("tandem").start_span("queue").end()
        provider.shutdown()
        collector.shutdown()
        thread.join()

    ((path, body),) = received
    assert path == "/v1/traces"
    assert b"queue" in body
    assert b"service.name" in body


async def test_without_the_setting_nothing_is_traced() -> None:
    assert not open_provider(otlp_traces=False).get_tracer("x").start_span("y").is_recording()


def test_traces_without_the_extra_are_refused_with_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace.export", None)

    with pytest.raises(TracingError, match=r"pip install tandem-serve\[otel\]"):
        open_provider(otlp_traces=True)
