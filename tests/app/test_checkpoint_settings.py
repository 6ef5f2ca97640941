"""The file of checkpoint settings: what it says, and every way in which it can be wrong."""

import re
from pathlib import Path

import pytest

from app.checkpoint_settings import (
    CheckpointSettings,
    CheckpointSettingsError,
    check_names,
    read_checkpoint_settings,
)
from app.opening import model_sources, open_service, with_settings
from app.settings import SHIPPED, Settings
from model_core.checkpoint import CheckpointOptions
from model_core.errors import CheckpointError
from model_core.generation import NOT_SERVED

DOCS = Path(__file__).parents[2] / "docs" / "checkpoints.md"
TRANSLATOR = "translate-en-de"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints.toml"


def settings_with(file: Path) -> Settings:
    return Settings(summarize_model=(), checkpoints_file=str(file), num_threads=1)


def test_no_file_means_no_settings() -> None:
    assert read_checkpoint_settings("none") == {}


def test_settings_of_a_checkpoint_go_before_those_of_the_server(file: Path) -> None:
    file.write_text(
        f"""
        ["{TRANSLATOR}"]
        add_special_tokens = false
        allow_pickle = true
        source_lang = "en"
        target_lang = "fr"
        tokenizer = {{ pad_token = "<pad>", use_fast = false }}
        generation = {{ num_beams = 2 }}
        global_attention = "first"
        revision = "main"
        """
    )
    given = (TRANSLATOR, "summarize-en")
    own_settings = read_checkpoint_settings(str(file))

    sources = with_settings(
        model_sources(given), own_settings, CheckpointOptions(device="cpu"), "file.toml"
    )

    assert sources["summarize-en"].options is None
    assert sources[TRANSLATOR].revision == "main"
    assert sources[TRANSLATOR].options == CheckpointOptions(
        device="cpu",
        revision="main",
        allow_pickle=True,
        add_special_tokens=False,
        languages=("en", "fr"),
        tokenizer={"pad_token": "<pad>", "use_fast": False},
        generation={"num_beams": 2},
        generation_from="file.toml",
        global_attention="first",
    )


def test_a_shipped_checkpoint_is_served_with_its_settings(file: Path) -> None:
    file.write_text(
        f"""
        ["{TRANSLATOR}"]
        source_lang = "en"
        target_lang = "de_CH"
        add_special_tokens = false
        generation = {{ num_beams = 3 }}
        """
    )

    service = open_service(settings_with(file))

    (checkpoint,) = (model.checkpoint for model in service.routing.models)
    assert checkpoint.languages.targets == ("de_CH",)
    assert checkpoint.defaults.values.num_beams == 3
    assert not checkpoint.add_special_tokens


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("= 1", ["expected a TOML file"]),
        (f"{TRANSLATOR} = 1", [f"{TRANSLATOR} is 1", "expected a table"]),
        ('["translate-en-d"]', ["translate-en-d", "no checkpoint that is served", TRANSLATOR]),
        (
            f'["{TRANSLATOR}"]\nsource = "en"',
            ["source is 'en'", "expected a key", "did you mean source_lang?"],
        ),
        (f'["{TRANSLATOR}"]\nsource_lang = "en"', ["source_lang and target_lang together"]),
        (f'["{TRANSLATOR}"]\nallow_pickle = 1', ["allow_pickle is 1", "valid boolean"]),
        (f'["{TRANSLATOR}"]\nglobal_attention = "all"', ["global_attention is 'all'", "'first'"]),
        (f'["{TRANSLATOR}"]\ntokenizer = {{ x = [1] }}', ["tokenizer.x", "[1]"]),
        (f'["{TRANSLATOR}"]\ntokenizer = {{ revision = "x" }}', ["expected no revision"]),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_the_key_and_what_was_expected(
    text: str, parts: list[str], file: Path
) -> None:
    file.write_text(text)

    with pytest.raises(CheckpointSettingsError) as caught:
        open_service(settings_with(file))

    for part in (str(file), *parts):
        assert part in str(caught.value)


def test_commands_for_one_task_pass_over_the_settings_of_the_other(file: Path) -> None:
    file.write_text('["summarize-en"]\nadd_special_tokens = false')
    settings = settings_with(file)
    with pytest.raises(CheckpointSettingsError, match="no checkpoint that is served"):
        open_service(settings)

    service = open_service(settings, is_partial=True)

    assert [model.name for model in service.routing.models] == [TRANSLATOR]


@pytest.mark.parametrize(("in_file", "given"), [("/", ""), ("", "/"), ("//", "")])
def test_a_folder_is_the_same_with_a_slash_at_its_end(
    in_file: str, given: str, file: Path, tmp_path: Path
) -> None:
    file.write_text(f'["{tmp_path}{in_file}"]\nadd_special_tokens = false')
    name = f"{tmp_path}{given}"
    own_settings = read_checkpoint_settings(str(file))

    check_names(str(file), own_settings, [name])
    sources = with_settings(model_sources([name]), own_settings, CheckpointOptions(), str(file))

    assert sources[name].options == CheckpointOptions(
        add_special_tokens=False, generation_from=str(file)
    )


def test_two_tables_of_one_folder_are_refused(file: Path, tmp_path: Path) -> None:
    file.write_text(f'["{tmp_path}"]\n["{tmp_path}/"]')

    with pytest.raises(CheckpointSettingsError, match="is there twice"):
        read_checkpoint_settings(str(file))


def test_a_missing_file_is_refused(file: Path) -> None:
    with pytest.raises(CheckpointSettingsError, match=re.escape(str(file))):
        read_checkpoint_settings(str(file))


def test_a_revision_is_named_once(file: Path) -> None:
    file.write_text('["owner/name@v1"]\nrevision = "v2"')
    settings = Settings(translate_model=("owner/name@v1",), checkpoints_file=str(file))

    with pytest.raises(CheckpointSettingsError, match=r"revision is 'v2'.*the name has one"):
        open_service(settings)


@pytest.mark.parametrize(
    ("generation", "parts"),
    [
        ("num_beam = 2", ["generation.num_beam is 2", "parameter: did you mean num_beams?"]),
        ("zzz = 2", ["generation.zzz is 2", "expected a generation parameter, one of bad_words"]),
        ("guidance_scale = 3.0", ["guidance_scale is 3.0", NOT_SERVED["guidance_scale"]]),
        ("num_beams = 0", ["generation.num_beams is 0", "expected"]),
        ('pad_token_id = "<pad>"', ["generation.pad_token_id is '<pad>'", "a token id from 0"]),
        ("forced_bos_token_id = 99999", ["generation.forced_bos_token_id is 99999", "a token id"]),
    ],
)
def test_wrong_generation_settings_are_refused_with_checkpoint_key_and_value(
    generation: str, parts: list[str], file: Path
) -> None:
    file.write_text(f'["{TRANSLATOR}"]\ngeneration = {{ {generation} }}')

    with pytest.raises(CheckpointError) as caught:
        open_service(settings_with(file))

    for part in (str(SHIPPED / TRANSLATOR), str(file), *parts):
        assert part in str(caught.value)


def test_the_page_lists_exactly_the_settings() -> None:
    row = re.compile(r"^\| `(\w+)` \| (.*) \|$", re.MULTILINE)

    assert row.findall(DOCS.read_text(encoding="utf-8")) == [
        (name, field.description) for name, field in CheckpointSettings.model_fields.items()
    ]
