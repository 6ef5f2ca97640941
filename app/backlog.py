"""Texts that were accepted and are not with the engine yet."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from app.settings import Settings
from model_core.errors import QueueFullError
from model_core.models import ServedModel
from model_core.request import Output, Prospect
from model_core.text import PreparedSource

_FEW = 8  # texts of one list that may wait in the engine: enough to fill slots as they fall free
_MANY = 8  # times the length of the queue: the further texts of everybody's lists
_RETRY_AFTER_S = 1.0  # texts that wait for a thread or for room move on within about so long


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call asks room for.

    Attributes:
        num_texts: How many.
        each: What is known of each of them.
    """

    num_texts: int
    each: Prospect


@dataclass(slots=True, eq=False)
class Line:
    """The texts of one call, which go to the engine one after the other.

    Attributes:
        backlog: Where they wait.
        asked: What the call asked room for.
        num_submitted: Those that the engine has got.
        num_decoding: Those that the engine has got and not ended.
        turn: Held by the text that is next.
    """

    backlog: "Backlog"
    asked: Asked
    num_submitted: int = 0
    num_decoding: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def num_further(self) -> int:
        """Texts after the first that the engine has not got."""
        return self.asked.num_texts - max(1, self.num_submitted)

    async def submit(self, source: PreparedSource, deadline: float) -> asyncio.Future[Output]:
        """Hand the next text to the engine; a further one waits for room.

        Cancelling the future gives the text up.

        Raises:
            QueueFullError: The engine's queue has no room for the first text.
            InvalidRequestError: The text can never be served.
            DeadlineExceededError: The deadline, on `time.monotonic`, has passed.
            EngineClosedError: The engine takes nothing new.
        """
        async with self.turn:
            future = await self.backlog.submit(self, source, deadline)
            self.num_decoding += 1
        future.add_done_callback(self._on_end)
        return future

    def _on_end(self, _: asyncio.Future[Output]) -> None:
        self.num_decoding -= 1
        self.backlog.text_ended()


class Backlog:
    """The texts of one checkpoint that are on their way to its engine.

    A call is refused as a whole or not at all: with its first text, if that finds the engine's
    queue full. Its further texts wait here for room, and leave half of the queue to others. Calls
    whose first text is on its way, and further texts of one client, are each bounded by the length
    of the queue; a longer list may wait alone. The lists of all clients together are bounded by a
    few times that.

    Lives on one event loop. Nobody else may submit to the checkpoint: where its queue is full, a
    text that was submitted here has yet to end, and that wakes whoever waits for room.
    """

    def __init__(self, model: ServedModel, settings: Settings) -> None:
        self._model = model
        self._settings = settings
        self._lines: set[Line] = set()
        self._num_first = 0  # calls whose first text is on its way to the engine
        self._ended = asyncio.Event()

    def check_room(self, asked: Asked) -> None:
        """Refuse a call for whose texts there is no room.

        Raises:
            QueueFullError: Too many are on their way already, here or in the engine.
        """
        self._check_lines(asked)
        self._model.check_room(replace(asked.each, num_ahead=self._num_first))

    @contextmanager
    def line(self, asked: Asked) -> Iterator[Line]:
        """Room for the texts of one call; raises as `check_room` where there is none."""
        self.check_room(asked)
        line = Line(self, asked)
        self._lines.add(line)
        self._num_first += 1
        try:
            yield line
        finally:
            self._lines.discard(line)
            self._num_first -= line.num_submitted == 0

    async def submit(
        self, line: Line, source: PreparedSource, deadline: float
    ) -> asyncio.Future[Output]:
        """See `Line.submit`, which sees to the order."""
        while (future := self._try_submit(line, source, deadline)) is None:
            await self._ended.wait()
        return future

    def text_ended(self) -> None:
        """There may be room for texts that wait."""
        self._ended.set()
        self._ended = asyncio.Event()

    def _try_submit(
        self, line: Line, source: PreparedSource, deadline: float
    ) -> asyncio.Future[Output] | None:
        """None where a further text has to wait for room."""
        if not self._is_turn_of(line, source):
            return None
        try:
            each = line.asked.each
            future = self._model.submit(
                source, deadline=deadline, client=each.client, priority=each.priority
            )
        except QueueFullError:
            if line.num_submitted == 0:
                raise
            return None
        self._num_first -= line.num_submitted == 0
        line.num_submitted += 1
        return asyncio.wrap_future(future)

    def _is_turn_of(self, line: Line, source: PreparedSource) -> bool:
        """Whether a call may have one text more with the engine.

        One it may always try to have. More of them fill free slots at once; where there are none,
        a few take their place in the queue like anybody's.
        """
        if line.num_decoding == 0:
            return True
        stats = self._model.stats()
        num_in_engine = stats.running + stats.waiting
        tokens = stats.waiting_tokens + source.source_tokens
        return (
            (line.num_decoding < _FEW or num_in_engine < stats.slots_total + _FEW)
            and 2 * (stats.waiting + 1) <= self._settings.max_waiting_requests
            and 2 * tokens <= self._settings.max_waiting_tokens
        )

    def _check_lines(self, asked: Asked) -> None:
        most = self._settings.max_waiting_requests
        if self._num_first >= most:
            reason = f"{self._num_first} calls are new"
            raise QueueFullError(f"the queue is full: {reason}", _RETRY_AFTER_S)
        num_further = asked.num_texts - 1
        if num_further:
            client = asked.each.client
            own = [line for line in self._lines if line.asked.each.client == client]
            _check_lists(own, num_further, most)
            _check_lists(self._lines, num_further, _MANY * most)


def _check_lists(lines: Iterable[Line], num_new: int, most: int) -> None:
    """Bound the further texts of lists; a longer list may wait alone."""
    num_further = sum(line.num_further for line in lines)
    if num_further and num_further + num_new > most:
        reason = f"{num_further} texts of lists are waiting"
        raise QueueFullError(f"the queue is full: {reason}", _RETRY_AFTER_S)
