"""What requests cost, and how fast they have been ending lately: measured, to foresee waiting."""

from collections import deque

from model_core.request import Request

_NEWEST = 0.2  # weight of the newest measurement in a mean


class ExpectedSteps:
    """Steps that a request takes, learnt from those that ended, by the size of their sources."""

    def __init__(self) -> None:
        self._mean: dict[int, float] = {}  # by the power of two of the source length

    def record(self, request: Request, num_steps: int) -> None:
        """Learn from a request that was completed."""
        size = request.source_len.bit_length()
        former = self._mean.get(size, float(num_steps))
        self._mean[size] = former + _NEWEST * (num_steps - former)

    def of(self, request: Request) -> float:
        """Within what the request allows; its most where nothing was learnt yet."""
        least, most = request.parameters.min_length - 1, request.parameters.max_length - 1
        return max(1.0, least, min(most, self._learnt(request.source_len.bit_length(), most)))

    def _learnt(self, size: int, otherwise: float) -> float:
        if not self._mean:
            return otherwise
        return self._mean[min(self._mean, key=lambda known: abs(known - size))]


class Pace:
    """How fast work has been done lately, while there was more than could be done at once.

    The unit of work is a row for a step, as it was expected: so a wrong expectation cancels out.
    """

    _WINDOW = 32  # completions: a few batches' worth, so that one slow request does not decide

    def __init__(self) -> None:
        self._ends: deque[tuple[float, float]] = deque(maxlen=self._WINDOW + 1)  # time, work
        self._seconds_per_step: float | None = None
        self._former: float | None = None  # seconds for one unit of work, before an idle spell

    def restart(self, now: float) -> None:
        """Begin to measure anew: an idle spell says nothing about speed."""
        if len(self._ends) > 1:
            self._former = self.seconds_for(1.0, self._ends[-1][0])
        self._ends.clear()
        self._ends.append((now, 0.0))

    def record(self, now: float, work: float | None, seconds_per_step: float) -> None:
        """Count one completion and its work, None where it is no measure of the pace."""
        if work is not None:
            self._ends.append((now, work))
        self._learn(seconds_per_step)

    def record_unfinished(self, seconds_per_step: float) -> None:
        """Learn from a request that left in mid-decode: its steps were that long, or longer.

        Those that end in time are the fast ones; without the others, steps would seem short.
        """
        if seconds_per_step > (self._seconds_per_step or 0.0):
            self._learn(seconds_per_step)

    def _learn(self, seconds_per_step: float) -> None:
        former = self._seconds_per_step
        former = seconds_per_step if former is None else former
        self._seconds_per_step = former + _NEWEST * (seconds_per_step - former)

    def seconds_for(self, work: float, now: float) -> float | None:
        """Time in which so much is done at this rate; None where nothing was measured."""
        if len(self._ends) < 2:
            return None if self._former is None else work * self._former
        done = sum(work for _, work in list(self._ends)[1:])
        return work * (now - self._ends[0][0]) / done

    def seconds_for_steps(self, num_steps: float) -> float:
        """Time of so many steps in a row; 0 where nothing was measured."""
        return num_steps * (self._seconds_per_step or 0.0)

    def retry_after(self, work: float, now: float) -> float:
        """When to come back where so much is to be done before, within [1, 60] s.

        Where nothing has ended yet, it is taken to end now: an optimistic guess.
        """
        seconds = self.seconds_for(work, now)
        if seconds is None:
            seconds = now - self._ends[0][0] if self._ends else 0.0
        return bounded_retry(seconds)


def bounded_retry(seconds: float) -> float:
    """A time to come back after: nobody is sent away for longer than a minute."""
    return min(60.0, max(1.0, seconds))
