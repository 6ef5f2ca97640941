"""What requests cost, and how fast they have been ending lately: measured, to foresee waiting."""

from collections import deque

from model_core.request import Prospect, Request

_NEWEST = 0.2  # weight of the newest request in a mean


class ExpectedSteps:
    """Steps that a request takes, learnt from those that ended, by the size of their sources."""

    def __init__(self) -> None:
        self._mean: dict[int, float] = {}  # by the power of two of the source length

    @property
    def are_known(self) -> bool:
        """Whether anything was learnt yet."""
        return bool(self._mean)

    def record(self, request: Request, num_steps: int) -> None:
        """Learn from a request that was completed."""
        size = request.source_len.bit_length()
        former = self._mean.get(size, float(num_steps))
        self._mean[size] = former + _NEWEST * (num_steps - former)

    def of(self, request: Request) -> float:
        """Within what the request allows; its most where nothing was learnt yet."""
        least, most = request.parameters.min_length - 1, request.parameters.max_length - 1
        return max(1.0, least, min(most, self._learnt(request.source_len.bit_length(), most)))

    def of_prospect(self, prospect: Prospect) -> float:
        """The same before a request is prepared; of any size, what it takes at least."""
        if not self.are_known:
            return 1.0
        if prospect.source_len is None:
            learnt = min(self._mean.values())
        else:
            learnt = self._learnt(prospect.source_len.bit_length(), prospect.max_steps)
        return max(1.0, min(prospect.max_steps, learnt))

    def _learnt(self, size: int, otherwise: float) -> float:
        if not self.are_known:
            return otherwise
        return self._mean[min(self._mean, key=lambda known: abs(known - size))]


class Pace:
    """How fast work has been done lately, and how fast those who run came forward."""

    def __init__(self) -> None:
        self._work = _Rate()
        self._steps = _Rate()

    def queue_began(self, now: float) -> None:
        """Somebody waits from now on: what ended before says nothing of what can be done."""
        self._work.restart(now)

    def batch_began(self, now: float) -> None:
        """Somebody runs from now on."""
        self._steps.restart(now)

    def ended(self, now: float, work: float) -> None:
        """Count a completion while there was more than could be done at once.

        The unit of work is a row for a step, as was expected: so a wrong expectation cancels out.
        """
        self._work.add(now, work)

    def stepped(self, now: float, num_steps: float) -> None:
        """Count the steps by which those who run came forward.

        Whether they end in time or not: those that do are the fast ones.
        """
        self._steps.add(now, num_steps)

    def seconds_for(self, work: float, now: float) -> float | None:
        """Time in which so much is done at this rate; None where nothing was measured."""
        return self._work.seconds_for(work, now)

    def seconds_for_steps(self, num_steps: float) -> float:
        """Time of so many steps in a row; 0 where nothing was measured."""
        return self._steps.seconds_for(num_steps, self._steps.last) or 0.0

    def retry_after(self, work: float, now: float) -> float:
        """When to come back where so much is to be done before, within [1, 60] s.

        Where nothing has ended yet, it is taken to end now: an optimistic guess.
        """
        seconds = self.seconds_for(work, now)
        return bounded_retry(now - self._work.last if seconds is None else seconds)


class _Rate:
    """How long something has been taking, over the last few amounts that were done of it.

    So what took long once counts once, and no longer than until as many more were done.
    """

    _WINDOW = 32  # a few batches' worth, so that one slow request or step does not decide
    _ENOUGH = 8  # to forget what was measured before: the first of a batch ends after all its steps

    def __init__(self) -> None:
        self._done: deque[tuple[float, float]] = deque(maxlen=self._WINDOW + 1)  # time, amount
        self._former: float | None = None  # seconds for one, before an idle spell

    @property
    def last(self) -> float:
        """When something was done last, or could begin; 0 where nothing ever was."""
        return self._done[-1][0] if self._done else 0.0

    def restart(self, now: float) -> None:
        """Begin to measure anew: an idle spell says nothing about speed."""
        self._former = self.seconds_for(1.0, self.last)
        self._done.clear()
        self._done.append((now, 0.0))

    def add(self, now: float, amount: float) -> None:
        """So much was done since the last time."""
        self._done.append((now, amount))

    def seconds_for(self, amount: float, now: float) -> float | None:
        """Time in which so much is done; None where nothing was measured."""
        num_measured = len(self._done) - 1
        if self._former is not None and num_measured < self._ENOUGH:
            return amount * self._former
        if num_measured < 1:
            return None
        done = sum(each for _, each in list(self._done)[1:])
        return amount * (now - self._done[0][0]) / done


def bounded_retry(seconds: float) -> float:
    """A time to come back after: nobody is sent away for longer than a minute."""
    return min(60.0, max(1.0, seconds))
