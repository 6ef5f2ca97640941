"""What single architectures do that others do not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BigBirdConfig,
    FNetConfig,
    LongformerConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from model_core.batching import may_pad
from model_core.checkpoint import CheckpointOptions
from model_core.encoder import GlobalAttention
from model_core.engine import Engine
from model_core.errors import CheckpointError
from model_core.generation import GenerationLimits, GenerationParameters
from model_core.models import ModelSource, ServedModel, load_models
from model_core.request import Output
from model_core.runner import ModelRunner
from model_core.scheduler import EngineLimits
from tests import tiny
from tests.lean import Lean, load_lean
from tests.parity import assert_same, generate_alone
from tests.tiny.draw import Spread, finish, generation_defaults
from tests.tiny.encoder_decoder import bert_config, encoder_decoder
from tests.tiny.t5 import t5_sizes

SEARCHES: list[dict[str, Any]] = [{}, {"num_beams": 4, "num_return_sequences": 2}]


def answers(
    runner: ModelRunner, sources: list[tuple[int, ...]], parameters: GenerationParameters
) -> list[Output]:
    engine = Engine({"tiny": runner}, EngineLimits())
    futures = [engine.submit("tiny", source, parameters) for source in sources]
    while engine.step():
        pass
    return [future.result(timeout=0) for future in futures]


def check(lean: Lean, parameters: GenerationParameters) -> list[Output]:
    sources = tiny.random_sources(6, eos=lean.defaults.eos_token_ids[0])
    outputs = answers(lean.runner(), sources, parameters)
    for source, output in zip(sources, outputs, strict=True):
        assert_same(output, generate_alone(lean.model, source, parameters))
    return outputs


@pytest.mark.parametrize("search", SEARCHES, ids=["greedy", "beams"])
@pytest.mark.parametrize("name", ["m2m100", "roberta2roberta"])
def test_pad_tokens_inside_a_target_take_the_position_that_the_library_gives_them(
    name: str, search: dict[str, Any]
) -> None:
    lean = load_lean(name)
    pad = lean.defaults.pad_token_id
    parameters = replace(
        lean.defaults, sequence_bias=(((pad,), 15.0),), no_repeat_ngram_size=2, **search
    )
    outputs = check(lean, parameters)
    inside = [output.best.token_ids[:-1].count(pad) for output in outputs]
    assert sum(count > 0 for count in inside) >= 3, inside


def load(folder: Path, global_attention: GlobalAttention) -> ServedModel:
    options = CheckpointOptions(device="cpu", global_attention=global_attention)
    sources = [ModelSource("led", str(folder))]
    return load_models(sources, options, EngineLimits(), GenerationLimits()).models["led"]


def test_global_attention_of_led_is_a_setting(tmp_path: Path) -> None:
    folder = tiny.build_tiny_checkpoint("led", tmp_path)
    found = {}
    settings: list[GlobalAttention] = ["none", "first"]
    for setting in settings:
        served = load(folder, setting)
        model = served.checkpoint.model
        parameters = load_lean("led").defaults
        sources = tiny.random_sources(6, eos=2)
        futures = [served.engine.submit("led", source, parameters) for source in sources]
        while served.engine.step():
            pass
        outputs = [future.result(timeout=0) for future in futures]
        found[setting] = [output.best.token_ids for output in outputs]
        for source, output in zip(sources, outputs, strict=True):
            ids = torch.tensor([source])
            mask = {"global_attention_mask": torch.zeros_like(ids)}
            mask["global_attention_mask"][0, 0] = 1
            generate: Any = model.generate
            expected = generate(
                ids,
                attention_mask=torch.ones_like(ids),
                **(mask if setting == "first" else {}),
                **parameters.generate_kwargs(),
            )
            assert list(output.best.token_ids) == expected[0, 1:].tolist()
    assert found["none"] != found["first"]


def test_global_attention_of_an_encoder_that_has_none_is_refused(tmp_path: Path) -> None:
    folder = tiny.build_tiny_checkpoint("bart", tmp_path)
    with pytest.raises(CheckpointError, match=r"global_attention is 'first'.*found BartEncoder"):
        load(folder, "first")


def bigbird() -> Any:
    return bert_config(
        BigBirdConfig, hidden=32, layers=2, decoder=False, block_size=2, num_random_blocks=1
    )


def longformer() -> Any:
    return bert_config(
        LongformerConfig, hidden=32, layers=2, decoder=False, attention_window=4, pad_token_id=0
    )


def fnet() -> Any:
    return bert_config(FNetConfig, hidden=32, layers=2, decoder=False)


@pytest.mark.parametrize("search", SEARCHES, ids=["greedy", "beams"])
@pytest.mark.parametrize("config", [bigbird, longformer, fnet])
def test_encoders_that_feel_padding_or_know_no_mask_are_exact_in_a_pair(
    config: Callable[[], Any], search: dict[str, Any]
) -> None:
    decoder = bert_config(BertConfig, hidden=32, layers=2, decoder=True)
    model = encoder_decoder(config(), decoder, bos=2, pad=0, eos=3)
    defaults = generation_defaults(decoder_start_token_id=2, pad_token_id=0, eos_token_id=3)
    finish(model, Spread(seed=860, sharpness=3, eos=2), defaults)
    assert not may_pad(model)
    lean = Lean("bert2bert", model, load_lean("bert2bert").defaults, tiny.VOCAB)
    outputs = check(lean, replace(lean.defaults, **search))
    assert len({output.best.token_ids for output in outputs}) >= 4


def test_a_t5_with_more_decoder_than_encoder_layers_is_decoded() -> None:
    config = T5Config(**t5_sizes(num_layers=1, num_decoder_layers=3))
    defaults = generation_defaults(decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
    model = finish(T5ForConditionalGeneration(config), Spread(seed=1), defaults)
    lean = Lean("t5", model, load_lean("t5").defaults, tiny.VOCAB)
    sources = tiny.random_sources(4, eos=1)
    generate: Any = model.generate
    for source, output in zip(sources, answers(lean.runner(), sources, lean.defaults), strict=True):
        ids = torch.tensor([source])
        arguments = lean.defaults.generate_kwargs()
        # The library's cache has as many layers as the encoder.
        with pytest.raises(IndexError, match="list index out of range"):
            generate(ids, **arguments)
        expected = generate(ids, use_cache=False, **arguments)
        assert list(output.best.token_ids) == expected[0, 1:].tolist()
