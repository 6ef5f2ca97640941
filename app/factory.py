"""`create_app`: the FastAPI app of one set of settings."""

from collections.abc import Callable
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI

from app.errors import add_error_handlers
from app.lifespan import lifespan_of
from app.middleware import BodyLimit, Goodbye
from app.openapi import show_bounds
from app.opening import open_service as _open_service
from app.routers import info, metrics, summarize, translate
from app.service import TextService
from app.settings import Settings


def create_app(
    settings: Settings, open_service: Callable[[], TextService] | None = None
) -> FastAPI:
    """The app; its checkpoints are loaded when it starts.

    Args:
        settings: What the operator set.
        open_service: Gives the service, called once at start; left out: what the settings name.
    """
    app = FastAPI(
        title="Tandem",
        summary="Translation and summarization with encoder-decoder checkpoints.",
        version=version("tandem-serve"),
        lifespan=lifespan_of(open_service or partial(_open_service, settings)),
    )
    app.add_middleware(
        BodyLimit, max_body_bytes=settings.max_body_bytes, receive_s=settings.receive_s
    )
    app.add_middleware(Goodbye)
    add_error_handlers(app)
    app.include_router(info.router)
    app.include_router(metrics.router)
    if settings.translate_model:
        app.include_router(translate.router)
    if settings.summarize_model:
        app.include_router(summarize.router)
    show_bounds(app, settings)
    return app
