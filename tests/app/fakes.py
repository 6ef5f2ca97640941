"""The whole app over a model that writes its source backwards, on the real engine."""

import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import httpx
from asgi_lifespan import LifespanManager
from fastapi import FastAPI

from app.factory import create_app
from app.metrics import Metrics
from app.opening import engine_limits
from app.routing import Routing
from app.service import TextService
from app.settings import Settings
from model_core.engine import Engine
from model_core.errors import InvalidParameterError, SourceTooLongError
from model_core.generation import GenerationOverrides, GenerationParameters
from model_core.languages import Languages
from model_core.ledger import EngineStats
from model_core.models import ModelSet
from model_core.request import Output, Priority, Prospect
from model_core.runner import StepReport
from model_core.scheduler import EngineLimits
from model_core.text import PreparedSource
from tests.model_core.fakes import POISON_IN_STEP, FakeRunner

MAX_SOURCE_LEN = 40
POISON = chr(POISON_IN_STEP)  # a text with it makes the step raise
SETTINGS = Settings(translate_model="en-de,de-en", summarize_model="short")


class GatedRunner(FakeRunner):
    """Steps only while the gate is open, so that a test decides how far decoding gets."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def step(self) -> StepReport:
        self.entered.set()
        self.gate.wait()
        return super().step()


class BackwardsText:
    """One token per character; `detokenize` gives the characters of the tokens.

    Tokenizes only while the gate is open, so that a test decides how long it takes.
    """

    max_source_len = MAX_SOURCE_LEN

    def __init__(self, languages: Languages) -> None:
        self._languages = languages
        self.gate = threading.Event()
        self.gate.set()

    def prepare(
        self,
        text: str,
        *,
        task: str,
        source_lang: str | None,
        target_lang: str | None,
        overrides: GenerationOverrides,
        overflow: str,
        target_prefix: str | None = None,
    ) -> PreparedSource:
        self.gate.wait()
        if task == "translate":
            self._languages.choose(source_lang, target_lang)
        if len(text) > MAX_SOURCE_LEN and overflow == "error":
            raise SourceTooLongError(len(text), MAX_SOURCE_LEN)
        if overrides.num_beams == 13:
            raise InvalidParameterError("num_beams", 13, "another number")
        if text == "bug":
            raise RuntimeError("a secret of the server")
        source_ids = tuple(ord(letter) for letter in text[:MAX_SOURCE_LEN])
        parameters = GenerationParameters(
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_ids=(2,),
            max_length=(overrides.max_new_tokens or 3) + 1,
            num_beams=overrides.num_beams or 1,
        )
        return PreparedSource(source_ids, parameters, truncated=len(text) > MAX_SOURCE_LEN)

    def expected_source_len(self, text: str) -> int | None:
        return len(text)

    def least_max_steps(self, max_length: int | None, max_new_tokens: int | None) -> int:
        return max_new_tokens or 3

    def detokenize(self, token_ids: Sequence[int]) -> str:
        return "".join(chr(token_id) for token_id in token_ids)


class FakeModel:
    """What the service asks of a loaded checkpoint."""

    def __init__(self, name: str, engine: Engine, pair: tuple[str, ...]) -> None:
        self.name = name
        self.family = "bert"
        self.reason = None
        self.cache_bytes = None
        self.engine = engine
        languages = Languages(sources=pair[:1], targets=pair[1:])
        self.checkpoint = SimpleNamespace(
            name=name,
            revision=None,
            architecture="EncoderDecoderModel",
            device="cpu",
            dtype="torch.float32",
            languages=languages,
            max_target_len=MAX_SOURCE_LEN,
        )
        self.text = BackwardsText(languages)

    def submit(
        self, prepared: PreparedSource, *, deadline: float | None, client: str, priority: Priority
    ) -> Future[Output]:
        return self.engine.submit(
            self.name,
            prepared.source_ids,
            prepared.parameters,
            deadline=deadline,
            client=client,
            priority=priority,
        )

    def check_room(self, prospect: Prospect) -> None:
        self.engine.check_room(self.name, prospect)

    def stats(self) -> EngineStats:
        return self.engine.stats(self.name)


class FakeModels:
    """What the service asks of all loaded checkpoints together."""

    def __init__(
        self,
        runners: dict[str, GatedRunner],
        limits: EngineLimits,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self.runners = runners
        self.engine = Engine(runners, limits, observer=metrics, clock=clock)
        pairs: dict[str, tuple[str, ...]] = {"en-de": ("en", "de"), "de-en": ("de", "en")}
        self.models = {name: FakeModel(name, self.engine, pairs.get(name, ())) for name in runners}

    @property
    def engines(self) -> tuple[Engine, ...]:
        return (self.engine,)

    def start(self) -> None:
        self.engine.start()

    def close(self, timeout: float | None = None) -> None:
        for runner in self.runners.values():
            runner.gate.set()
        for model in self.models.values():
            model.text.gate.set()
        self.engine.close(timeout)


class Backwards:
    """A running app, its client, and the parts that a test takes hold of."""

    def __init__(
        self,
        settings: Settings = SETTINGS,
        *,
        engine_clock: Callable[[], float] = time.monotonic,
        **limits: Any,
    ) -> None:
        settings = settings.model_copy(update=limits)
        names = dict.fromkeys((*settings.translate_model, *settings.summarize_model))
        self.metrics = Metrics()
        self.runners = {name: GatedRunner() for name in names}
        self.loaded = FakeModels(self.runners, engine_limits(settings), self.metrics, engine_clock)
        routing = Routing(
            cast(ModelSet, self.loaded), settings.translate_model, settings.summarize_model
        )
        self.service = TextService(routing, settings, self.metrics)
        self.app = create_app(settings, lambda: self.service)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        async with LifespanManager(self.app) as manager, client_of(manager.app) as client:
            yield client

    def value(self, name: str, **labels: str) -> float:
        """One sample of the metrics; 0 where there is none yet."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def client_of(app: Any) -> httpx.AsyncClient:
    """A client of the app, which gets answers to exceptions too, as over a socket."""
    transport = httpx.ASGITransport(cast(FastAPI, app), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://tandem")
