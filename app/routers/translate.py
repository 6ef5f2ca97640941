"""`POST /translate`."""

from fastapi import APIRouter, Request

from app.caller import CallerDep
from app.disconnect import unless_disconnected
from app.json_body import BoundedJsonRoute
from app.lifespan import ServiceDep
from app.openapi import PROBLEMS
from app.request_context import ContextDep
from app.schemas import TranslateRequest, TranslateResponse

router = APIRouter(tags=["text"], route_class=BoundedJsonRoute)


@router.post("/translate", responses=PROBLEMS, response_model_exclude_none=True)
async def translate(
    body: TranslateRequest,
    request: Request,
    service: ServiceDep,
    caller: CallerDep,
    context: ContextDep,
) -> TranslateResponse:
    """Translate one text or several."""
    return await unless_disconnected(request, service.translate(body, caller, context))
