"""`POST /summarize`."""

from fastapi import APIRouter, Request

from app.caller import CallerDep
from app.disconnect import unless_disconnected
from app.json_body import BoundedJsonRoute
from app.lifespan import ServiceDep
from app.openapi import PROBLEMS
from app.request_context import ContextDep
from app.schemas import SummarizeRequest, SummarizeResponse

router = APIRouter(tags=["text"], route_class=BoundedJsonRoute)


@router.post("/summarize", responses=PROBLEMS, response_model_exclude_none=True)
async def summarize(
    body: SummarizeRequest,
    request: Request,
    service: ServiceDep,
    caller: CallerDep,
    context: ContextDep,
) -> SummarizeResponse:
    """Summarize one text or several."""
    return await unless_disconnected(request, service.summarize(body, caller, context))
