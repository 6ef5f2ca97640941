"""How many pages a checkpoint gets: from what is free, not from what might be asked for."""

from dataclasses import dataclass

import torch

from model_core.cuda.pages import num_pages_for, page_bytes
from model_core.cuda.runner import Capacity
from model_core.errors import CheckpointError
from model_core.key_values import CacheLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaPlan:
    """What one checkpoint may take of its device.

    Attributes:
        num_bytes: Memory for pages.
        num_slots: Requests that run together.
        max_source_len: Longest source.
        max_target_len: Longest target.
        max_num_beams: Widest beam.
    """

    num_bytes: int
    num_slots: int
    max_source_len: int
    max_target_len: int
    max_num_beams: int

    def capacity(self, layout: CacheLayout) -> Capacity:
        """Pages for as many of the largest requests as may run together, or as memory allows.

        Raises:
            CheckpointError: There is no room for one of the longest, without beams.
        """
        source_pages = num_pages_for(self.max_source_len)
        most = source_pages + num_pages_for(self.max_target_len * self.max_num_beams)
        least = source_pages + num_pages_for(self.max_target_len)
        num_pages = min(self.num_slots * most, self.num_bytes // page_bytes(layout))
        if num_pages < least:
            raise CheckpointError(
                f"the attention caches may take {self.num_bytes} bytes of the device: expected at "
                f"least {least * page_bytes(layout)}, for a source of {self.max_source_len} and a "
                f"target of {self.max_target_len} tokens"
            )
        return Capacity(
            num_pages=num_pages,
            num_slots=self.num_slots,
            max_source_len=self.max_source_len,
            max_target_len=self.max_target_len,
        )


def free_bytes(device: torch.device) -> int:
    """Memory of a CUDA device that nobody has taken."""
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return int(free)
