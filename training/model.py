"""Builds the encoder-decoder and computes its training loss."""

from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, EncoderDecoderConfig, EncoderDecoderModel

from training.data import Batch
from training.loss import smoothed_cross_entropy
from training.tasks import ModelSize
from training.tokenizer import BOS_ID, EOS_ID, PAD_ID


def build_model(size: ModelSize, *, dropout: float) -> EncoderDecoderModel:
    """A randomly initialised model whose encoder, decoder and LM head share one embedding."""
    shared: dict[str, Any] = {
        "vocab_size": size.vocab,
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_attention_heads": size.num_heads,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": 0.0,
        "type_vocab_size": 1,
        "pad_token_id": PAD_ID,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
    }
    encoder = BertConfig(
        **shared,
        num_hidden_layers=size.encoder_layers,
        max_position_embeddings=size.max_source_len,
    )
    decoder = BertConfig(
        **shared,
        num_hidden_layers=size.decoder_layers,
        max_position_embeddings=size.max_target_len,
        is_decoder=True,
        add_cross_attention=True,
    )
    config = EncoderDecoderConfig.from_encoder_decoder_configs(
        encoder,
        decoder,
        decoder_start_token_id=BOS_ID,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
    )
    # Plain attention: on a CPU the backward pass of the fused kernel is far slower than it.
    config.encoder._attn_implementation = config.decoder._attn_implementation = "eager"
    model = EncoderDecoderModel(config)
    # Any: transformers types no submodule of a composed model.
    encoder_module: Any = model.encoder
    decoder_module: Any = model.decoder
    encoder_module.set_input_embeddings(decoder_module.get_input_embeddings())
    for embeddings in (encoder_module.embeddings, decoder_module.bert.embeddings):
        _init_sinusoidal(embeddings.position_embeddings.weight)
    return model


def _init_sinusoidal(positions: Tensor) -> None:
    """Start learned positions as sinusoids: late positions, seen rarely, resemble early ones."""
    num_positions, hidden = positions.shape
    position = torch.arange(num_positions).unsqueeze(1)
    frequency = torch.exp(torch.arange(0, hidden, 2) * (-torch.log(torch.tensor(1e4)) / hidden))
    with torch.no_grad():
        positions[:, 0::2] = torch.sin(position * frequency)
        positions[:, 1::2] = torch.cos(position * frequency)
        positions *= 0.02  # the spread of the other embeddings


def training_loss(
    model: EncoderDecoderModel, batch: Batch, *, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """The label-smoothed loss to minimise and the plain negative log-likelihood, per target token.

    Everything but the loss itself runs in the model's own dtype.
    """
    encoder: Any = model.encoder
    decoder: Any = model.decoder
    encoder_outputs = encoder(batch.source_ids, attention_mask=batch.source_mask)
    decoded = decoder.bert(
        batch.decoder_ids,
        encoder_hidden_states=encoder_outputs.last_hidden_state,
        encoder_attention_mask=batch.source_mask,
        use_cache=False,
    ).last_hidden_state
    real = batch.labels >= 0
    head = decoder.cls.predictions
    hidden = head.transform(decoded[real])
    return smoothed_cross_entropy(
        hidden,
        head.decoder.weight,
        head.decoder.bias,
        batch.labels[real],
        label_smoothing,
    )
