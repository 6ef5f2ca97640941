from pathlib import Path

import pytest

from app.opening import model_sources
from app.settings import SHIPPED
from model_core.models import ModelSource


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
