"""`/metrics` on a port of its own, for whoever collects them and has no key."""

from prometheus_client import start_http_server

from app.metrics import Metrics
from app.settings import Settings, variable


def serve_metrics(settings: Settings, metrics: Metrics) -> None:
    """Answer scrapes from a thread that ends with the process.

    Raises:
        OSError: The port cannot be bound.
    """
    try:
        start_http_server(settings.metrics_port, settings.host, metrics.registry)
    except OSError as error:
        address = f"{settings.host}:{settings.metrics_port} ({variable('metrics_port')})"
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from error
