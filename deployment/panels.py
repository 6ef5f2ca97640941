"""The panels of the Grafana dashboard: what an operator looks at, and on which metrics."""

from dataclasses import dataclass

_OF = 'job=~"$job",model=~"$model"'
_CALLS = 'job=~"$job",path=~"/translate|/summarize"'  # scrapes and probes are none
_RATE = "[$__rate_interval]"


@dataclass(frozen=True, slots=True)
class Panel:
    """A diagram over time.

    Attributes:
        title: Above it.
        unit: Grafana's name of it.
        queries: PromQL by legend; `$job` and `$model` are the dashboard's variables.
        text: What it says about the service.
    """

    title: str
    unit: str
    queries: dict[str, str]
    text: str


def _rate(metric: str, *by: str, where: str = _OF) -> str:
    return f"sum by ({', '.join(by)}) (rate(tandem_{metric}{{{where}}}{_RATE}))"


def _mean(metric: str) -> str:
    """Mean of what a histogram observed."""
    return f"{_rate(f'{metric}_sum', 'model')} / {_rate(f'{metric}_count', 'model')}"


def _quantiles(metric: str, *quantiles: float) -> dict[str, str]:
    return {
        f"p{quantile * 100:g}": f"histogram_quantile({quantile}, {_rate(f'{metric}_bucket', 'le')})"
        for quantile in quantiles
    }


def of_everything(query: str, interval: str) -> str:
    """A query with the dashboard's variables at their defaults."""
    return query.replace("$__rate_interval", interval).replace("$job", ".*").replace("$model", ".*")


def _gauge(metric: str) -> str:
    return f"sum by (model) (tandem_{metric}{{{_OF}}})"


PANELS = (
    Panel(
        "Requests",
        "reqps",
        {"{{task}} {{outcome}}": _rate("requests_total", "task", "outcome")},
        "Texts ended, by outcome: a call with a list counts each of its texts.",
    ),
    Panel(
        "Latency",
        "s",
        _quantiles("request_seconds", 0.5, 0.9, 0.99),
        "From text to answer, of those that finished.",
    ),
    Panel(
        "Time in the queue",
        "s",
        _quantiles("queue_seconds", 0.5, 0.99),
        "Before a slot was free. Scale out on what makes it grow: the queue.",
    ),
    Panel(
        "Queue",
        "short",
        {"waiting {{model}}": _gauge("waiting_requests")},
        "Requests that wait for a slot.",
    ),
    Panel(
        "Slots",
        "short",
        {
            "used {{model}}": _gauge("slots_used"),
            "total {{model}}": _gauge("slots_total"),
        },
        "Requests decoded together, and how many could be.",
    ),
    Panel(
        "Cache",
        "bytes",
        {"reserved {{model}}": _gauge("reserved_bytes")},
        "Cache bytes that running requests have reserved.",
    ),
    Panel(
        "Rows per step",
        "short",
        {"{{model}}": _mean("step_rows")},
        "Hypotheses in a decoder step: how full the batch is.",
    ),
    Panel(
        "Tokens per second",
        "short",
        {
            "source {{model}}": _rate("source_tokens_total", "model"),
            "generated {{model}}": _rate("generated_tokens_total", "model"),
        },
        "Tokens of the answers given, and of their sources.",
    ),
    Panel(
        "Step and admission",
        "s",
        {"step {{model}}": _mean("step_seconds"), "encode {{model}}": _mean("encode_seconds")},
        "Mean time of a decoder step, and of encoding what joins.",
    ),
    Panel(
        "Padding",
        "percentunit",
        {"{{model}}": _mean("encoder_padding_ratio")},
        "Share of an encoder batch that is padding.",
    ),
    Panel(
        "Work avoided",
        "reqps",
        {"{{outcome}} {{model}}": _rate("encoder_runs_avoided_total", "model", "outcome")},
        "Sources that were not encoded again: cached, or joined to an identical request.",
    ),
    Panel(
        "Refused and cancelled",
        "reqps",
        {
            "refused {{task}}": _rate("requests_total", "task", where=f'{_OF},outcome="refused"'),
            "cancelled {{task}}": _rate("cancelled_requests_total", "task"),
            "truncated {{task}}": _rate("truncated_requests_total", "task"),
        },
        "Refused because the queue was full or the server was ending; given up by their callers.",
    ),
    Panel(
        "Errors",
        "reqps",
        {
            "{{outcome}} {{task}}": _rate(
                "requests_total",
                "task",
                "outcome",
                where=f'{_OF},outcome=~"failed|expired|invalid"',
            )
        },
        "Failed in the engine, not finished in time, or wrong from the start.",
    ),
    Panel(
        "Calls by status",
        "reqps",
        {"{{status}}": _rate("calls_total", "status", where=_CALLS)},
        "Calls answered, those that never became requests too: without a key, too large, too many.",
    ),
    Panel(
        "Calls by client",
        "reqps",
        {"{{client}}": _rate("calls_total", "client", where=_CALLS)},
        "Calls answered, by the name of the caller's key.",
    ),
)
