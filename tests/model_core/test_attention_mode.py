"""BigBird must not remember what it has encoded."""

import copy
from typing import Any

import pytest
import torch
from transformers import BertConfig, BigBirdConfig, PreTrainedModel

from model_core.attention_mode import AttentionMode
from model_core.encoder import Encoder
from model_core.fallback import GenerateRunner
from model_core.generation import GenerationParameters
from model_core.request import Request
from tests import tiny
from tests.tiny.encoder_decoder import bert_config, encoder_decoder

SHORT, LONG, SHORTER = (5, 6, 7, 2), tuple(range(5, 35)), (9, 2)


def bigbird_pegasus() -> PreTrainedModel:
    return tiny.TINY_ARCHITECTURES["bigbird-pegasus"]()


def bigbird_to_bert() -> PreTrainedModel:
    torch.manual_seed(3)
    kind = {"block_size": 2, "num_random_blocks": 1, "attention_type": "block_sparse"}
    encoder = bert_config(BigBirdConfig, hidden=32, layers=2, decoder=False, **kind)
    decoder = bert_config(BertConfig, hidden=32, layers=2, decoder=True)
    model: Any = encoder_decoder(encoder, decoder, bos=2, pad=0, eos=3)
    return model.eval()  # type: ignore[no-any-return]


@pytest.fixture(params=[bigbird_pegasus, bigbird_to_bert])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    built: PreTrainedModel = request.param()
    return built


@torch.inference_mode()
def fresh_outputs(model: PreTrainedModel, source: tuple[int, ...]) -> torch.Tensor:
    """Encoder outputs of a model that has seen nothing else."""
    ids = torch.tensor([source])
    encoder: Any = copy.deepcopy(model).get_encoder()
    outputs: torch.Tensor = encoder(ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
    return outputs


@torch.inference_mode()
def test_sources_after_each_other_get_what_a_fresh_encoder_gives_them(
    model: PreTrainedModel,
) -> None:
    sources = [LONG, SHORT, LONG, SHORTER, SHORT, LONG]
    expected = [fresh_outputs(model, source) for source in sources]
    encoder = Encoder(model, 0)
    for source, outputs in zip(sources, expected, strict=True):
        torch.testing.assert_close(encoder([source])[0], outputs, rtol=1e-5, atol=1e-5)
    remembering: Any = model.get_encoder()
    for source in (SHORT, LONG):
        ids = torch.tensor([source])
        last = remembering(ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
    assert not torch.allclose(last, expected[0], atol=1e-3), "the library forgets by itself now"


def test_generate_after_a_short_source_is_that_of_a_fresh_model() -> None:
    model = bigbird_pegasus()
    parameters = GenerationParameters(
        decoder_start_token_id=2, pad_token_id=0, eos_token_ids=(1,), max_length=20
    )
    runner = GenerateRunner(model, 0)
    sources = (SHORT, LONG, SHORTER, LONG[:20])
    for number, source in enumerate(sources):
        ids = torch.tensor([source])
        fresh: Any = copy.deepcopy(model)
        expected = fresh.generate(
            ids, attention_mask=torch.ones_like(ids), **parameters.generate_kwargs()
        )
        request = Request(str(number), source, parameters)
        runner.admit([request])
        ((_, output),) = runner.step().finished
        assert list(output.best.token_ids) == expected[0, 1:].tolist()


def test_an_error_leaves_the_mode_as_it_was_loaded() -> None:
    encoder: Any = bigbird_pegasus().get_encoder()
    mode = AttentionMode(encoder)

    def fail_in_full_attention() -> None:
        with mode.as_loaded(4):
            encoder.set_attention_type("original_full")
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        fail_in_full_attention()
    assert encoder.attention_type == "block_sparse"
    assert all(layer.self_attn.attention_type == "block_sparse" for layer in encoder.layers)
