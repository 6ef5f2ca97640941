"""Prometheus metrics, one registry per app: what the engine and the calls report."""

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from model_core.ledger import EngineStats
from model_core.observer import Outcome as EngineOutcome
from model_core.request import Output
from model_core.runner import EncodeReport

Outcome = EngineOutcome | Literal["invalid", "refused"]
ReadStats = Callable[[], Mapping[str, EngineStats]]  # by model

# The library's only switch for it: without, a third of all samples would be timestamps.
disable_created_metrics()  # type: ignore[no-untyped-call]

_REQUEST_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)
_STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_RATIOS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class Metrics:
    """The `tandem_*` metrics; labels are `model`, `task` and `outcome`, of calls `client` too.

    Observes the engine (`model_core.observer.EngineObserver`) from its threads, and the calls
    from the event loop. A request is one text: a call with a list of texts counts several. The
    model of a call that was refused before it had one is `none`.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = self._counter("requests", "Requests ended.", "model", "task", "outcome")
        self._request_s = self._histogram(
            "request_seconds", "Time from text to answer.", _REQUEST_SECONDS, "model", "task"
        )
        self._queue_s = self._histogram("queue_seconds", "Time in the queue.", _REQUEST_SECONDS)
        self._encode_s = self._histogram("encode_seconds", "Time of an admission.", _STEP_SECONDS)
        self._step_s = self._histogram("step_seconds", "Time of a decoder step.", _STEP_SECONDS)
        self._step_rows = self._histogram("step_rows", "Hypotheses in a decoder step.", _ROWS)
        self._padding = self._histogram(
            "encoder_padding_ratio", "Share of padding in an encoder batch.", _RATIOS
        )
        self._avoided = self._counter(
            "encoder_runs_avoided", "Sources not encoded again.", "model", "outcome"
        )
        self._source_tokens = self._counter("source_tokens", "Source tokens.", "model", "task")
        self._generated_tokens = self._counter(
            "generated_tokens", "Target tokens of the answers given.", "model", "task"
        )
        self._cancelled = self._counter("cancelled_requests", "Requests given up.", "model", "task")
        self._truncated = self._counter("truncated_requests", "Texts cut.", "model", "task")
        self._calls = self._counter("calls", "Calls answered.", "client", "path", "status")

    def watch(self, read_stats: ReadStats) -> None:
        """Report queues and slots, read at each scrape."""
        self.registry.register(_StatsCollector(read_stats))

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    # What the calls report.

    def call_ended(self, client: str, path: str, status: int) -> None:
        """Count one call, whatever it was about.

        Args:
            client: Name of the caller's key.
            path: Of the route.
            status: Of the answer.
        """
        self._calls.labels(client, path, status).inc()

    def request_ended(self, model: str, task: str, outcome: Outcome, seconds: float) -> None:
        """Count one text of a call."""
        self._requests.labels(model, task, outcome).inc()
        if outcome == "finished":
            self._request_s.labels(model, task).observe(seconds)
        if outcome == "cancelled":
            self._cancelled.labels(model, task).inc()

    def answered(
        self, model: str, task: str, *, source_tokens: int, generated_tokens: int, truncated: bool
    ) -> None:
        """Count the tokens of one answer."""
        self._source_tokens.labels(model, task).inc(source_tokens)
        self._generated_tokens.labels(model, task).inc(generated_tokens)
        if truncated:
            self._truncated.labels(model, task).inc()

    # What the engine reports.

    def admitted(self, model: str, queue_s: float) -> None:
        """A request left the queue."""
        self._queue_s.labels(model).observe(queue_s)

    def encoded(self, model: str, report: EncodeReport, seconds: float) -> None:
        """New requests joined the batch."""
        self._encode_s.labels(model).observe(seconds)
        self._avoided.labels(model, "cached").inc(report.num_cached)
        if report.padded_tokens:
            self._padding.labels(model).observe(1 - report.source_tokens / report.padded_tokens)

    def stepped(self, model: str, num_rows: int, seconds: float) -> None:
        """One decoder step was run."""
        self._step_s.labels(model).observe(seconds)
        self._step_rows.labels(model).observe(num_rows)

    def coalesced(self, model: str) -> None:
        """A caller joined an identical request in flight."""
        self._avoided.labels(model, "coalesced").inc()

    def ended(self, model: str, outcome: EngineOutcome, output: Output | None) -> None:
        """Nothing: the calls report their requests themselves, as only they know the task."""

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace="tandem", registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            name,
            text,
            labels or ("model",),
            namespace="tandem",
            buckets=buckets,
            registry=self.registry,
        )


class _StatsCollector(Collector):
    """What holds at the moment of a scrape."""

    def __init__(self, read_stats: ReadStats) -> None:
        self._read_stats = read_stats

    def collect(self) -> Iterator[GaugeMetricFamily]:
        stats = self._read_stats()
        running = {model: each.running for model, each in stats.items()}
        waiting = {model: each.waiting for model, each in stats.items()}
        slots = {model: each.slots_total for model, each in stats.items()}
        yield _gauge("running_requests", "Requests being decoded.", running)
        yield _gauge("waiting_requests", "Requests in the queue.", waiting)
        yield _gauge("slots_used", "Slots in use.", running)
        yield _gauge("slots_total", "Slots there are.", slots)
        reserved = {model: each.reserved_bytes for model, each in stats.items()}
        yield _gauge("reserved_bytes", "Cache bytes reserved by running requests.", reserved)


def _gauge(name: str, text: str, values: Mapping[str, int]) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(f"tandem_{name}", text, labels=["model"])
    for model, value in values.items():
        gauge.add_metric([model], value)
    return gauge
