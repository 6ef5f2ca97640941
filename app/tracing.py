"""OpenTelemetry traces: a span for each call, with its queueing, encoding and decoding inside."""

import time

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from opentelemetry.trace import NoOpTracerProvider, Tracer, TracerProvider

from app.request_context import RequestContext
from model_core.errors import TandemError
from model_core.request import Timing

_MAX_TRACED_TEXTS = 100  # of one call: three spans each
_SERVICE = "tandem"


class TracingError(TandemError):
    """Traces are asked for, and what sends them is not installed."""


def open_provider(*, otlp_traces: bool) -> TracerProvider:
    """What receives spans: an exporter that the `OTEL_*` variables configure, or nobody.

    Raises:
        TracingError: The extra `otel` is not installed.
    """
    if not otlp_traces:
        return NoOpTracerProvider()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider as SdkProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise TracingError(
            "TANDEM_OTLP_TRACES needs the extra otel: pip install tandem-serve[otel]"
        ) from error
    provider = SdkProvider(resource=Resource.create({"service.name": _SERVICE}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def telemetry_of(provider: TracerProvider) -> TelemetryConfig:
    """FastAPI's own spans, which follow `traceparent`; not its logs, which would show bodies."""
    return {
        "tracer_provider": provider,
        "tracing": not isinstance(provider, NoOpTracerProvider),
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "auto_configure": False,
    }


class CallTracer:
    """Adds to the span of a call what only its answer tells."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer: Tracer = provider.get_tracer(_SERVICE)

    def __call__(self, context: RequestContext, path: str) -> None:
        """Write the phases of each text as spans, from the engine's own times.

        Args:
            context: Of the call.
            path: Of its route.
        """
        span = trace.get_current_span()
        if not span.is_recording():
            return
        span.set_attribute("tandem.outcome", context.outcome)
        span.set_attribute("tandem.request_id", context.request_id)
        # What stands in a path that no route has, or behind its ?, could be a text.
        span.set_attribute("url.path", path)
        span.set_attribute("url.query", "")
        for timing in context.timings[:_MAX_TRACED_TEXTS]:
            self._trace(timing)

    def _trace(self, timing: Timing) -> None:
        offset_s = time.time() - time.monotonic()  # the engine's clock is monotonic
        for name, begin, end in (
            ("queue", timing.submitted_at, timing.admitted_at),
            ("encode", timing.admitted_at, timing.encoded_at),
            ("decode", timing.encoded_at, timing.ended_at),
        ):
            span = self._tracer.start_span(name, start_time=_nanoseconds(begin + offset_s))
            span.end(_nanoseconds(end + offset_s))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
