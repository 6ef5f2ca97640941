"""What the routes and the command line call: texts in, answers out."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

import anyio
import anyio.to_thread
from model_core.models import ServedModel
from model_core.text import PreparedSource

from app.errors import TextError
from app.metrics import Metrics, Outcome
from app.models import Models
from app.schemas import (
    Alternative,
    Answer,
    SummarizeRequest,
    SummarizeResponse,
    TextRequest,
    TranslateRequest,
    TranslateResponse,
    Usage,
)
from app.settings import Settings
from model_core.errors import (
    DeadlineExceededError,
    EngineClosedError,
    InvalidParameterError,
    InvalidRequestError,
    QueueFullError,
    TandemError,
)
from model_core.generation import Task
from model_core.request import Output

# Tokenizers release the GIL but not the cores: more threads would only take time from decoding.
_NUM_TEXT_THREADS = 2

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Call:
    """One call on its way.

    Attributes:
        model: Who answers it.
        task: What it asks for.
        body: What came in.
        started: `time.monotonic()` at its beginning.
        deadline: On the same clock.
        places: How many of its texts may be with the engine at a time.
        source_lang: As the caller wrote it.
        target_lang: As the caller wrote it.
    """

    model: ServedModel
    task: Task
    body: TextRequest
    started: float
    deadline: float
    places: asyncio.Semaphore
    source_lang: str | None = None
    target_lang: str | None = None


class TextService:
    """Translates and summarizes with the checkpoints that the settings name.

    Lives on one event loop. Texts are tokenized on threads; the engine has its own thread.
    """

    def __init__(self, models: Models, settings: Settings, metrics: Metrics) -> None:
        self.models = models
        self.settings = settings
        self.metrics = metrics
        self._text_threads = anyio.CapacityLimiter(_NUM_TEXT_THREADS)
        self._is_draining = False
        metrics.watch(lambda: {model.name: model.stats() for model in models.all})

    @property
    def status(self) -> Literal["ready", "draining", "dead"]:
        """Whether calls are taken, no longer taken, or can no longer be answered."""
        if not self.models.is_alive:
            return "dead"
        return "draining" if self._is_draining else "ready"

    def start_draining(self) -> None:
        """Take no further call; those that were taken go on."""
        self._is_draining = True

    async def translate(self, body: TranslateRequest) -> TranslateResponse:
        """Translate every text of a call with the checkpoint of its language pair."""
        model = self.models.translator(body.source_lang, body.target_lang)
        call = self._call(model, "translate", body, body.source_lang, body.target_lang)
        answers = await self._answer(call)
        return TranslateResponse(model=model.name, translations=answers, usage=_usage(answers))

    async def summarize(self, body: SummarizeRequest) -> SummarizeResponse:
        """Summarize every text of a call."""
        model = self.models.summarizer()
        answers = await self._answer(self._call(model, "summarize", body))
        return SummarizeResponse(model=model.name, summaries=answers, usage=_usage(answers))

    def _call(
        self,
        model: ServedModel,
        task: Task,
        body: TextRequest,
        source_lang: str | None = None,
        target_lang: str | None = None,
    ) -> _Call:
        if self._is_draining:
            raise EngineClosedError("the server is draining")
        max_texts = self.settings.max_texts_per_request
        if len(body.texts) > max_texts:
            raise InvalidParameterError("text", f"{len(body.texts)} texts", f"at most {max_texts}")
        timeout_s = body.timeout_s or self.settings.default_timeout_s
        if timeout_s > self.settings.max_timeout_s:
            expected = f"at most {self.settings.max_timeout_s:g} seconds"
            raise InvalidParameterError("timeout_s", timeout_s, expected)
        started = time.monotonic()
        return _Call(
            model=model,
            task=task,
            body=body,
            started=started,
            deadline=started + timeout_s,
            places=asyncio.Semaphore(self.settings.max_running_requests),
            source_lang=source_lang,
            target_lang=target_lang,
        )

    async def _answer(self, call: _Call) -> list[Answer]:
        sources = await self._on_text_thread(partial(self._prepare, call))
        outputs = await _gather(
            [self._decode(call, index, source) for index, source in enumerate(sources)]
        )
        answers = await self._on_text_thread(partial(_answers, call.model, sources, outputs))
        for answer in answers:
            self.metrics.answered(
                call.model.name,
                call.task,
                source_tokens=answer.source_tokens,
                generated_tokens=answer.generated_tokens,
                truncated=answer.truncated,
            )
        return answers

    def _prepare(self, call: _Call) -> list[PreparedSource]:
        """Tokenize all texts before any is submitted: one bad text costs no decoding."""
        overrides = call.body.parameters.overrides()
        sources = []
        for index, text in enumerate(call.body.texts):
            with _located(call, index), self._counted(call, only_failure=True):
                source = call.model.text.prepare(
                    text,
                    task=call.task,
                    source_lang=call.source_lang,
                    target_lang=call.target_lang,
                    overrides=overrides,
                    overflow=call.body.overflow,
                )
            sources.append(source)
        return sources

    async def _decode(self, call: _Call, index: int, source: PreparedSource) -> Output:
        # A long list fills the batch at most: the queue stays free for others.
        async with call.places:
            with _located(call, index), self._counted(call):
                future = call.model.submit(source, deadline=call.deadline)
                return await asyncio.wrap_future(future)

    async def _on_text_thread(self, work: Callable[[], _T]) -> _T:
        return await anyio.to_thread.run_sync(work, limiter=self._text_threads)

    @contextmanager
    def _counted(self, call: _Call, *, only_failure: bool = False) -> Iterator[None]:
        """Count how one text ended; a text that was only prepared has not ended yet."""
        outcome: Outcome | None = None if only_failure else "finished"
        try:
            yield
        except BaseException as error:
            outcome = _outcome_of(error)
            raise
        finally:
            if outcome is not None:
                seconds = time.monotonic() - call.started
                self.metrics.request_ended(call.model.name, call.task, outcome, seconds)


@contextmanager
def _located(call: _Call, index: int) -> Iterator[None]:
    """Name the text at fault where the call has a list of them."""
    try:
        yield
    except TandemError as error:
        if isinstance(call.body.text, str):
            raise
        raise TextError(index, error) from error


async def _gather(work: Sequence[Coroutine[None, None, _T]]) -> list[_T]:
    """Results in order; the first failure cancels the rest and waits until they have ended."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _answers(
    model: ServedModel, sources: Sequence[PreparedSource], outputs: Sequence[Output]
) -> list[Answer]:
    return [
        _as_answer(model, source, output) for source, output in zip(sources, outputs, strict=True)
    ]


def _as_answer(model: ServedModel, source: PreparedSource, output: Output) -> Answer:
    texts = [model.text.detokenize(each.token_ids) for each in output.hypotheses]
    return Answer(
        text=texts[0],
        score=output.best.score,
        finish_reason=output.best.finish_reason,
        truncated=source.truncated,
        source_tokens=output.source_tokens,
        generated_tokens=output.generated_tokens,
        alternatives=[
            Alternative(text=text, score=hypothesis.score)
            for text, hypothesis in zip(texts[1:], output.hypotheses[1:], strict=True)
        ],
    )


def _usage(answers: Sequence[Answer]) -> Usage:
    return Usage(
        source_tokens=sum(answer.source_tokens for answer in answers),
        generated_tokens=sum(answer.generated_tokens for answer in answers),
    )


def _outcome_of(error: BaseException) -> Outcome:
    match error:
        case asyncio.CancelledError():
            return "cancelled"
        case InvalidRequestError():
            return "invalid"
        case QueueFullError() | EngineClosedError():
            return "refused"
        case DeadlineExceededError():
            return "expired"
        case _:
            return "failed"
