"""Loading: what is read from the files, and every way in which that fails."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM

from model_core.checkpoint import Checkpoint, CheckpointOptions, load_checkpoint
from model_core.errors import CheckpointError
from model_core.generation import GenerationLimits, GenerationOverrides
from model_core.resolve import resolve
from tests import tiny

LIMITS = GenerationLimits()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders by name, shared by this file: copy before you change one."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: tiny.build_tiny_checkpoint(name, root / name) for name in ("bart", "bert2bert")}


@pytest.fixture
def bart(built: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(built["bart"], tmp_path / "my-bart")


@pytest.fixture
def bert(built: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(built["bert2bert"], tmp_path / "my-bert")


def load(folder: Path, **options: Any) -> Checkpoint:
    return load_checkpoint(str(folder), CheckpointOptions(device="cpu", **options))


def edit(path: Path, **changes: Any) -> None:
    """Change entries of a JSON file; None removes one."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


# What is loaded ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*tiny.LEAN_ARCHITECTURES, *tiny.FALLBACK_ARCHITECTURES])
def test_every_architecture_loads_with_the_defaults_that_generate_has(
    name: str, tmp_path: Path
) -> None:
    checkpoint = load(tiny.build_tiny_checkpoint(name, tmp_path / name))
    assert checkpoint.name == name
    assert checkpoint.architecture == type(tiny.TINY_ARCHITECTURES[name]()).__name__
    assert not checkpoint.model.training
    assert not any(parameter.requires_grad for parameter in checkpoint.model.parameters())
    assert checkpoint.dtype == torch.float32
    assert checkpoint.defaults.unserved == ()
    parameters = resolve(checkpoint.defaults, GenerationOverrides(), limits=LIMITS)
    model: Any = checkpoint.model
    source = {"input_ids": torch.tensor([[5, 9, 23, 41, 8, 17]])}
    source["attention_mask"] = torch.ones_like(source["input_ids"])
    ours = model.generate(**source, **parameters.generate_kwargs())
    assert ours.tolist() == model.generate(**source).tolist()


@pytest.mark.parametrize(
    ("name", "max_source_len"), [("bart", 96), ("bert2bert", 96), ("t5", None), ("prophetnet", 95)]
)
def test_positions_bound_both_sides_unless_they_are_relative(
    name: str, max_source_len: int | None, tmp_path: Path
) -> None:
    checkpoint = load(tiny.build_tiny_checkpoint(name, tmp_path))
    assert checkpoint.max_source_len == max_source_len
    assert checkpoint.max_target_len == max_source_len


def test_auto_dtype_is_float32_on_a_cpu_whatever_the_file_holds(bart: Path) -> None:
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(bart)
    model.to(torch.float16).save_pretrained(bart)
    assert load(bart).dtype == torch.float32
    assert load(bart, dtype="bfloat16").dtype == torch.bfloat16
    assert load(bart, dtype="float16").model.dtype == torch.float16


def test_int8_is_made_of_float32(bart: Path) -> None:
    checkpoint = load(bart, dtype="int8")
    assert (checkpoint.dtype, checkpoint.model.dtype) == (torch.int8, torch.float32)


def test_int8_is_refused_where_torch_has_no_kernels_for_it(
    bart: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: False)
    assert_fails(str(bart), "dtype is int8", "oneDNN", "found device cpu", dtype="int8")


# Precedence of defaults --------------------------------------------------------------------------


def test_generation_config_goes_before_everything(bart: Path) -> None:
    edit(bart / "config.json", task_specific_params={"summarization": {"num_beams": 2}})
    edit(bart / "generation_config.json", num_beams=3)
    defaults = load(bart).defaults
    assert defaults.for_task("summarization").values.num_beams == 3


def test_task_goes_before_a_generation_config_that_only_repeats_the_config(bart: Path) -> None:
    task = {"num_beams": 2, "max_new_tokens": 9}
    edit(bart / "config.json", task_specific_params={"summarization": task})
    edit(bart / "generation_config.json", num_beams=3, _from_model_config=True)
    defaults = load(bart).defaults
    assert defaults.values.num_beams == 3
    assert defaults.for_task("summarization").values.num_beams == 2
    assert defaults.for_task("summarization").values.max_length is None
    assert defaults.for_task("something else") == defaults
    loaded_for_task = load_checkpoint(str(bart), CheckpointOptions(), task="summarize")
    assert loaded_for_task.defaults.values.num_beams == 2


def test_task_goes_before_legacy_keys(bart: Path) -> None:
    (bart / "generation_config.json").unlink()
    task = {"summarization": {"num_beams": 2, "min_length": 3}}
    edit(bart / "config.json", num_beams=5, length_penalty=2.0, task_specific_params=task)
    values = load(bart).defaults.for_task("summarization").values
    assert (values.num_beams, values.min_length, values.length_penalty) == (2, 3, 2.0)


def test_legacy_keys_count_only_without_a_generation_config(bart: Path) -> None:
    edit(bart / "config.json", length_penalty=2.0)
    assert load(bart).defaults.values.length_penalty is None
    (bart / "generation_config.json").unlink()
    assert load(bart).defaults.values.length_penalty == 2.0


def test_decoder_part_is_read_last_and_without_the_library_defaults_written_out_there(
    bert: Path,
) -> None:
    (bert / "generation_config.json").unlink()
    config = json.loads((bert / "config.json").read_text())
    decoder = {**config["decoder"], "max_length": 20, "num_beams": 3, "no_repeat_ngram_size": 2}
    edit(bert / "config.json", decoder=decoder, num_beams=6)
    values = load(bert).defaults.values
    assert values.num_beams == 6
    assert values.no_repeat_ngram_size == 2
    assert values.max_length is None


def test_checkpoint_without_a_length_gets_the_stated_one(bert: Path) -> None:
    edit(bert / "generation_config.json", max_length=None)
    parameters = resolve(load(bert).defaults, GenerationOverrides(), limits=LIMITS)
    assert parameters.max_length == tiny.MAX_POSITIONS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_beam_groups", 2),
        ("token_healing", True),
        ("watermarking_config", {"bias": 2.0}),
        ("guidance_scale", 1.5),
    ],
)
def test_features_that_the_search_lacks_are_recorded(bart: Path, name: str, value: Any) -> None:
    edit(bart / "config.json", task_specific_params={"translation": {name: value}})
    assert load(bart).defaults.unserved == (name,)


def test_features_that_are_switched_off_are_not_recorded(bart: Path) -> None:
    edit(bart / "generation_config.json", do_sample=False, num_beam_groups=1, top_k=50)
    assert load(bart).defaults.unserved == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("do_sample", True),
        ("encoder_no_repeat_ngram_size", 3),
        ("begin_suppress_tokens", [5]),
        ("exponential_decay_length_penalty", [5, 1.1]),
        ("renormalize_logits", True),
        ("stop_strings", ["tea"]),
    ],
)
def test_every_parameter_that_is_served_can_be_a_default(bart: Path, name: str, value: Any) -> None:
    edit(bart / "generation_config.json", **{name: value})
    defaults = load(bart).defaults
    assert defaults.unserved == ()
    parameters = resolve(defaults, GenerationOverrides(), limits=LIMITS)
    expected = tuple(value) if isinstance(value, list) else value
    assert getattr(parameters, name) == expected


def test_task_prefixes_are_kept(bart: Path) -> None:
    edit(bart / "config.json", task_specific_params={"summarization": {"prefix": "summarize: "}})
    assert load(bart).task_prefixes == {"summarization": "summarize: "}


# Failures ----------------------------------------------------------------------------------------


def assert_fails(source: str, *parts: str, **options: Any) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(source, CheckpointOptions(**{"device": "cpu", **options}))
    for part in parts:
        assert part in str(caught.value)


def test_wrong_path_is_named(tmp_path: Path) -> None:
    assert_fails("./no/such/folder", "./no/such/folder", "no such folder")
    file = tmp_path / "weights.bin"
    file.touch()
    assert_fails(str(file), "a folder or a Hub id", "a file")


def test_name_that_is_no_folder_and_cannot_be_had_from_the_hub_is_named_as_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert_fails("nobody/no-such-model", "nobody/no-such-model", "no such folder, and on the Hub:")


def test_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    assert_fails(str(tmp_path), "expected a config.json, found none")


def test_broken_config_is_refused(bart: Path) -> None:
    (bart / "config.json").write_text("{")
    assert_fails(str(bart), "JSON in config.json")


def test_decoder_only_model_is_refused(tmp_path: Path) -> None:
    folder = tiny.build_tiny_checkpoint("gpt2", tmp_path)
    assert_fails(str(folder), "expected an encoder-decoder", "gpt2", "GPT2LMHeadModel")


_OWN_CODE = """
from pathlib import Path
Path({trace!r}).touch()
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast
class Config(BartConfig):
    model_type = "own"
class Model(BartForConditionalGeneration):
    config_class = Config
"""


def test_code_of_the_checkpoint_is_run_only_if_trusted(
    bart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    was_run = tmp_path / "was-run"
    (bart / "own.py").write_text(_OWN_CODE.format(trace=str(was_run)))
    auto_map = {"AutoConfig": "own.Config", "AutoModelForSeq2SeqLM": "own.Model"}
    edit(bart / "config.json", model_type="own", auto_map=auto_map)

    assert_fails(str(bart), "code of its own, which is not trusted")
    assert not was_run.exists()

    load_checkpoint(str(bart), CheckpointOptions(device="cpu", trust_remote_code=True))
    assert was_run.exists()


def test_code_beside_an_architecture_that_the_library_knows_is_not_run(
    bart: Path, tmp_path: Path
) -> None:
    was_run = tmp_path / "was-run"
    (bart / "own.py").write_text(_OWN_CODE.format(trace=str(was_run)))
    auto_map = {"AutoConfig": "own.Config", "AutoModelForSeq2SeqLM": "own.Model"}
    edit(bart / "config.json", auto_map=auto_map)
    edit(bart / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Slow", "own.Fast"]})

    load(bart)

    assert not was_run.exists()


def test_a_checkpoint_of_the_hub_is_pinned_to_one_commit(
    bart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(bart, repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    checkpoint = load_checkpoint("owner/name", CheckpointOptions(device="cpu"))

    assert checkpoint.revision == commit


@pytest.mark.parametrize("name", ["bart", "mbart", "marian", "t5", "bert-generation"])
def test_missing_tokenizer_is_refused(name: str, tmp_path: Path) -> None:
    folder = tiny.build_tiny_checkpoint(name, tmp_path)
    kept = ("config.json", "generation_config.json", "model.safetensors")
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()
    assert_fails(
        str(folder),
        "expected a tokenizer",
        "no tokenizer files",
        "tokenizer.json",
        "tokenizer_name",
    )


def test_tokenizer_without_its_vocabulary_is_refused(bart: Path) -> None:
    (bart / "tokenizer.json").unlink()
    assert_fails(str(bart), "expected a tokenizer", "no tokenizer files")


def test_an_argument_that_the_tokenizer_does_not_name_is_warned_of(
    bart: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = {"pad_token": "<pad>", "use_fast": True, "model_max_length": 9, "padding_side": "left"}
    load(bart, tokenizer=known)
    assert not caplog.records
    load(bart, tokenizer={"paddding_side": "left", "padd_token": "<pad>"})
    warnings = [record.getMessage() for record in caplog.records]
    assert [warning.partition("argument ")[2] for warning in warnings] == [
        "paddding_side, so that it may change nothing: did you mean padding_side?",
        "padd_token, so that it may change nothing: did you mean pad_token?",
    ]


def test_missing_weight_is_refused(bart: Path) -> None:
    weights = load_file(bart / "model.safetensors")
    del weights["model.decoder.layers.1.fc1.weight"]
    save_file(weights, bart / "model.safetensors", metadata={"format": "pt"})
    assert_fails(str(bart), "1 missing", "model.decoder.layers.1.fc1.weight")


def test_weight_of_another_shape_is_refused(bart: Path) -> None:
    weights = load_file(bart / "model.safetensors")
    weights["model.decoder.layers.1.fc1.weight"] = torch.zeros(3, 3)
    save_file(weights, bart / "model.safetensors", metadata={"format": "pt"})
    assert_fails(str(bart), "expected a checkpoint that can be loaded")


def test_no_weights_are_refused(bart: Path) -> None:
    (bart / "model.safetensors").unlink()
    assert_fails(str(bart), "expected weights in model.safetensors, found none")


def test_pickled_weights_are_loaded_only_if_allowed(bart: Path) -> None:
    weights = load_file(bart / "model.safetensors")
    (bart / "model.safetensors").unlink()
    torch.save(weights, bart / "pytorch_model.bin")
    assert_fails(str(bart), "model.safetensors", "pytorch_model.bin", "only if allowed")
    assert load(bart, allow_pickle=True).vocab_size == tiny.VOCAB


def test_truncated_weights_are_refused(bart: Path) -> None:
    path = bart / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert_fails(str(bart), "expected a checkpoint that can be loaded")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:64", ""])
def test_unknown_device_is_refused(bart: Path, device: str) -> None:
    assert_fails(str(bart), f"{device!r}" if device != "cuda:64" else device, device=device)


def test_default_that_makes_no_sense_is_refused(bart: Path) -> None:
    edit(bart / "generation_config.json", forced_bos_token_id=4000)
    assert_fails(str(bart), "generation defaults cannot be served", "forced_bos_token_id is 4000")


def test_checkpoint_without_a_start_token_is_refused(bert: Path) -> None:
    edit(bert / "generation_config.json", decoder_start_token_id=None)
    edit(bert / "config.json", decoder_start_token_id=None)
    assert_fails(str(bert), "no token that starts an answer")
