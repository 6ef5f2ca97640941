import logging
from pathlib import Path

import pytest
from transformers import ProphetNetForConditionalGeneration

from model_core.checkpoint import CheckpointOptions, DType
from model_core.choose_runner import GENERATE
from model_core.errors import CheckpointError
from model_core.generation import GenerationLimits
from model_core.models import ModelSet, ModelSource, load_models
from model_core.scheduler import EngineLimits
from tests import tiny
from tests.parity import assert_same, generate_alone


def load(*folders: Path, dtype: DType = "auto") -> ModelSet:
    sources = [ModelSource(folder.name, str(folder)) for folder in folders]
    options = CheckpointOptions(device="cpu", dtype=dtype)
    return load_models(sources, options, EngineLimits(), GenerationLimits())


SEQ2SEQ = [*tiny.LEAN_ARCHITECTURES, *tiny.FALLBACK_ARCHITECTURES]


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_a_checkpoint_on_disk_is_served_by_its_family_and_exact(name: str, tmp_path: Path) -> None:
    model = load(tiny.build_tiny_checkpoint(name, tmp_path / name)).models[name]
    assert (model.family == GENERATE) == (name in tiny.FALLBACK_ARCHITECTURES)
    assert (model.reason is None) == (model.family != GENERATE)
    languages = model.checkpoint.languages
    prepared = model.text.prepare(
        "Where is the cold coffee?",
        task="translate",
        source_lang=languages.sources[0] if languages.sources else None,
        target_lang=languages.targets[-1] if languages.targets else None,
    )
    future = model.submit(prepared)
    while model.engine.step():
        pass
    reference = generate_alone(model.checkpoint.model, prepared.source_ids, prepared.parameters)
    assert_same(future.result(timeout=0), reference)


def test_lean_checkpoints_share_an_engine_and_generate_has_its_own(tmp_path: Path) -> None:
    names = ("bart", "t5", "prophetnet")
    models = load(*(tiny.build_tiny_checkpoint(name, tmp_path / name) for name in names)).models
    assert models["bart"].engine is models["t5"].engine
    assert models["prophetnet"].engine is not models["bart"].engine


def test_a_default_length_beyond_the_positions_is_lowered_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny.build_tiny_checkpoint("bart", tmp_path / "bart")
    defaults = folder / "generation_config.json"
    length = f'"max_length": {tiny.MAX_LENGTH}'
    text = defaults.read_text("utf-8")
    assert length in text
    defaults.write_text(text.replace(length, '"max_length": 5000'), "utf-8")
    with caplog.at_level(logging.WARNING):
        model = load(folder).models["bart"]
    prepared = model.text.prepare("tea", task="translate")
    assert prepared.parameters.max_length == tiny.MAX_POSITIONS
    assert "5000" in caplog.text


def test_defaults_that_the_lean_search_lacks_go_through_generate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny.build_tiny_checkpoint("bart", tmp_path / "bart")
    defaults = folder / "generation_config.json"
    text = defaults.read_text("utf-8").replace("{", '{\n  "guidance_scale": 1.5,', 1)
    defaults.write_text(text, "utf-8")
    with caplog.at_level(logging.WARNING):
        model = load(folder).models["bart"]
    assert model.family == GENERATE
    assert model.reason == "its defaults ask for guidance_scale"
    assert f"slower: {model.reason}" in caplog.text


def test_what_not_even_generate_can_run_fails_when_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.build_tiny_checkpoint("prophetnet", tmp_path / "prophetnet")

    def refuse(*args: object, **kwargs: object) -> None:
        raise AttributeError("no such cache")

    monkeypatch.setattr(ProphetNetForConditionalGeneration, "forward", refuse)
    with pytest.raises(CheckpointError, match=r"generate\(\) can run, found: AttributeError"):
        load(folder)


def test_int8_is_served_by_the_lean_decoder_or_refused(tmp_path: Path) -> None:
    marian = tiny.build_tiny_checkpoint("marian", tmp_path / "marian")
    model = load(marian, dtype="int8").models["marian"]
    future = model.submit(model.text.prepare("tea", task="translate"))
    while model.engine.step():
        pass
    assert future.result(timeout=0).best.token_ids
    prophetnet = tiny.build_tiny_checkpoint("prophetnet", tmp_path / "prophetnet")
    with pytest.raises(CheckpointError, match=r"prophetnet: dtype is int8.*has no lean decoder"):
        load(prophetnet, dtype="int8")
