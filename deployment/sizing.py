"""The table of sizes in docs/deployment.md: what `tandem plan` says of well-known shapes."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import (
    BartConfig,
    BertConfig,
    EncoderDecoderConfig,
    M2M100Config,
    MarianConfig,
    MBartConfig,
    PegasusConfig,
    PretrainedConfig,
    T5Config,
)

from app.planning.plan import PlanError, Workload, make_plan, size, slot_cost_of
from app.settings import SHIPPED, Settings
from model_core.checkpoint import CheckpointOptions, DType
from model_core.shape import Shape, read_shape

_GiB = 1024**3
_WORKLOADS = (
    Workload(source_len=128, max_length=128, num_beams=1),
    Workload(source_len=128, max_length=128, num_beams=4),
    Workload(source_len=1024, max_length=256, num_beams=4),
)
_STARTS: dict[str, Any] = {"decoder_start_token_id": 0}
_DEVICES: tuple[tuple[str, DType], ...] = (("cpu", "float32"), ("cuda", "float16"))


def _of_width(width: int, layers: int, heads: int, **others: Any) -> dict[str, Any]:
    """Keys that BART and its kin have for both sides."""
    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (
            ("layers", layers),
            ("attention_heads", heads),
            ("ffn_dim", 4 * width),
        )
    }
    return {"d_model": width, **sides, **others}


def _bert_pair() -> PretrainedConfig:
    pair = EncoderDecoderConfig.from_encoder_decoder_configs(
        BertConfig(), BertConfig(is_decoder=True, add_cross_attention=True)
    )
    pair.decoder_start_token_id, pair.pad_token_id = 101, 0
    return pair


def _shapes() -> dict[str, PretrainedConfig]:
    marian = {"vocab_size": 58101, "pad_token_id": 58100, "decoder_start_token_id": 58100}
    return {
        "Marian, 6 + 6 layers of 512 (opus-mt)": MarianConfig(
            **_of_width(512, 6, 8, max_position_embeddings=512, eos_token_id=0, **marian)
        ),
        "BERT pair, 12 + 12 layers of 768": _bert_pair(),
        "T5, 12 + 12 layers of 768 (t5-base)": T5Config(
            d_model=768, d_ff=3072, num_layers=12, num_heads=12, **_STARTS
        ),
        "T5, 24 + 24 layers of 1024 (t5-large)": T5Config(
            d_model=1024, d_ff=4096, num_layers=24, num_heads=16, **_STARTS
        ),
        "BART, 12 + 12 layers of 1024 (bart-large)": BartConfig(vocab_size=50264),
        "Pegasus, 16 + 16 layers of 1024 (pegasus-large)": PegasusConfig(
            **_of_width(1024, 16, 16, vocab_size=96103, max_position_embeddings=1024)
        ),
        "mBART-50, 12 + 12 layers of 1024": MBartConfig(
            vocab_size=250054, decoder_start_token_id=2
        ),
        "NLLB, 12 + 12 layers of 1024 (600M)": M2M100Config(
            vocab_size=256206, decoder_start_token_id=2
        ),
    }


def sizing_table() -> str:
    """Rows of Markdown, a shape each."""
    settings = Settings(max_source_tokens=4096)
    rows = [_HEAD]
    for name, on_cpu, on_cuda in _read_all():
        cost = slot_cost_of(on_cpu)
        slots = [size(workload.slot_bytes(cost)) for workload in _WORKLOADS]
        fitting = [
            _num_slots(on_cpu, 8 * _GiB, settings, num_workers=1),
            _num_slots(on_cpu, 8 * _GiB, settings, num_workers=2),
            _num_slots(on_cuda, 24 * _GiB, settings, num_workers=0),
        ]
        cells = [
            name,
            f"{on_cpu.num_parameters / 1e6:.0f} M",
            size(on_cpu.weight_bytes + on_cpu.copied_bytes),
            size(cost.layout.bytes_per_token),
            *slots,
            *fitting,
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _num_slots(shape: Shape, memory_bytes: int, settings: Settings, *, num_workers: int) -> str:
    try:
        plan = make_plan(shape, _WORKLOADS[1], memory_bytes, settings, num_workers=num_workers)
    except PlanError:
        return "none"
    return str(plan.num_slots)


def _read_all() -> Iterator[tuple[str, Shape, Shape]]:
    for name in ("translate-en-de", "summarize-en"):
        on_cpu, on_cuda = _read(str(SHIPPED / name))
        yield f"`{name}` (shipped)", on_cpu, on_cuda
    for name, config in _shapes().items():
        with TemporaryDirectory() as folder:
            config.to_json_file(Path(folder) / "config.json", use_diff=False)
            on_cpu, on_cuda = _read(folder)
        yield name, on_cpu, on_cuda


def _read(folder: str) -> list[Shape]:
    return [
        read_shape(folder, CheckpointOptions(device=device, dtype=dtype))
        for device, dtype in _DEVICES
    ]


_HEAD = """\
| shape | parameters | weights | a token | slot: 128 in, 128 out | the same, 4 beams | \
1024 in, 256 out, 4 beams | slots in 8 GiB, 1 worker | each of 2 workers | \
slots on 24 GiB, float16 |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"""
