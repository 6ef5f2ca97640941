"""The runner of CUDA over a tiny random model, on whatever device there is."""

from model_core.batching import may_pad
from model_core.cuda.attention import FusedAttention
from model_core.cuda.device import Device
from model_core.cuda.pages import num_pages_for
from model_core.cuda.ranking import fused_ranking
from model_core.cuda.runner import Capacity, PooledRunner
from model_core.cuda.suiting import fused
from model_core.encoder import Encoder
from model_core.families import find_family
from tests.lean import Lean, stop_strings_of

MAX_SOURCE_LEN = 80
MAX_TARGET_LEN = 160
MAX_BEAMS = 4


def pooled_runner(
    lean: Lean,
    *,
    num_slots: int = 16,
    num_pages: int | None = None,
    encoder_cache_bytes: int = 0,
    is_fused: bool = False,
    outputs_multiple: int = 1,
    device: Device | None = None,
) -> PooledRunner:
    family = find_family(lean.model)
    assert family is not None
    per_request = num_pages_for(MAX_SOURCE_LEN) + num_pages_for(MAX_TARGET_LEN * MAX_BEAMS)
    decoder = family[1](lean.model)
    if is_fused:
        decoder = fused(decoder)
    decoder = decoder.padded_to(outputs_multiple)
    return PooledRunner(
        Encoder(lean.model, lean.defaults.pad_token_id, may_pad=may_pad(lean.model)),
        decoder,
        Capacity(
            num_pages=num_slots * per_request if num_pages is None else num_pages,
            num_slots=num_slots,
            max_source_len=MAX_SOURCE_LEN,
            max_target_len=MAX_TARGET_LEN,
        ),
        encoder_cache_bytes=encoder_cache_bytes,
        stop_strings=stop_strings_of(lean.name),
        device=device,
        attention=FusedAttention(1) if is_fused else None,
        ranking=fused_ranking() if is_fused else None,
    )
