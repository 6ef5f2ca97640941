"""A checkpoint's shape from its configuration alone: no weight is read, or downloaded."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeGuard

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedModel

from model_core.checkpoint import CheckpointOptions
from model_core.choose_runner import GENERATE
from model_core.decoder import Decoder, Linear
from model_core.defaults import CheckpointFiles, read_defaults
from model_core.errors import CheckpointError
from model_core.families import find_family
from model_core.generation import GenerationDefaults
from model_core.repository import Repository
from model_core.sizes import max_len, target_vocab_size
from model_core.slot_cost import SlotCost

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a checkpoint takes, as far as its configuration says.

    Attributes:
        name: The folder's name, or the Hub id.
        architecture: Class of the model.
        family: Of its decoder, or `generate`. A checkpoint whose weights fail the self-check goes
            through `generate()` all the same.
        device: Type of the device it is to run on.
        dtype: Of its weights and caches; float32 where its linear layers run as int8.
        num_parameters: Of the whole model, shared ones once.
        weight_bytes: Of its parameters and buffers.
        copied_bytes: Of weights in further forms, besides the library's own: fused projections of
            the lean decoder, and on a CPU what is packed of it and of the encoder.
        slot_cost: What a request takes; None where it goes through `generate()`.
        defaults: Generation defaults.
        max_source_len: Encoder positions; None where they are relative.
        max_target_len: Decoder positions; None where they are relative.
    """

    name: str
    architecture: str
    family: str
    device: str
    dtype: torch.dtype
    num_parameters: int
    weight_bytes: int
    copied_bytes: int
    slot_cost: SlotCost | None
    defaults: GenerationDefaults
    max_source_len: int | None
    max_target_len: int | None


def read_shape(source: str, options: CheckpointOptions) -> Shape:
    """The shape of a checkpoint in a folder or on the Hub.

    Args:
        source: A folder, or a Hub id.
        options: How it is to be loaded; the device need not be there, and `auto` is CUDA where
            there is one.

    Raises:
        CheckpointError: Its configuration is no encoder-decoder's, or cannot be read.
    """
    files = Repository(source, options.revision)
    files.check()
    files.pin()
    config = files.json("config.json", required=True)
    try:
        kwargs = {**files.kwargs, "trust_remote_code": options.trust_remote_code}
        model_config = AutoConfig.from_pretrained(source, **kwargs)  # nosec B615  # as pinned
        device = device_type(options.device)
        dtype = _dtype(options.dtype, device, model_config)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForSeq2SeqLM.from_config(  # type: ignore[no-untyped-call]
                model_config, trust_remote_code=options.trust_remote_code
            ).to(dtype)
        _fill_buffers(model)
        generation = CheckpointFiles(
            config=config,
            generation_config=files.json("generation_config.json"),
            options=options.generation,
            options_name=options.generation_from,
        )
        is_int8 = options.dtype == "int8"
        packed_itemsize = _packed_itemsize(device, model.dtype, is_int8=is_int8)
        return _shape(files.name, model, generation, device, packed_itemsize)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise files.error(
            "the configuration of an encoder-decoder", f"{type(error).__name__}: {error}"
        ) from error


def _shape(
    name: str,
    model: PreTrainedModel,
    files: CheckpointFiles,
    device: str,
    packed_itemsize: int,
) -> Shape:
    vocab_size = target_vocab_size(model)
    max_target_len = max_len(model, "decoder")
    defaults = read_defaults(
        files,
        model_config=model.config,
        vocab_size=vocab_size,
        max_target_len=max_target_len,
    )
    found = None if defaults.unserved else find_family(model)
    decoder = None if found is None else found[1](model)
    return Shape(
        name=name,
        architecture=type(model).__name__,
        family=GENERATE if found is None else found[0],
        device=device,
        dtype=model.dtype,
        num_parameters=sum(each.numel() for each in model.parameters()),
        weight_bytes=sum(each.nbytes for each in (*model.parameters(), *model.buffers())),
        copied_bytes=0 if decoder is None else _copied_bytes(decoder, model, packed_itemsize),
        slot_cost=None if decoder is None else SlotCost(decoder.cache_layout, vocab_size),
        defaults=defaults,
        max_source_len=max_len(model, "encoder"),
        max_target_len=max_target_len,
    )


def _fill_buffers(model: PreTrainedModel) -> None:
    """Give buffers values: families ask whether BART's bias, all zeros as a rule, has others."""
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.zeros_like(buffer, device="cpu"))


def _copied_bytes(decoder: Decoder, model: PreTrainedModel, packed_itemsize: int) -> int:
    own = {id(each) for each in model.parameters()}
    weights = {id(each.weight): each.weight for each in _linears(decoder)}
    fused = sum(weight.nbytes for key, weight in weights.items() if key not in own)
    encoder: nn.Module = model.get_encoder()
    of_encoder = {id(each.weight): each.weight for each in encoder.modules() if _is_linear(each)}
    packed = sum(weight.numel() for weight in (*weights.values(), *of_encoder.values()))
    return fused + packed * packed_itemsize


def _is_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    return type(module) is nn.Linear  # as what is packed


def _packed_itemsize(device: str, dtype: torch.dtype, *, is_int8: bool) -> int:
    """Bytes of a packed weight, on processors that have kernels for it; 0 where none has."""
    if device != "cpu" or dtype == torch.float16:
        return 0
    return 1 if is_int8 else dtype.itemsize


def _linears(part: Any) -> Iterator[Linear]:
    """The linear layers of a decoder, or of a part of one."""
    if isinstance(part, Linear):
        yield part
    elif isinstance(part, tuple):
        for each in part:
            yield from _linears(each)
    elif is_dataclass(part):
        for each in fields(part):
            yield from _linears(getattr(part, each.name))


def device_type(name: str) -> str:
    """Of a device as `CheckpointOptions` names it: `cpu` or `cuda`; it need not be there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name.partition(":")[0]


def _dtype(name: str, device: str, model_config: Any) -> torch.dtype:
    """As a checkpoint is loaded: what its file says counts on CUDA, if it is half precision."""
    if name in _DTYPES:
        return _DTYPES[name]
    stated = model_config.dtype if device == "cuda" and name == "auto" else None
    return stated if stated in (torch.bfloat16, torch.float16) else torch.float32
