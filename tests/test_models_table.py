"""docs/models.md says what is so."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

from model_core.checkpoint import load_checkpoint
from model_core.errors import CheckpointError
from model_core.generation import GenerationParameters
from model_core.verification.reference import Reference, generate_alone
from tests import models_table
from tests.models_table import NAMES, NUM_REQUESTS, PAGE, facts_of, measure, read_page, render

MEASURED = re.compile(r"(\d+)/(\d+)(?:, near-ties: (\d+))?")


def test_page_lists_every_registered_architecture_as_it_is() -> None:
    rows = read_page()
    assert list(rows) == list(NAMES), "run `make models-table`"
    assert PAGE.read_text(encoding="utf-8") == render(rows.values(), NUM_REQUESTS)


def test_page_shows_no_answer_that_differs() -> None:
    for row in read_page().values():
        for cell in (row.greedy, row.beam):
            found = MEASURED.fullmatch(cell)
            assert found is not None, cell
            same, total, ties = (int(number or 0) for number in found.groups())
            assert same + ties == total == NUM_REQUESTS, row


@pytest.mark.parametrize("name", ["led", "umt5", "nllb-moe"])
def test_measuring_again_finds_the_same(name: str) -> None:
    row = measure(name, 3)
    assert row == replace(read_page()[name], greedy="3/3", beam="3/3")


def test_a_wrong_answer_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def another_answer(
        model: PreTrainedModel, _: object, search: GenerationParameters
    ) -> Reference:
        return generate_alone(model, (5, 2), search)

    monkeypatch.setattr("tests.models_table.generate_alone", another_answer)
    monkeypatch.setattr("tests.models_table.explain", lambda *_: None)
    assert measure("bart", 3).beam != "3/3"


def test_every_encoder_decoder_that_the_library_lists_is_on_the_page() -> None:
    refused = {kind for kind, _ in models_table.not_encoder_decoders()}
    listed = set(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES) - refused
    measured = {facts_of(name).model_type.split(":")[0] for name in NAMES}
    assert measured == listed


@pytest.mark.parametrize("kind", [kind for kind, _ in models_table.not_encoder_decoders()])
def test_a_decoder_that_reads_audio_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"expected an encoder-decoder, found .*'{kind}'"):
        load_checkpoint(str(tmp_path))
