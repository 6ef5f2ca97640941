"""`create_app`: the FastAPI app of one set of settings."""

from collections.abc import Callable
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from opentelemetry.trace import NoOpTracerProvider, TracerProvider

from app.api_keys import ApiKeys
from app.calls import Calls
from app.early_refusal import EarlyRefusal, TextRoute
from app.errors import add_error_handlers
from app.gate import HeaderGate, KeyGate
from app.lifespan import lifespan_of
from app.middleware import BodyLimit, Goodbye
from app.openapi import complete_page
from app.opening import open_service as _open_service
from app.routers import info, metrics, summarize, translate
from app.schemas import SummarizeRequest, TranslateRequest
from app.service import TextService
from app.settings import Settings
from app.tracing import CallTracer, open_provider, telemetry_of

_CORS_METHODS = ("GET", "POST")
_CORS_HEADERS = ("Authorization", "X-API-Key", "X-Request-ID", "X-Request-Timeout", "traceparent")
_CORS_EXPOSED = ("X-Request-ID", "Retry-After")


def create_app(
    settings: Settings,
    open_service: Callable[[], TextService] | None = None,
    *,
    keys: ApiKeys | None = None,
    tracer_provider: TracerProvider | None = None,
) -> FastAPI:
    """The app; its checkpoints are loaded when it starts.

    Args:
        settings: What the operator set.
        open_service: Gives the service, called once at start; left out: what the settings name.
        keys: Of those who may call; left out: what the settings name.
        tracer_provider: Receives the spans; left out: what the settings name.
    """
    keys = keys or ApiKeys.of(settings)
    provider = tracer_provider or open_provider(otlp_traces=settings.otlp_traces)
    app = FastAPI(
        title="Tandem",
        summary="Translation and summarization with encoder-decoder checkpoints.",
        version=version("tandem-serve"),
        lifespan=lifespan_of(open_service or partial(_open_service, settings)),
        telemetry=telemetry_of(provider),
    )
    _add_middleware(app, settings, keys, provider)
    add_error_handlers(app)
    app.include_router(info.router)
    if not settings.metrics_port:
        app.include_router(metrics.router)
    if settings.translate_model:
        app.include_router(translate.router)
    if settings.summarize_model:
        app.include_router(summarize.router)
    complete_page(app, settings, needs_key=keys.are_required)
    return app


def _text_routes(settings: Settings) -> dict[str, TextRoute]:
    """Those that the app has, by path."""
    routes = []
    if settings.translate_model:
        [route] = translate.router.routes
        routes.append(TextRoute("translate", TranslateRequest, route))
    if settings.summarize_model:
        [route] = summarize.router.routes
        routes.append(TextRoute("summarize", SummarizeRequest, route))
    return {each.path: each for each in routes}


def _add_middleware(
    app: FastAPI, settings: Settings, keys: ApiKeys, provider: TracerProvider
) -> None:
    """Add from the inside out: what is added last sees a call first."""
    if isinstance(provider, NoOpTracerProvider):  # spans are the framework's, of every call
        app.add_middleware(EarlyRefusal, routes=_text_routes(settings))
    app.add_middleware(
        BodyLimit, max_body_bytes=settings.max_body_bytes, receive_s=settings.receive_s
    )
    app.add_middleware(KeyGate, keys=keys)
    if settings.cors_origins:  # outside the gate: a browser asks first, and without a key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=_CORS_METHODS,
            allow_headers=_CORS_HEADERS,
            expose_headers=_CORS_EXPOSED,
        )
    app.add_middleware(HeaderGate, max_header_bytes=settings.max_header_bytes)
    app.add_middleware(Calls, trace_call=CallTracer(provider))
    app.add_middleware(Goodbye)  # outside of all that answers
