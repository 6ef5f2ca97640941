import sys
from pathlib import Path

import pytest
import torch

from app.opening import model_sources, open_service, resolve_workers, worker_options
from app.settings import SHIPPED, Settings
from model_core.checkpoint import CheckpointOptions
from model_core.errors import CheckpointError
from model_core.models import ModelSource
from model_core.shape import read_shape


def test_a_shipped_name_is_a_folder_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert model_sources(["translate-en-de"]) == {
        "translate-en-de": ModelSource("translate-en-de", str(SHIPPED / "translate-en-de"))
    }


def test_a_folder_is_called_by_its_last_part(tmp_path: Path) -> None:
    folder = tmp_path / "de-en"
    folder.mkdir()

    assert model_sources([str(folder)])[str(folder)].name == "de-en"


def test_folders_with_the_same_last_part_keep_their_paths(tmp_path: Path) -> None:
    folders = [tmp_path / parent / "model" for parent in ("a", "b")]
    for folder in folders:
        folder.mkdir(parents=True)

    sources = model_sources([str(folder) for folder in folders])

    assert [source.name for source in sources.values()] == [str(folder) for folder in folders]


def test_a_hub_id_may_have_a_revision() -> None:
    given = ["owner/name@v1", "owner/other"]

    assert list(model_sources(given).values()) == [
        ModelSource("owner/name", "owner/name", "v1"),
        ModelSource("owner/other", "owner/other"),
    ]


def test_a_checkpoint_of_both_tasks_is_loaded_once() -> None:
    assert len(model_sources(["owner/t5", "owner/t5"])) == 1


@pytest.mark.parametrize(
    ("name", "hint"),
    [("translate-en-d", "did you mean translate-en-de?"), ("no-such-thing", "on the Hub: ")],
)
def test_a_name_that_is_not_shipped_is_refused_with_those_that_are(
    name: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(CheckpointError) as caught:
        open_service(Settings(translate_model=(name,), summarize_model=()))

    assert str(caught.value).startswith(f"{name}: expected ")
    assert "a shipped checkpoint, summarize-en or translate-en-de" in str(caught.value)
    assert hint in str(caught.value)


def test_a_near_name_is_refused_without_a_question_to_the_hub(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ask(*arguments: object, **options: object) -> None:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr("model_core.repository.cached_file", ask)

    with pytest.raises(CheckpointError, match="did you mean summarize-en"):
        open_service(Settings(translate_model=(), summarize_model=("sumarize-en",)))


# Workers ------------------------------------------------------------------------------------------

ON_CPU = ModelSource("on-cpu", str(SHIPPED / "translate-en-de"))
ON_CUDA = ModelSource("on-cuda", "on-cuda", options=CheckpointOptions(device="cuda:1"))


@pytest.mark.parametrize(
    ("workers", "num_threads", "num_workers"),
    [("auto", 1, 1), ("auto", 2, 2), ("auto", 64, 2), (1, 64, 1), (5, 1, 5)],
)
def test_workers_are_as_many_as_asked_for_or_few(
    workers: str | int, num_threads: int, num_workers: int
) -> None:
    settings = Settings(workers=workers, num_threads=num_threads, device="cpu", log_format="text")
    options = worker_options(settings, [ON_CPU])

    assert options is not None
    assert options.num_workers == num_workers
    assert options.command == (sys.executable, "-P", "-m", "app.worker", "text")


def test_the_threads_of_torch_count_where_the_settings_leave_them_to_it() -> None:
    options = worker_options(Settings(device="cpu"), [ON_CPU])

    assert options is not None
    assert options.num_workers == min(2, torch.get_num_threads())


@pytest.mark.parametrize(("gibibytes", "num_workers"), [(1, 1), (2, 1), (4, 2), (64, 2)])
def test_there_are_fewer_workers_where_their_weights_would_take_the_memory(
    gibibytes: int, num_workers: int
) -> None:
    settings = Settings(device="cpu", num_threads=2)
    shipped = [*model_sources(["translate-en-de", "summarize-en"]).values()]
    shapes = [read_shape(each.location, CheckpointOptions(device="cpu")) for each in shipped]
    assert resolve_workers(settings, shipped, shapes, gibibytes * 2**30) == num_workers
    asked_for = settings.model_copy(update={"workers": 3})
    assert resolve_workers(asked_for, shipped, shapes, gibibytes * 2**30) == 3


def test_no_workers_are_an_engine_in_the_process() -> None:
    assert worker_options(Settings(workers=0, device="cpu"), [ON_CPU]) is None


def test_a_gpu_has_no_workers_unless_they_are_asked_for_which_is_refused_by_name() -> None:
    sources = [ON_CPU, ON_CUDA]

    assert worker_options(Settings(device="cpu"), sources) is None
    assert worker_options(Settings(device="cpu", workers=0), sources) is None
    with pytest.raises(CheckpointError) as caught:
        worker_options(Settings(device="cpu", workers=2), sources)
    assert str(caught.value) == (
        "TANDEM_WORKERS is 2: expected 0 where on-cuda runs on CUDA: workers are for a CPU"
    )


@pytest.mark.parametrize(("has_gpu", "num_workers"), [(True, None), (False, 2)])
def test_a_gpu_that_is_chosen_by_itself_counts(
    has_gpu: bool, num_workers: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpu)
    options = worker_options(Settings(num_threads=2), [ON_CPU])

    assert (options and options.num_workers) == num_workers
