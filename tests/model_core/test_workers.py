"""Checkpoints in worker processes: the same answers, also where a worker ends on the way."""

import os
import pickle
import random
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import cycle, product
from pathlib import Path
from typing import Any

import pytest
from transformers import ProphetNetForConditionalGeneration

from model_core.checkpoint import CheckpointOptions, load_checkpoint
from model_core.choose_runner import GENERATE
from model_core.engine import Engine
from model_core.engines import Engines
from model_core.errors import (
    CheckpointError,
    DeadlineExceededError,
    EngineClosedError,
    RequestFailedError,
    WorkerLostError,
)
from model_core.generation import GenerationLimits, GenerationOverrides, GenerationParameters
from model_core.models import ModelSet, ModelSource, load_models
from model_core.request import Output
from model_core.scheduler import EngineLimits
from model_core.text import TextProcessor
from model_core.workers.messages import Order
from model_core.workers.process import RemoteRunner, ThreadShare, Worker
from model_core.workers.start import WorkerOptions, start_workers
from soak.server import children_of
from tests import tiny
from tests.lean import Lean, load_lean, random_parameters, random_source, stop_strings_of
from tests.model_core import faulty_worker
from tests.model_core.fakes import Clock
from tests.parity import assert_same, generate_alone

COMMAND = (sys.executable, "-m", "tests.model_core.faulty_worker")
TIMEOUT_S = 120.0  # only fails a test
NAMES = ("bart", "t5")
_ENCODER_CACHE_BYTES = 4096


@dataclass
class Bench:
    """Two workers that have loaded two checkpoints, with new engines for each test."""

    workers: tuple[Worker, ...]
    engines: Engines
    clock: Clock

    def submit(
        self,
        source_ids: Sequence[int],
        parameters: GenerationParameters,
        name: str = "bart",
        **options: Any,
    ) -> Future[Output]:
        return self.engines.submit(name, source_ids, parameters, **options)

    def run_until_idle(self) -> None:
        while self.engines.step():
            pass

    @property
    def busy(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.num_held]


def kill(pid: int | None) -> None:
    """Kill a worker, and leave it to its runners to notice."""
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    names = (*NAMES, "prophetnet")
    return {name: tiny.build_tiny_checkpoint(name, root / name) for name in names}


@pytest.fixture(scope="module")
def started(folders: dict[str, Path]) -> Iterator[tuple[tuple[Worker, ...], dict[str, Any]]]:
    located = {name: (str(folders[name]), CheckpointOptions(device="cpu")) for name in NAMES}
    workers, described = start_workers(WorkerOptions(2, COMMAND), located, _ENCODER_CACHE_BYTES)
    yield workers, {name: each.slot_cost for name, each in described.items()}
    for worker in workers:
        worker.close()


@pytest.fixture
def bench(started: tuple[tuple[Worker, ...], dict[str, Any]]) -> Iterator[Bench]:
    workers, costs = started
    clock = Clock()
    engines = [
        Engine(
            {name: RemoteRunner(worker, name, cost) for name, cost in costs.items()},
            EngineLimits(max_running_requests=8),
            clock=clock,
        )
        for worker in workers
    ]
    yield Bench(workers, Engines(engines), clock)
    assert all(worker.num_held == 0 for worker in workers)


@pytest.fixture(scope="module")
def bart() -> Lean:
    return load_lean("bart")


def sources_of(lean: Lean, num: int, seed: int = 0) -> list[tuple[int, ...]]:
    return tiny.random_sources(num, eos=lean.defaults.eos_token_ids[0], seed=seed)


def assert_right(
    lean: Lean,
    source_ids: tuple[int, ...],
    parameters: GenerationParameters,
    answer: Future[Output],
) -> None:
    stop_strings = stop_strings_of(lean.name) if parameters.stop_strings else None
    reference = generate_alone(lean.model, source_ids, parameters, stop_strings)
    assert_same(answer.result(timeout=0), reference)


# Answers ------------------------------------------------------------------------------------------


def test_answers_are_those_of_generate_and_every_worker_takes_part(bench: Bench) -> None:
    rng = random.Random(3)
    calls = []
    for name in NAMES:
        lean = load_lean(name)
        drawn = [(random_source(lean, rng), random_parameters(lean, rng)) for _ in range(8)]
        plain = [(source, lean.defaults) for source in sources_of(lean, 2)]
        stopped = [
            (source, replace(lean.defaults, stop_strings=("e", " t"), num_beams=num_beams))
            for num_beams, source in enumerate(sources_of(lean, 2), start=1)
        ]
        calls += [(lean, *each) for each in (*drawn, *plain, *stopped)]
    rng.shuffle(calls)
    futures = []
    for lean, source_ids, parameters in calls:
        futures.append(bench.submit(source_ids, parameters, lean.name))
        for _ in range(rng.randint(0, 2)):
            bench.engines.step()
    assert bench.busy == list(bench.workers)
    bench.run_until_idle()
    for (lean, source_ids, parameters), future in zip(calls, futures, strict=True):
        assert_right(lean, source_ids, parameters, future)


def test_identical_requests_share_their_work(bench: Bench, bart: Lean) -> None:
    (source_ids,) = sources_of(bart, 1)
    futures = [bench.submit(source_ids, bart.defaults) for _ in range(5)]
    bench.engines.step()
    futures.append(bench.submit(source_ids, bart.defaults))
    assert sum(worker.num_held for worker in bench.workers) == 1
    bench.run_until_idle()
    assert len({future.result(timeout=0) for future in futures}) == 1


def test_requests_that_are_given_up_leave_their_worker(bench: Bench, bart: Lean) -> None:
    sources = sources_of(bart, 6)
    futures = [
        bench.submit(source_ids, bart.defaults, deadline=bench.clock.now + patience)
        for source_ids, patience in zip(sources, cycle([9.0, 5.0, 9.0]), strict=False)
    ]
    bench.engines.step()
    assert sum(worker.num_held for worker in bench.workers) == len(sources)
    for cancelled in futures[::3]:
        cancelled.cancel()
    bench.clock.now += 6.0
    bench.engines.step()
    assert sum(worker.num_held for worker in bench.workers) == len(sources[2::3])
    bench.run_until_idle()
    for expired in futures[1::3]:
        assert isinstance(expired.exception(timeout=0), DeadlineExceededError)
    for source_ids, future in zip(sources[2::3], futures[2::3], strict=True):
        assert_right(bart, source_ids, bart.defaults, future)


# Faults -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (faulty_worker.RAISES, "ValueError: a mistake of the search"),
        (faulty_worker.RAISES_UNPICKLABLE, "RuntimeError: UnpicklableError: this and that"),
    ],
)
def test_an_error_in_a_worker_fails_its_request_alone_and_is_logged_with_its_place(
    bench: Bench, bart: Lean, caplog: pytest.LogCaptureFixture, fault: tuple[int, ...], message: str
) -> None:
    first, *others = sources_of(bart, 7)
    generations = [worker.generation for worker in bench.workers]
    failed = bench.submit((*fault, *first), bart.defaults)
    futures = [bench.submit(source_ids, bart.defaults) for source_ids in others]
    bench.run_until_idle()
    assert isinstance(failed.exception(timeout=0), RequestFailedError)
    for source_ids, future in zip(others, futures, strict=True):
        assert_right(bart, source_ids, bart.defaults, future)
    assert message in caplog.text
    assert "In the worker:" in caplog.text
    assert "in _choose_with_faults" in caplog.text
    assert [worker.generation for worker in bench.workers] == generations


def test_a_killed_worker_is_started_again_and_every_answer_comes_and_is_right(
    bench: Bench, bart: Lean
) -> None:
    sources = sources_of(bart, 14)
    futures = [bench.submit(source_ids, bart.defaults) for source_ids in sources]
    before = bench.engines.stats("bart").slots_total
    for _ in range(3):
        bench.engines.step()
    assert all(worker.num_held > 1 for worker in bench.workers)
    assert not any(future.done() for future in futures[:4])
    kill(bench.workers[0].pid)
    generation = bench.workers[0].generation
    bench.engines.step()
    assert bench.workers[0].generation == generation + 1
    bench.run_until_idle()
    for source_ids, future in zip(sources, futures, strict=True):
        assert_right(bart, source_ids, bart.defaults, future)
    smallest = bench.engines.stats("bart").slots_total
    assert smallest < before, "it may have been memory that lacked"
    for source_ids in sources_of(bart, 40, seed=1):
        bench.submit(source_ids, replace(bart.defaults, max_length=2))
    bench.run_until_idle()
    assert bench.engines.stats("bart").slots_total > smallest


def test_all_checkpoints_of_a_killed_worker_recover_also_a_request_that_was_alone(
    bench: Bench,
) -> None:
    before = [bench.engines.stats(name).slots_total for name in NAMES]
    leans = [load_lean(name) for name in NAMES]
    calls = [(lean, source_ids) for lean in leans for source_ids in sources_of(lean, 1)]
    engine = bench.engines.engines[1]
    futures = [engine.submit(lean.name, source_ids, lean.defaults) for lean, source_ids in calls]
    bench.engines.step()
    assert bench.workers[1].num_held == len(NAMES)
    kill(bench.workers[1].pid)
    generation = bench.workers[1].generation
    bench.run_until_idle()
    assert bench.workers[1].generation == generation + 1
    for (lean, source_ids), future in zip(calls, futures, strict=True):
        assert_right(lean, source_ids, lean.defaults, future)
    assert [bench.engines.stats(name).slots_total for name in NAMES] == before


def test_a_request_that_crashes_its_worker_fails_and_nobody_else_does(
    bench: Bench, bart: Lean
) -> None:
    t5 = load_lean("t5")
    engine = bench.engines.engines[0]
    first, *others = sources_of(bart, 2)
    (lone,) = sources_of(t5, 1)
    crashing = engine.submit("bart", (*faulty_worker.CRASHES, *first), bart.defaults)
    futures = [engine.submit("bart", source_ids, bart.defaults) for source_ids in others]
    beside = engine.submit("t5", lone, t5.defaults)
    bench.run_until_idle()
    assert isinstance(crashing.exception(timeout=0), RequestFailedError)
    for source_ids, future in zip(others, futures, strict=True):
        assert_right(bart, source_ids, bart.defaults, future)
    assert_right(t5, lone, t5.defaults, beside)


# Starting and ending ------------------------------------------------------------------------------


def loaded(
    folders: Sequence[Path], command: Sequence[str] = COMMAND, num_workers: int = 1
) -> ModelSet:
    return load_models(
        [ModelSource(folder.name, str(folder)) for folder in folders],
        CheckpointOptions(device="cpu"),
        EngineLimits(max_waiting_requests=9),
        GenerationLimits(),
        workers=WorkerOptions(num_workers, command),
    )


def test_lean_checkpoints_are_in_workers_which_end_and_start_again_with_their_engines(
    folders: dict[str, Path], bart: Lean
) -> None:
    models = loaded([folders["bart"], folders["prophetnet"]])
    (worker,) = models.workers
    own = models.models["prophetnet"]
    assert (own.family, type(own.engine)) == (GENERATE, Engine)
    assert models.models["bart"].family == "bart"
    kinds = {name: type(each.checkpoint.model) for name, each in models.models.items()}
    assert kinds == {"bart": type(None), "prophetnet": ProphetNetForConditionalGeneration}
    text = models.models["bart"].text.prepare("Where is the cold coffee?", task="translate")
    sources = sources_of(bart, 2)
    for source_ids in sources:
        models.start()
        answer = models.models["bart"].submit(
            replace(text, source_ids=source_ids, parameters=bart.defaults)
        )
        answer.result(TIMEOUT_S)
        assert_right(bart, source_ids, bart.defaults, answer)
        pid = worker.pid
        assert pid is not None
        models.close(TIMEOUT_S)
        assert not Path(f"/proc/{pid}").exists()
        with pytest.raises(EngineClosedError):
            models.models["bart"].submit(text)


def test_checkpoints_that_go_through_generate_need_no_worker(folders: dict[str, Path]) -> None:
    before = children_of(os.getpid())
    models = loaded([folders["prophetnet"]])
    assert models.workers == ()
    assert models.models["prophetnet"].family == GENERATE
    assert children_of(os.getpid()) == before


def test_weights_that_are_damaged_are_an_error_of_their_checkpoint(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(folders["bart"], folder)
    os.truncate(folder / "model.safetensors", 100)
    before = children_of(os.getpid())
    with pytest.raises(CheckpointError, match=str(folder)):
        loaded([folder], num_workers=2)
    assert children_of(os.getpid()) == before


@pytest.mark.parametrize(
    ("death", "reason"),
    [
        ("os._exit(3)", "the worker ended with status 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "the worker was killed"),
    ],
)
def test_a_worker_that_ends_while_it_loads_is_an_error_that_names_the_checkpoints(
    folders: dict[str, Path], death: str, reason: str
) -> None:
    before = children_of(os.getpid())
    command = (sys.executable, "-c", f"import os, signal; {death}")
    with pytest.raises(CheckpointError, match=f"{reason} while it loaded bart, t5"):
        loaded([folders["bart"], folders["t5"]], command, num_workers=2)
    assert children_of(os.getpid()) == before


def test_a_worker_that_ends_when_it_is_to_forget_is_started_again(
    started: tuple[tuple[Worker, ...], dict[str, Any]],
) -> None:
    (worker, _), costs = started
    runner = RemoteRunner(worker, "bart", costs["bart"])
    generation = worker.generation
    kill(worker.pid)
    runner.reset()
    assert (worker.is_ready, worker.generation) == (True, generation + 1)


def test_a_worker_that_was_closed_stays_so_until_it_is_opened(bench: Bench) -> None:
    worker = bench.workers[0]
    worker.close()
    with pytest.raises(WorkerLostError, match="closed"):
        worker.restart()
    assert not worker.is_ready
    worker.open()
    worker.restart()
    assert worker.is_ready


def test_a_worker_that_ends_once_more_while_it_loads_is_tried_again(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    fails_once = f'test -e "$0" || {{ touch "$0"; exit 1; }}; exec {" ".join(COMMAND)} "$1"'
    command = ("sh", "-c", fails_once, str(tmp_path / "has-failed"))
    order = Order({"t5": (str(folders["t5"]), CheckpointOptions(device="cpu"))}, 0, 1)
    worker = Worker(command, order, ThreadShare(1))
    worker.restart()
    assert (worker.is_ready, worker.generation) == (True, 2)
    worker.close()


def test_an_engine_whose_worker_cannot_be_started_again_is_dead(
    folders: dict[str, Path], bart: Lean, tmp_path: Path
) -> None:
    folder = tmp_path / "bart"
    shutil.copytree(folders["bart"], folder)
    models = loaded([folder])
    (engine,) = models.engines
    shutil.rmtree(folder)
    models.start()
    pid = models.workers[0].pid
    kill(pid)
    future = engine.submit("bart", sources_of(bart, 1)[0], bart.defaults)
    assert isinstance(future.exception(TIMEOUT_S), EngineClosedError)
    models.close(TIMEOUT_S)
    assert models.models["bart"].engine.condition == "dead"
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("name", ["bart", "bert-generation", "marian", "m2m100", "byt5", "mbart"])
def test_a_checkpoint_without_its_model_reads_and_writes_the_same_after_a_journey(
    name: str, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(str(tiny.build_tiny_checkpoint(name, tmp_path / name)))
    arrived = pickle.loads(pickle.dumps(checkpoint.without_model()))
    texts = [TextProcessor(each, GenerationLimits()) for each in (checkpoint, arrived)]
    languages = checkpoint.languages
    sources, targets = languages.sources or (None,), languages.targets or (None,)
    for sentence, source_lang, target_lang in product(
        tiny.SENTENCES[:3], {sources[0], sources[-1]}, {targets[0], targets[-1]}
    ):
        if source_lang == target_lang and source_lang is not None:
            continue
        here, there = (
            text.prepare(
                sentence,
                task="translate",
                source_lang=source_lang,
                target_lang=target_lang,
                overrides=GenerationOverrides(stop_strings="tea"),
            )
            for text in texts
        )
        assert here == there
        token_ids = here.source_ids[:-1]
        assert texts[0].detokenize(token_ids) == texts[1].detokenize(token_ids)


# Threads ------------------------------------------------------------------------------------------


def test_a_worker_that_is_alone_at_work_gets_all_threads_and_several_share_them() -> None:
    threads = ThreadShare(5)
    workers = [Worker(COMMAND, Order({}, 0, 1), threads) for _ in range(3)]
    assert threads.of_one == 5
    shares = []
    for worker in workers:
        worker.num_held = 4
        shares.append(threads.of_one)
    assert shares == [5, 2, 1]
    assert ThreadShare(1).of_one == 1
