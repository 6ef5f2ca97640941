"""Systems that decode a workload: Tandem's engine, transformers, CTranslate2."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.workloads import EOS, Item, Workload
from model_core.batching import may_pad
from model_core.encoder import Encoder
from model_core.engine import Engine
from model_core.families import find_family
from model_core.generation import GenerationParameters
from model_core.lean import LeanRunner
from model_core.scheduler import EngineLimits

_BATCH_SIZE = 32  # of the systems that decode static batches


class System(ABC):
    """One way to decode a workload on this process's threads."""

    def __init__(self, workload: Workload, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        self.workload = workload
        self.num_threads = num_threads
        self.load()

    @abstractmethod
    def load(self) -> None:
        """Get ready; not timed."""

    @abstractmethod
    def decode(self, items: Sequence[Item]) -> list[int]:
        """Decode all items, which are there at once; gives how many tokens came, in any order."""


class Tandem(System):
    """The engine, driven step by step as its own thread does."""

    def load(self) -> None:
        """See `System`."""
        model = self.workload.model()
        family = find_family(model)
        if family is None:
            raise ValueError(f"{type(model).__name__} has no lean decoder")
        self._defaults: Any = model.generation_config
        encoder = Encoder(model, self._defaults.pad_token_id, may_pad=may_pad(model))
        with torch.no_grad():
            self._runner = LeanRunner(encoder, family[1](model))

    def decode(self, items: Sequence[Item]) -> list[int]:
        """See `System`."""
        limits = EngineLimits(max_waiting_requests=len(items), max_waiting_tokens=10**9)
        engine = Engine({"model": self._runner}, limits)
        futures = [
            engine.submit("model", item.source_ids, self._parameters(item)) for item in items
        ]
        while engine.step():
            pass
        return [future.result(timeout=0).generated_tokens for future in futures]

    def _parameters(self, item: Item) -> GenerationParameters:
        return GenerationParameters(
            decoder_start_token_id=self._defaults.decoder_start_token_id,
            pad_token_id=self._defaults.pad_token_id,
            eos_token_ids=(EOS,),
            max_length=item.target_len + 1,
            min_length=item.target_len + 1,
            num_beams=self.workload.num_beams,
        )


class Transformers(System):
    """`generate()` over static batches of equal target lengths, sorted by source length."""

    def load(self) -> None:
        """See `System`."""
        self._model: Any = self.workload.model()

    @torch.inference_mode()
    def decode(self, items: Sequence[Item]) -> list[int]:
        """See `System`."""
        lengths = []
        for target_len, batch in _static_batches(items):
            longest = max(len(item.source_ids) for item in batch)
            pad = self._model.generation_config.pad_token_id
            padded = [
                [*each.source_ids, *[pad] * (longest - len(each.source_ids))] for each in batch
            ]
            input_ids = torch.tensor(padded)
            mask = torch.tensor(
                [[1] * len(e.source_ids) + [0] * (longest - len(e.source_ids)) for e in batch]
            )
            rows = self._model.generate(
                input_ids=input_ids,
                attention_mask=mask,
                num_beams=self.workload.num_beams,
                min_length=target_len + 1,
                max_length=target_len + 1,
            )
            lengths += [rows.shape[1] - 1] * len(batch)
        return lengths


class CTranslate2(System):
    """CTranslate2 over static batches of equal target lengths, converted in memory."""

    compute_type = "float32"

    def load(self) -> None:
        """See `System`."""
        import ctranslate2
        from ctranslate2.converters import transformers as converters

        model = self.workload.model()
        loader = converters._MODEL_LOADERS.get(type(model.config).__name__)
        if loader is None:
            raise ValueError(f"CTranslate2 does not convert {type(model).__name__}")
        # What the converter reads, and transformers 5 no longer writes.
        config: Any = model.config
        config.normalize_before, config.normalize_embedding = False, True
        spec = loader(model, _Vocabulary(self.workload.vocab_size, model))
        spec.validate()
        spec.optimize(quantization=None)
        with TemporaryDirectory() as folder:
            spec.save(folder)
            self._translator = ctranslate2.Translator(
                str(Path(folder)),
                device="cpu",
                compute_type=self.compute_type,
                intra_threads=self.num_threads,
            )

    def decode(self, items: Sequence[Item]) -> list[int]:
        """See `System`."""
        lengths = []
        for target_len, batch in _static_batches(items):
            sources = [[_token(token_id) for token_id in item.source_ids] for item in batch]
            results = self._translator.translate_batch(
                sources,
                beam_size=self.workload.num_beams,
                min_decoding_length=target_len,
                max_decoding_length=target_len,
            )
            lengths += [len(result.hypotheses[0]) for result in results]
        return lengths


class CTranslate2Int8(CTranslate2):
    """The same with int8 weights and activations."""

    compute_type = "int8"


SYSTEMS: dict[str, type[System]] = {
    "tandem": Tandem,
    "transformers": Transformers,
    "ctranslate2": CTranslate2,
    "ctranslate2-int8": CTranslate2Int8,
}


class _Vocabulary:
    """What CTranslate2's converters ask a tokenizer for: random models have no other words."""

    def __init__(self, size: int, model: Any) -> None:
        self._size = size
        special = {EOS: "</s>", model.config.pad_token_id: "<pad>"}
        self._names = {token_id: special.get(token_id, f"t{token_id}") for token_id in range(size)}
        self.eos_token, self.pad_token = "</s>", "<pad>"
        self.bos_token, self.unk_token = self._names[3], self._names[4]  # no source has them

    def convert_ids_to_tokens(self, token_id: int) -> str:
        """One name."""
        return self._names[token_id]

    def get_vocab(self) -> dict[str, int]:
        """Ids by name."""
        return {name: token_id for token_id, name in self._names.items()}


def _token(token_id: int) -> str:
    return "</s>" if token_id == EOS else f"t{token_id}"


def _static_batches(items: Sequence[Item]) -> Iterator[tuple[int, list[Item]]]:
    """Batches of one target length, sorted by source length."""
    by_target: dict[int, list[Item]] = defaultdict(list)
    for item in sorted(items, key=lambda item: len(item.source_ids)):
        by_target[item.target_len].append(item)
    for target_len, alike in sorted(by_target.items()):
        for start in range(0, len(alike), _BATCH_SIZE):
            yield target_len, alike[start : start + _BATCH_SIZE]
