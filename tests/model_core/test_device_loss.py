"""A device that is lost is nobody's fault."""

from concurrent.futures import Future

import pytest
import torch

from model_core.device_loss import telling_device_loss
from model_core.engine import Engine
from model_core.errors import DeviceLostError, EngineClosedError
from model_core.request import Output
from model_core.runner import StepReport
from model_core.scheduler import EngineLimits
from tests.model_core.fakes import FakeRunner, parameters


class BrokenDevice(FakeRunner):
    """A runner whose steps fail as CUDA does."""

    @telling_device_loss
    def step(self) -> StepReport:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def lose(patch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    patch.setattr(torch.accelerator, "synchronize", fail)


def test_an_error_that_stays_is_told_as_the_loss_of_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lose(monkeypatch)
    with pytest.raises(DeviceLostError, match="illegal memory access"):
        BrokenDevice().step()


def test_an_error_that_passes_is_the_requests_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: None)
    with pytest.raises(torch.AcceleratorError):
        BrokenDevice().step()


def test_the_loop_ends_with_its_device_and_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    lose(monkeypatch)
    engine = Engine({"m": BrokenDevice()}, EngineLimits())
    futures: list[Future[Output]] = [
        engine.submit("m", (5, number), parameters()) for number in range(3)
    ]
    engine.start()
    for future in futures:
        with pytest.raises(EngineClosedError):
            future.result(timeout=60)
    assert not engine.is_alive
