"""How many texts a client may send."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from model_core.errors import TandemError

_PERIOD_S = 60.0


class QuotaExceededError(TandemError):
    """A client has sent more texts than it may."""

    def __init__(self, texts_per_minute: int, retry_after_s: float) -> None:
        super().__init__(f"more than {texts_per_minute} texts within a minute")
        self.retry_after_s = retry_after_s


@dataclass(slots=True)
class _Bucket:
    """What a client has left; it fills up again with time.

    Attributes:
        texts: That it may send at once; below 0 after a list that was longer than its quota.
        filled_at: When that was so.
    """

    texts: float
    filled_at: float


class Quota:
    """A bucket of texts for each client, which a minute fills.

    A call needs one text left. One with more texts than are left is taken where the bucket is full
    (it could not be taken at any other time), and is paid for afterwards.
    """

    def __init__(self, texts_per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with full buckets.

        Args:
            texts_per_minute: Of each client; 0 for no quota.
            clock: Seconds.
        """
        self._most = texts_per_minute
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}
        self._next_sweep = 0.0

    def take(self, client: str, num_texts: int) -> None:
        """Count the texts of a call.

        Raises:
            QuotaExceededError: There are too few left; they stay as they are.
        """
        if not self._most:
            return
        now = self._clock()
        self._sweep(now)
        bucket = self._buckets.setdefault(client, _Bucket(self._most, now))
        self._fill(bucket, now)
        needed = min(num_texts, self._most)
        if bucket.texts < needed:
            retry_after_s = (needed - bucket.texts) * _PERIOD_S / self._most
            raise QuotaExceededError(self._most, retry_after_s)
        bucket.texts -= num_texts

    def _fill(self, bucket: _Bucket, now: float) -> None:
        gained = (now - bucket.filled_at) * self._most / _PERIOD_S
        bucket.texts = min(self._most, bucket.texts + gained)
        bucket.filled_at = now

    def _sweep(self, now: float) -> None:
        """Forget full buckets now and then: they are as new ones."""
        if now < self._next_sweep:
            return
        self._next_sweep = now + _PERIOD_S
        for client, bucket in list(self._buckets.items()):
            self._fill(bucket, now)
            if bucket.texts >= self._most:
                del self._buckets[client]
