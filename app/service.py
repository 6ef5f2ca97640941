"""What the routes and the command line call: texts in, answers out."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeVar

from app.backlog import Asked, Backlog, Line
from app.caller import Caller
from app.errors import TextError
from app.metrics import Metrics, Outcome
from app.quota import Quota, QuotaExceededError
from app.request_context import RequestContext
from app.routing import Routing
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
from app.text_bounds import check_num_chars, check_num_texts
from model_core.engine import Engine
from model_core.errors import (
    DeadlineExceededError,
    EngineClosedError,
    InvalidParameterError,
    InvalidRequestError,
    QueueFullError,
    RequestFailedError,
    TandemError,
)
from model_core.generation import Task
from model_core.models import ServedModel
from model_core.request import Output, Priority, Prospect
from model_core.text import PreparedSource

# Tokenizers release the GIL but not the cores: more threads would only take time from decoding.
_NUM_TEXT_THREADS = 2
_LAST_STEP_S = 10.0  # for the step that runs when the service is closed
_NO_MODEL = "none"  # a call that was refused before it was known who would answer it

_OPERATOR = Caller()

ServiceStatus = Literal["ready", "draining", "rebuilding", "stuck", "dead"]

_T = TypeVar("_T")


def _of_command_line() -> RequestContext:
    return RequestContext("command-line")


@dataclass(slots=True)
class _Call:
    """One call on its way.

    Attributes:
        task: What it asks for.
        body: What came in.
        caller: Who sent it.
        started: `time.monotonic()` at its beginning.
        timeout_s: That it has, once it is taken.
        model_name: Who answers it, once that is known.
        context: Who asks, and what is known of the call when it ends.
        text_seconds: How long each text took that was answered, in the order of their ends.
    """

    task: Task
    body: TextRequest
    caller: Caller
    context: RequestContext = field(default_factory=_of_command_line)
    started: float = field(default_factory=time.monotonic)
    timeout_s: float = math.inf
    model_name: str = _NO_MODEL
    text_seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.context.task = self.task
        self.context.num_texts = len(self.body.texts)

    @property
    def deadline(self) -> float:
        """On the clock of its beginning."""
        return self.started + self.timeout_s

    @property
    def languages(self) -> tuple[str | None, str | None]:
        """Of its texts and of their answers, as the caller wrote them."""
        if isinstance(self.body, TranslateRequest):
            return self.body.source_lang, self.body.target_lang
        return None, None

    @property
    def priority(self) -> Priority:
        """What was asked for; else a list can wait and a single text cannot."""
        return self.body.priority or ("interactive" if len(self.body.texts) == 1 else "bulk")


class TextService:
    """Translates and summarizes with the checkpoints that the settings name.

    Lives on one event loop. Texts are tokenized on threads; the engine has its own thread.
    """

    def __init__(self, routing: Routing, settings: Settings, metrics: Metrics) -> None:
        self.routing = routing
        self.settings = settings
        self.metrics = metrics
        self._text_threads = ThreadPoolExecutor(_NUM_TEXT_THREADS, "tandem-text")
        self._backlogs = {model.name: Backlog(model, settings) for model in routing.models}
        self._quota = Quota(settings.quota_texts_per_minute)
        self._state: Literal["open", "leaving", "draining", "closed"] = "open"
        self._in_flight: set[asyncio.Timeout] = set()  # of each call, its time
        self._idle = asyncio.Event()
        self._idle.set()
        metrics.watch(lambda: {model.name: model.stats() for model in routing.models})

    @property
    def status(self) -> ServiceStatus:
        """Whether calls should be sent here; if not, why."""
        status = self._engine_status
        return "draining" if status == "ready" and self.is_leaving else status

    @property
    def is_lost(self) -> bool:
        """Whether only another process can go on."""
        return any(engine.condition == "lost" for engine in self.routing.engines)

    @property
    def is_leaving(self) -> bool:
        """Whether whoever comes next should go elsewhere."""
        return self._state != "open"

    @property
    def stuck(self) -> tuple[Engine, ...]:
        """Engines that have been at one step for too long."""
        most = self.settings.stuck_s
        return tuple(each for each in self.routing.engines if each.turn_s > most)

    @property
    def _engine_status(self) -> Literal["ready", "rebuilding", "stuck", "dead"]:
        conditions = {model.engine.condition for model in self.routing.models}
        if conditions & {"dead", "lost"}:
            return "dead"
        if self.stuck:
            return "stuck"
        return "rebuilding" if "rebuilding" in conditions else "ready"

    @property
    def num_in_flight(self) -> int:
        """Calls that were taken and have not ended."""
        return len(self._in_flight)

    def start(self) -> None:
        """Begin to answer."""
        self.routing.start()

    def leave(self) -> None:
        """Say that calls should go elsewhere, and still take those that come."""
        if self._state == "open":
            self._state = "leaving"

    async def drain(self, timeout_s: float) -> bool:
        """Take no further call and wait for those in flight; whether all of them ended in time.

        This is not the engine's own draining: a call that was taken may have texts that the engine
        has yet to get.
        """
        self._state = "draining"
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Stop the engine after the step that runs; calls in flight end with EngineClosedError.

        A step that hangs is left behind.
        """
        if self._state == "closed":
            return
        self._state = "closed"
        now = asyncio.get_running_loop().time()
        for limit in self._in_flight:
            limit.reschedule(now)
        await asyncio.to_thread(self.routing.close, _LAST_STEP_S)
        self._text_threads.shutdown(wait=False, cancel_futures=True)

    @property
    def has_waiting(self) -> bool:
        """Whether anybody waits, so that a further call may find no room."""
        return any(model.stats().waiting for model in self.routing.models)

    def refuse_without_room(
        self, task: Task, body: TextRequest, caller: Caller, context: RequestContext
    ) -> QueueFullError | None:
        """End a call that finds no room, and say why; None where it may find some.

        Whatever else is wrong with it is left to be found by whoever answers it.
        """
        call = _Call(task, body, caller, context)
        try:
            model = self._take(call)
            self._backlogs[model.name].check_room(_asked_of(call, model))
        except QueueFullError as error:
            self._count_failure(call, error)
            return error
        except TandemError:
            return None
        return None

    async def translate(
        self,
        body: TranslateRequest,
        caller: Caller = _OPERATOR,
        context: RequestContext | None = None,
    ) -> TranslateResponse:
        """Translate every text of a call with the checkpoint of its language pair."""
        call = _Call("translate", body, caller, context or _of_command_line())
        with self._counted(call):
            answers = await self._answer(call)
        return TranslateResponse(model=call.model_name, translations=answers, usage=_usage(answers))

    async def summarize(
        self,
        body: SummarizeRequest,
        caller: Caller = _OPERATOR,
        context: RequestContext | None = None,
    ) -> SummarizeResponse:
        """Summarize every text of a call."""
        call = _Call("summarize", body, caller, context or _of_command_line())
        with self._counted(call):
            answers = await self._answer(call)
        return SummarizeResponse(model=call.model_name, summaries=answers, usage=_usage(answers))

    async def _answer(self, call: _Call) -> list[Answer]:
        model = self._take(call)
        async with self._within(call.timeout_s):
            with self._backlogs[model.name].line(_asked_of(call, model)) as line:
                self._quota.take(call.caller.client, len(call.body.texts))
                sources = await self._prepare(call, model)
                answers = await _gather(
                    [
                        self._answer_text(call, model, line, index, source)
                        for index, source in enumerate(sources)
                    ]
                )
        self._count_answers(call, answers)
        return answers

    def _take(self, call: _Call) -> ServedModel:
        """Who answers a call, if it is taken; notes that, and the time that the call has."""
        is_translation = call.task == "translate"
        routing = self.routing
        model = routing.translator(*call.languages) if is_translation else routing.summarizer()
        call.model_name = model.name
        self._check(call)
        call.timeout_s = self._timeout_of(call)
        return model

    def _check(self, call: _Call) -> None:
        if self._engine_status != "ready" or self._state in ("draining", "closed"):
            raise EngineClosedError(f"the server is {self.status}")
        check_num_texts(len(call.body.texts), self.settings)
        check_num_chars(call.body, self.settings)

    def _timeout_of(self, call: _Call) -> float:
        """The smaller of what the field and the header ask for."""
        asked_for = {"timeout_s": call.body.timeout_s, "X-Request-Timeout": call.caller.timeout_s}
        given = {field: seconds for field, seconds in asked_for.items() if seconds is not None}
        for field_name, seconds in given.items():
            if seconds > self.settings.max_timeout_s:
                expected = f"at most {self.settings.max_timeout_s:g} seconds"
                raise InvalidParameterError(field_name, seconds, expected)
        return min(given.values(), default=self.settings.default_timeout_s)

    @asynccontextmanager
    async def _within(self, timeout_s: float) -> AsyncIterator[None]:
        """What bounds a call, whatever it waits for: its own time, and the life of the service."""
        try:
            async with asyncio.timeout(timeout_s) as limit:
                self._in_flight.add(limit)
                self._idle.clear()
                try:
                    yield
                finally:
                    self._in_flight.remove(limit)
                    if not self._in_flight:
                        self._idle.set()
        except (TimeoutError, DeadlineExceededError) as error:
            # The engine has a clock of its own, and may see first that the time is up.
            if isinstance(error, TimeoutError) and not limit.expired():
                raise
            if self._state == "closed":
                raise EngineClosedError("the server stopped before the end") from error
            raise DeadlineExceededError(f"not finished within {timeout_s:g} seconds") from error

    async def _prepare(self, call: _Call, model: ServedModel) -> list[PreparedSource]:
        """Tokenize all texts before any is submitted: one bad text costs no decoding."""
        source_lang, target_lang = call.languages
        prepare = partial(
            model.text.prepare,
            task=call.task,
            source_lang=source_lang,
            target_lang=target_lang,
            overrides=call.body.parameters.overrides(),
            overflow=call.body.overflow,
            target_prefix=call.body.target_prefix,
        )
        sources = []
        for index, text in enumerate(call.body.texts):
            with _located(call, index):
                sources.append(await self._on_text_thread(partial(prepare, text)))
        return sources

    async def _answer_text(
        self, call: _Call, model: ServedModel, line: Line, index: int, source: PreparedSource
    ) -> Answer:
        with _located(call, index):
            output = await (await line.submit(source, call.deadline))
        answer = await self._on_text_thread(partial(_as_answer, model, source, output))
        if output.timing is not None:
            call.context.timings.append(output.timing)
        call.text_seconds.append(time.monotonic() - call.started)
        return answer

    async def _on_text_thread(self, work: Callable[[], _T]) -> _T:
        """What `work` gives; a caller that is cancelled leaves it behind."""
        return await asyncio.get_running_loop().run_in_executor(self._text_threads, work)

    @contextmanager
    def _counted(self, call: _Call) -> Iterator[None]:
        """Count how each text of a call ended, once."""
        try:
            yield
        except BaseException as error:
            self._count_failure(call, error)
            raise
        for seconds in call.text_seconds:
            self.metrics.request_ended(call.model_name, call.task, "finished", seconds)

    def _count_failure(self, call: _Call, error: BaseException) -> None:
        seconds = time.monotonic() - call.started
        for outcome in _outcomes(error, len(call.body.texts)):
            self.metrics.request_ended(call.model_name, call.task, outcome, seconds)

    def _count_answers(self, call: _Call, answers: Sequence[Answer]) -> None:
        usage = _usage(answers)
        call.context.source_tokens = usage.source_tokens
        call.context.generated_tokens = usage.generated_tokens
        for answer in answers:
            self.metrics.answered(
                call.model_name,
                call.task,
                source_tokens=answer.source_tokens,
                generated_tokens=answer.generated_tokens,
                truncated=answer.truncated,
            )


def _asked_of(call: _Call, model: ServedModel) -> Asked:
    parameters = call.body.parameters
    each = Prospect(
        deadline=call.deadline,
        client=call.caller.client,
        priority=call.priority,
        max_steps=model.text.least_max_steps(parameters.max_length, parameters.max_new_tokens),
        source_len=model.text.expected_source_len(call.body.texts[0]),
    )
    return Asked(len(call.body.texts), each)


@contextmanager
def _located(call: _Call, index: int) -> Iterator[None]:
    """Name the text at fault where the call has a list of them."""
    try:
        yield
    except (InvalidRequestError, RequestFailedError) as error:
        if isinstance(call.body.text, str):
            raise
        raise TextError(index, error) from error


async def _gather(work: Sequence[Coroutine[None, None, _T]]) -> list[_T]:
    """Results in order; the first failure cancels the rest and waits until they have ended."""
    if len(work) == 1:
        return [await work[0]]  # as most calls: no task, and no turn of the loop for it
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _as_answer(model: ServedModel, source: PreparedSource, output: Output) -> Answer:
    texts = [model.text.detokenize(each.token_ids) for each in output.hypotheses]
    return Answer(
        text=texts[0],
        score=output.best.score,
        finish_reason=output.best.finish_reason,
        truncated=source.truncated,
        source_tokens=output.source_tokens,
        generated_tokens=output.generated_tokens,
        seed=source.parameters.seed if source.parameters.do_sample else None,
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


def _outcomes(error: BaseException, num_texts: int) -> list[Outcome]:
    """How each text of a call ended: one that failed for itself gives the others up."""
    if isinstance(error, TextError):
        others: list[Outcome] = ["cancelled"] * (num_texts - 1)
        return [_outcome_of(error.cause), *others]
    return [_outcome_of(error)] * num_texts


def _outcome_of(error: BaseException) -> Outcome:
    match error:
        case asyncio.CancelledError():
            return "cancelled"
        case InvalidRequestError():
            return "invalid"
        case QueueFullError() | QuotaExceededError() | EngineClosedError():
            return "refused"
        case DeadlineExceededError():
            return "expired"
        case _:
            return "failed"
