"""`GET /health`, `/ready`, `/info` and `/languages`."""

from fastapi import APIRouter, Response

from app.describe import describe_languages, describe_server
from app.lifespan import ServiceDep
from app.openapi import NOT_SO
from app.schemas import Languages, ServerInfo, Status

router = APIRouter(tags=["operation"])


@router.get("/health", responses=NOT_SO)
async def health(service: ServiceDep, response: Response) -> Status:
    """Whether the process and the engine's loop are alive and move on; if not, restart it."""
    if service.status in ("stuck", "dead"):
        response.status_code = 503
        return Status(status=service.status)
    return Status(status="ok")


@router.get("/ready", responses=NOT_SO)
async def ready(service: ServiceDep, response: Response) -> Status:
    """Whether calls are taken; if not, send them elsewhere."""
    if service.status != "ready":
        response.status_code = 503
    return Status(status=service.status)


@router.get("/info")
def info(service: ServiceDep) -> ServerInfo:
    """Checkpoints, limits and versions."""
    return describe_server(service)


@router.get("/languages")
def languages(service: ServiceDep) -> Languages:
    """What each checkpoint of `/translate` translates."""
    return describe_languages(service)
