"""Encoder outputs of sources, each encoded once while it is remembered."""

from collections.abc import Sequence

from torch import Tensor

from model_core.encoder import Encoder, EncoderOutputCache, SourceIds
from model_core.runner import EncodeReport


class CachedEncoder:
    """An encoder and its encoder-output cache.

    Args:
        encoder: The checkpoint's encoder.
        max_bytes: Bound of the cache, 0 for none.
    """

    def __init__(self, encoder: Encoder, max_bytes: int = 0) -> None:
        self._encoder = encoder
        self._cache = EncoderOutputCache(max_bytes)

    def __call__(self, sources: Sequence[SourceIds]) -> tuple[list[Tensor], EncodeReport]:
        """Encoder outputs of each source, [source_len, hidden], and what they cost."""
        encoded: dict[SourceIds, Tensor] = {}
        for source_ids in sources:
            cached = self._cache.get(source_ids)
            if cached is not None:
                encoded[source_ids] = cached
        missing = list({source_ids for source_ids in sources if source_ids not in encoded})
        padded_tokens = 0
        encoder = self._encoder
        for batch in encoder.batches(missing):
            padded_tokens += len(batch) * encoder.padded_len(batch)
            for source_ids, outputs in zip(batch, encoder(batch), strict=True):
                encoded[source_ids] = outputs
                self._cache.put(source_ids, outputs)
        report = EncodeReport(
            num_encoded=len(missing),
            num_cached=len(sources) - len(missing),
            source_tokens=sum(map(len, missing)),
            padded_tokens=padded_tokens,
        )
        return [encoded[source_ids] for source_ids in sources], report
