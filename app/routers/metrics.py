"""`GET /metrics`."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from app.lifespan import ServiceDep

router = APIRouter(tags=["operation"])


@router.get("/metrics", response_class=Response)
def metrics(service: ServiceDep) -> Response:
    """Everything that is measured, in Prometheus' text format."""
    return Response(service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
