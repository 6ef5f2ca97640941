"""A request and its result: plain data, no tensors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from model_core.generation import GenerationParameters

FinishReason = Literal["eos", "length", "stop_string"]
Priority = Literal["interactive", "bulk"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """A request that is yet to be prepared, as far as admission can know it.

    Attributes:
        deadline: Of its caller, on the engine's clock.
        client: Whose turn it takes; empty where nobody is named.
        priority: Its class.
        max_steps: That it may take, or fewer.
        source_len: Source tokens, about; None where nobody can say.
        num_ahead: Others that were let in and have yet to come to the queue.
    """

    deadline: float
    client: str = ""
    priority: Priority = "interactive"
    max_steps: int = 1
    source_len: int | None = None
    num_ahead: int = 0


class RequestStatus(Enum):
    """Where a request is in its life; it ends exactly once."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


def finish_reason(token_ids: Sequence[int], parameters: GenerationParameters) -> FinishReason:
    """Why a hypothesis ended, from its target tokens after the decoder start token."""
    is_full = 1 + len(token_ids) >= parameters.max_length  # 1: the decoder start token
    if not token_ids or token_ids[-1] not in parameters.eos_token_ids:
        return "length" if is_full else "stop_string"
    return "length" if is_full and token_ids[-1] in parameters.forced_eos_token_ids else "eos"


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One finished answer.

    Attributes:
        token_ids: Target tokens after the decoder start token, a target prefix included, up to and
            including EOS.
        score: Sum of log-probabilities divided by `generated_len ** length_penalty`
            (transformers' `sequences_scores`). Greedy search uses the same formula over the
            log-softmax of its processed logits.
        finish_reason: `eos`; `stop_string`; or `length` where the maximum length ended it, also
            if an EOS was forced there.
    """

    token_ids: tuple[int, ...]
    score: float
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Timing:
    """When a request went from phase to phase, in seconds on the engine's clock.

    Attributes:
        submitted_at: It entered the queue.
        admitted_at: It got its slot.
        encoded_at: It joined the batch.
        ended_at: Its last step was over.
    """

    submitted_at: float
    admitted_at: float
    encoded_at: float
    ended_at: float

    @property
    def queue_s(self) -> float:
        """Time in the queue."""
        return self.admitted_at - self.submitted_at

    @property
    def encode_s(self) -> float:
        """Time of the encoder, and of whoever was encoded with it."""
        return self.encoded_at - self.admitted_at

    @property
    def decode_s(self) -> float:
        """Time of all steps."""
        return self.ended_at - self.encoded_at


@dataclass(frozen=True, slots=True)
class Output:
    """The result of one request.

    Attributes:
        hypotheses: `num_return_sequences` of them, best first; drawn ones in the order of drawing.
        source_tokens: Source tokens, special tokens included.
        prefix_tokens: Target tokens that were given: they stand in every hypothesis.
        timing: Of the work that gave it, which identical requests share; None outside an engine.
    """

    hypotheses: tuple[Hypothesis, ...]
    source_tokens: int
    prefix_tokens: int = 0
    timing: Timing | None = field(default=None, compare=False)

    @classmethod
    def of(cls, request: "Request", hypotheses: tuple[Hypothesis, ...]) -> "Output":
        """What a request ended with."""
        prefix_tokens = len(request.parameters.target_prefix_ids)
        return cls(hypotheses, request.source_len, prefix_tokens)

    @property
    def best(self) -> Hypothesis:
        """The hypothesis that answers the request."""
        return self.hypotheses[0]

    @property
    def generated_tokens(self) -> int:
        """Target tokens of the best hypothesis that were generated, EOS included."""
        return len(self.best.token_ids) - self.prefix_tokens


@dataclass(slots=True, eq=False)
class Request:
    """One piece of decoding work; identical callers in flight share it.

    Attributes:
        request_id: Unique in this process; finds the request in logs.
        source_ids: Encoder-side tokens, special tokens included.
        parameters: Fully resolved generation parameters.
        submitted_at: `time.monotonic()` of the first submission, seconds.
        deadline: The latest deadline among its callers, on the same clock; infinity where one of
            them waits without limit. Written by the engine only.
        admitted_at: When it got its slot, on the same clock; written by the engine only.
        encoded_at: When it joined the batch; written by the engine only.
        client: Who takes turns with others; empty where nobody was named.
        priority: Its class. Written by the engine only.
        status: Written by the engine only, from any thread.
    """

    request_id: str
    source_ids: tuple[int, ...]
    parameters: GenerationParameters
    submitted_at: float = 0.0
    deadline: float = math.inf
    admitted_at: float = 0.0
    encoded_at: float = 0.0
    client: str = ""
    priority: Priority = "interactive"
    status: RequestStatus = field(default=RequestStatus.WAITING)

    @property
    def source_len(self) -> int:
        """Number of source tokens."""
        return len(self.source_ids)

    def timing(self, ended_at: float) -> Timing:
        """Its phases, once it has ended."""
        return Timing(self.submitted_at, self.admitted_at, self.encoded_at, ended_at)

    def is_abandoned(self, now: float) -> bool:
        """Whether nobody waits for the result any more; safe to ask from any thread.

        A runner whose step takes long may ask during the step and spare the work. It keeps the
        request until the engine removes it: a late caller can still join and move the deadline.
        """
        return self.status is RequestStatus.CANCELLED or now >= self.deadline
