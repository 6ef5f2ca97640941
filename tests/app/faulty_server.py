"""`tandem serve` with faults: a text that begins with `fault KIND` brings that fault about.

Run as a process by tests, `python -m tests.app.faulty_server serve ...`; what is broken is the
real code at the real place, and a text decides when. `FAULTY_LEAK_BYTES` are lost at each text.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from app.cli import main
from model_core.errors import DeviceLostError
from model_core.group import Chosen, Group
from model_core.isolation import IsolatingRunner
from model_core.lean import LeanRunner
from model_core.request import Request
from model_core.runner import StepReport
from model_core.text import PreparedSource, TextProcessor

_MOST_IN_MEMORY = 2  # requests, while one with a fault `crowd` is among them
_AFTER_STEPS = 4
_LEAK_BYTES = int(os.environ.get("FAULTY_LEAK_BYTES", "0"))

_faults: dict[tuple[int, ...], list[str]] = {}
_prepare, _choose, _step = TextProcessor.prepare, Group.choose, LeanRunner.step
_pop_failed, _reset = IsolatingRunner.pop_failed, LeanRunner.reset
_is_broken_for_good = False
_leaked: list[bytes] = []


def _prepare_and_note(self: TextProcessor, text: str, **kwargs: Any) -> PreparedSource:
    prepared = _prepare(self, text, **kwargs)
    _leaked.append(b"." * _LEAK_BYTES)
    words = text.split()
    if words[0] == "fault":
        _faults[prepared.source_ids] = words[1:]
    return prepared


def _fault_of(request: Request) -> list[str]:
    return _faults.get(request.source_ids, [""])


def _allocate_too_much() -> None:
    torch.empty(1 << 60)


def _choose_with_faults(self: Group, logits: Tensor) -> Chosen:
    positions = self.search.positions.tolist()
    for slot, request in enumerate(self.requests):
        if positions[slot] < _AFTER_STEPS:
            continue
        match _fault_of(request):
            case ["nan", *_]:
                rows = slice(slot * self.num_beams, (slot + 1) * self.num_beams)
                logits[rows] = torch.nan
            case ["processor", *_]:
                raise ValueError("a secret of the logits processor")
            case ["memory", *_]:
                _allocate_too_much()
    return _choose(self, logits)


def _step_with_faults(self: LeanRunner) -> StepReport:
    requests = [request for group in self._groups for request in group.requests]
    for request in requests:
        match _fault_of(request):
            case ["crowd", *_] if len(requests) > _MOST_IN_MEMORY:
                _allocate_too_much()
            case ["lost", *_]:
                raise DeviceLostError("an illegal memory access was encountered")
            case ["stuck", path, *_]:
                while Path(path).exists():
                    time.sleep(0.01)
    return _step(self)


def _pop_failed_with_faults(self: IsolatingRunner) -> Sequence[Request]:
    global _is_broken_for_good
    for request in list(self._running):
        match _fault_of(request):
            case ["loop", *_]:
                raise KeyError("a mistake of the engine")
            case ["forever", *_]:
                _is_broken_for_good = True
                raise KeyError("a mistake of the engine")
    return _pop_failed(self)


def _reset_with_faults(self: LeanRunner) -> None:
    if _is_broken_for_good:
        raise RuntimeError("nothing to be done")
    _reset(self)


TextProcessor.prepare = _prepare_and_note  # type: ignore[method-assign]
Group.choose = _choose_with_faults  # type: ignore[method-assign]
LeanRunner.step = _step_with_faults  # type: ignore[method-assign]
LeanRunner.reset = _reset_with_faults  # type: ignore[method-assign]
IsolatingRunner.pop_failed = _pop_failed_with_faults  # type: ignore[assignment,method-assign]

if __name__ == "__main__":
    main()
