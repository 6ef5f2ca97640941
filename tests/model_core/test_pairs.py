"""Pairs of an encoder and a decoder: what is special about them, next to parity in general."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BertModel,
    CanineConfig,
    EncoderDecoderModel,
    ErnieConfig,
    GPT2Config,
    PreTrainedModel,
    RemBertConfig,
    XGLMConfig,
)

from model_core.checkpoint import CheckpointOptions, load_checkpoint
from model_core.choose_runner import choose_runner
from model_core.encoder import Encoder
from model_core.engine import Engine
from model_core.errors import CheckpointError
from model_core.families import find_family
from model_core.generation import GenerationParameters
from model_core.lean import LeanRunner
from model_core.request import Output
from model_core.scheduler import EngineLimits
from model_core.self_check import check_decoder
from tests import tiny
from tests.parity import assert_same, generate_alone
from tests.tiny.encoder_decoder import bert_config, encoder_decoder
from tests.tiny.tokenizers import TOKENIZERS

OPTIONS = CheckpointOptions(device="cpu")


def run(runner: Any, work: list[tuple[tuple[int, ...], GenerationParameters]]) -> list[Output]:
    engine = Engine({"pair": runner}, EngineLimits())
    futures = [engine.submit("pair", *each) for each in work]
    while engine.step():
        pass
    return [future.result(timeout=0) for future in futures]


def lean_runner(model: PreTrainedModel, pad_token_id: int) -> LeanRunner:
    family = find_family(model)
    assert family is not None
    with torch.no_grad():
        decoder = family[1](model)
    return LeanRunner(Encoder(model, pad_token_id), decoder)


def drawn(model: PreTrainedModel) -> PreTrainedModel:
    """Weights large enough that a wrong one shows."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def save(model: PreTrainedModel, folder: Path, tokenizer: str = "bert2bert") -> Path:
    model.save_pretrained(folder)
    TOKENIZERS[tokenizer](folder).save_pretrained(folder)
    return folder


def edit_decoder(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["decoder"].update(changes)
    path.write_text(json.dumps(config))


# Pad tokens inside a target ----------------------------------------------------------------------


def usual_lack(model: Any, *, token_id: int) -> float:
    """What the logit of a token lacks to be chosen in half of all steps."""
    ids = torch.tensor([tiny.random_sources(1)[0]])
    result = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_length=40,
        min_length=40,
        num_beams=1,
        output_logits=True,
        return_dict_in_generate=True,
    )
    logits = torch.cat(result.logits)
    return float((logits.max(dim=-1).values - logits[:, token_id]).median())


@pytest.mark.parametrize("name", ["roberta2roberta", "bert2roberta", "xlmr2xlmr", "m2m100"])
@pytest.mark.parametrize("pad_token_id", [1, 4])
def test_targets_with_the_token_that_counts_no_position(name: str, pad_token_id: int) -> None:
    """Token 1 takes the padding position, also where the generation defaults pad with another."""
    model: Any = tiny.LEAN_ARCHITECTURES[name]()
    defaults = GenerationParameters(
        decoder_start_token_id=model.generation_config.decoder_start_token_id,
        pad_token_id=pad_token_id,
        eos_token_ids=(model.generation_config.eos_token_id,),
        max_length=24,
        no_repeat_ngram_size=2,  # else some do nothing else
        sequence_bias=(((1,), usual_lack(model, token_id=1)),),
    )
    work = [
        (tuple(source), replace(defaults, num_beams=num_beams))
        for source in tiny.random_sources(4)
        for num_beams in (1, 3)
    ]

    outputs = run(lean_runner(model, pad_token_id), work)

    for (source_ids, parameters), found in zip(work, outputs, strict=True):
        assert_same(found, generate_alone(model, source_ids, parameters))
    followed = [
        found.best.token_ids.index(1) < 12 for found in outputs if 1 in found.best.token_ids
    ]
    assert sum(followed) >= 3


# Decoders ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"scale_attn_by_inverse_layer_idx": True},
        {"scale_attn_weights": False},
        {"reorder_and_upcast_attn": True, "n_inner": 40, "activation_function": "relu"},
    ],
)
def test_gpt2_decodes_as_its_configuration_says(extra: dict[str, Any]) -> None:
    decoder = GPT2Config(
        vocab_size=60, n_embd=32, n_layer=3, n_head=4, n_positions=32, **{"bos_token_id": 0} | extra
    )
    encoder = bert_config(BertConfig, hidden=32, layers=1, decoder=False)
    model = drawn(encoder_decoder(encoder, decoder, bos=0, pad=0, eos=0))
    family = find_family(model)
    assert family is not None
    with torch.no_grad():
        lean = family[1](model)

    check = check_decoder(
        model,
        lean,
        Encoder(model, 0),
        vocab_size=60,
        pad_token_id=0,
        decoder_start_token_id=0,
    )

    assert check.passed, check


def test_an_encoder_that_the_self_check_cannot_try_is_served_through_generate(
    tmp_path: Path,
) -> None:
    """CANINE shortens sources by four: it takes none of three tokens, and has no vocabulary."""
    encoder = CanineConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=64,
        num_hash_buckets=32,
    )
    decoder = bert_config(BertConfig, hidden=32, layers=2, decoder=True)
    model = drawn(encoder_decoder(encoder, decoder, bos=2, pad=0, eos=3))
    checkpoint = load_checkpoint(str(save(model, tmp_path)), OPTIONS)
    assert checkpoint.source_vocab_size > 0x10000

    choice = choose_runner(checkpoint)

    assert choice.family == "generate"
    parameters = GenerationParameters(
        decoder_start_token_id=2, pad_token_id=0, eos_token_ids=(3,), max_length=12
    )
    source_ids = tuple(map(ord, "Wo ist der Bahnhof?"))
    (found,) = run(choice.runner, [(source_ids, parameters)])
    assert_same(found, generate_alone(checkpoint.model, source_ids, parameters))


@pytest.mark.parametrize("kind", [ErnieConfig, RemBertConfig])
def test_other_decoders_go_through_generate(kind: type[Any], tmp_path: Path) -> None:
    encoder = bert_config(BertConfig, hidden=40, layers=1, decoder=False)
    extra: dict[str, Any] = {}
    if kind is RemBertConfig:
        extra = {"input_embedding_size": 24, "output_embedding_size": 40}
    decoder = bert_config(kind, hidden=32, layers=2, decoder=True, pad_token_id=0, **extra)
    model = drawn(encoder_decoder(encoder, decoder, bos=2, pad=0, eos=3))
    checkpoint = load_checkpoint(str(save(model, tmp_path)), OPTIONS)

    choice = choose_runner(checkpoint)

    assert choice.family == "generate"
    parameters = GenerationParameters(
        decoder_start_token_id=2, pad_token_id=0, eos_token_ids=(3,), max_length=12, num_beams=2
    )
    work = [(tuple(source), parameters) for source in tiny.random_sources(3)]
    for (source_ids, _), found in zip(work, run(choice.runner, work), strict=True):
        assert_same(found, generate_alone(checkpoint.model, source_ids, parameters))


@pytest.mark.parametrize("name", ["bert2bert", "bert2gpt2"])
def test_a_decoder_without_cross_attention_is_refused(name: str, tmp_path: Path) -> None:
    folder = tiny.build_tiny_checkpoint(name, tmp_path)
    edit_decoder(folder, add_cross_attention=False)
    with pytest.raises(CheckpointError, match="expected a decoder with cross-attention"):
        load_checkpoint(str(folder), OPTIONS)


def test_a_decoder_that_passes_over_its_source_is_refused(tmp_path: Path) -> None:
    decoder = XGLMConfig(
        vocab_size=60,
        d_model=32,
        num_layers=1,
        attention_heads=4,
        ffn_dim=40,
        max_position_embeddings=32,
        add_cross_attention=True,
    )
    encoder = bert_config(BertConfig, hidden=32, layers=1, decoder=False)
    folder = save(encoder_decoder(encoder, decoder, bos=0, pad=1, eos=2), tmp_path)
    with torch.no_grad():
        model: Any = EncoderDecoderModel.from_pretrained(folder)
        for layer in model.decoder.model.layers:
            layer.encoder_attn.out_proj.weight.zero_()
        model.save_pretrained(folder)
    with pytest.raises(CheckpointError, match="XGLMForCausalLM, which passes over its source"):
        load_checkpoint(str(folder), OPTIONS)


# Pairs as the library makes them -----------------------------------------------------------------


@pytest.fixture
def warm_started(tmp_path: Path) -> Path:
    """A pair of two pretrained parts, saved as it was."""
    torch.manual_seed(0)  # cross-attention is new
    encoder = drawn(BertModel(bert_config(BertConfig, hidden=32, layers=2, decoder=False)))
    decoder = drawn(BertLMHeadModel(bert_config(BertConfig, hidden=32, layers=2, decoder=False)))
    encoder.save_pretrained(tmp_path / "encoder")
    decoder.save_pretrained(tmp_path / "decoder")
    pair = EncoderDecoderModel.from_encoder_decoder_pretrained(
        str(tmp_path / "encoder"), str(tmp_path / "decoder")
    )
    return save(pair, tmp_path / "pair")


def test_a_pair_of_pretrained_parts_needs_a_start_token(warm_started: Path) -> None:
    with pytest.raises(CheckpointError, match=r"decoder_start_token_id.*generation settings"):
        load_checkpoint(str(warm_started), OPTIONS)


def test_a_pair_of_pretrained_parts_is_served_with_the_settings_of_its_operator(
    warm_started: Path,
) -> None:
    named = {"decoder_start_token_id": 2, "eos_token_id": 3, "num_beams": 2, "max_length": 14}
    checkpoint = load_checkpoint(str(warm_started), replace(OPTIONS, generation=named))
    choice = choose_runner(checkpoint)
    assert choice.family == "bert"
    values = checkpoint.defaults.values
    assert (values.num_beams, values.max_length) == (2, 14)

    parameters = GenerationParameters(
        decoder_start_token_id=checkpoint.defaults.decoder_start_token_id,
        pad_token_id=checkpoint.defaults.pad_token_id,
        eos_token_ids=(3,),
        max_length=14,
        num_beams=2,
    )
    work = [(tuple(source), parameters) for source in tiny.random_sources(4)]
    model: Any = EncoderDecoderModel.from_pretrained(warm_started)
    for (source_ids, _), found in zip(work, run(choice.runner, work), strict=True):
        assert_same(found, generate_alone(checkpoint.model, source_ids, parameters))
        ids = torch.tensor([source_ids])
        expected = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **named)
        assert [2, *found.best.token_ids] == expected[0].tolist()


def test_a_source_gets_no_special_tokens_where_the_operator_says_so(tmp_path: Path) -> None:
    from model_core.text import TextProcessor

    folder = tiny.build_tiny_checkpoint("bert2bert", tmp_path)
    source_ids = []
    for adds in (True, False):
        checkpoint = load_checkpoint(str(folder), replace(OPTIONS, add_special_tokens=adds))
        prepared = TextProcessor(checkpoint).prepare(tiny.SENTENCES[0], task="translate")
        tokenizer: Any = checkpoint.tokenizer
        expected = tokenizer(tiny.SENTENCES[0], add_special_tokens=adds).input_ids
        assert prepared.source_ids == tuple(expected)
        source_ids.append(prepared.source_ids)
    assert source_ids[0] == (2, *source_ids[1], 3)
