"""Libraries that decode requests: Tandem's engine, transformers, CTranslate2."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch

from benchmarks.batches import by_target_len, static_batches
from benchmarks.workloads import Item, Task


@dataclass(frozen=True)
class Knobs:
    """What is tuned for each system.

    Attributes:
        max_batch_size: Most requests in a static batch.
        length_slack: See `static_batches`.
        wait_ms: How long a server waits for a batch to fill.
        num_threads: Of one batch.
        num_workers: Batches that are decoded side by side.
        device: `cpu` or `cuda`.
        dtype: Of weights and products.
    """

    max_batch_size: int = 32
    length_slack: float = 0.0
    wait_ms: float = 0.0
    num_threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    num_workers: int = 1
    device: str = "cpu"
    dtype: str = "float32"


@dataclass(frozen=True)
class Answer:
    """What a request got.

    Attributes:
        text: The target.
        num_tokens: Its tokens, those that were asked for.
    """

    text: str
    num_tokens: int


class Library(ABC):
    """A checkpoint, loaded by one library.

    Raises:
        ValueError: The library does not take the checkpoint; says why.
    """

    def __init__(self, folder: Path, task: Task, knobs: Knobs) -> None:
        reason = self.refusal(folder)
        if reason:
            raise ValueError(reason)
        torch.set_num_threads(knobs.num_threads)
        self.folder = folder
        self.task = task
        self.knobs = knobs
        self.load()

    @classmethod
    def refusal(cls, folder: Path) -> str:
        """Why the library does not take a checkpoint; empty where it does."""
        return ""

    @abstractmethod
    def load(self) -> None:
        """Get ready; not timed."""

    @abstractmethod
    def decode(self, items: Sequence[Item]) -> list[Answer]:
        """Answers of all requests, in their order; they are there at once."""

    def close(self) -> None:  # noqa: B027 (most have nothing that runs)
        """Stop what runs beside the caller."""


class Tandem(Library):
    """The engine as the service sets it up.

    With several workers it runs in their processes, and on a GPU in a thread, as a server's does;
    with one worker it is driven here, step by step, as that thread does.
    """

    max_running_requests: int | None = None
    max_encode_tokens: int | None = None
    """Other than the server's own choices."""

    def load(self) -> None:
        """See `Library`."""
        from app.opening import engine_limits, worker_command
        from app.settings import Settings
        from model_core.checkpoint import CheckpointOptions
        from model_core.generation import GenerationLimits
        from model_core.models import ModelSource, load_models
        from model_core.workers.start import WorkerOptions

        options: dict[str, Any] = {"dtype": self.knobs.dtype, "device": self.knobs.device}
        # All requests are there at once; how many run together is the server's own choice.
        limits = replace(
            engine_limits(Settings()), max_waiting_requests=10**6, max_waiting_tokens=10**9
        )
        for name in ("max_running_requests", "max_encode_tokens"):
            if getattr(self, name) is not None:
                limits = replace(limits, **{name: getattr(self, name)})
        source = ModelSource("model", str(self.folder))
        num_workers = self.knobs.num_workers
        workers = WorkerOptions(num_workers, worker_command("text")) if num_workers > 1 else None
        loaded = load_models(
            [source],
            CheckpointOptions(**options),
            limits,
            GenerationLimits(),
            num_threads=self.knobs.num_threads * num_workers,
            workers=workers,
        )
        # While a GPU decodes, its host prepares the next texts.
        self._runs_alone = workers is not None or self.knobs.device == "cuda"
        if self._runs_alone:
            loaded.start()
        self._loaded = loaded
        self._served = loaded.models["model"]
        if self._served.reason is not None:
            raise ValueError(f"no lean decoder: {self._served.reason}")

    def decode(self, items: Sequence[Item]) -> list[Answer]:
        """See `Library`."""
        futures = self._submit(items)
        if not self._runs_alone:
            while self.step():
                pass
        outputs = [future.result() for future in futures]
        detokenize = self._served.text.detokenize
        return [
            Answer(detokenize(output.best.token_ids), output.generated_tokens) for output in outputs
        ]

    def close(self) -> None:
        """See `Library`."""
        self._loaded.close()

    def begin(self, items: Sequence[Item]) -> None:
        """Admit requests, for `step`."""
        self._submit(items)

    def step(self) -> bool:
        """One step of all requests; whether there was one."""
        return self._served.engine.step()

    def _submit(self, items: Sequence[Item]) -> list[Any]:
        """Futures of requests that come at once; a loop of its own begins with the first."""
        return [self._served.submit(self._prepare(item)) for item in items]

    def _prepare(self, item: Item) -> Any:
        from model_core.generation import GenerationOverrides

        overrides = GenerationOverrides(**cast(Any, item.parameters))
        return self._served.text.prepare(item.text, task=self.task, overrides=overrides)


class BatchLibrary(Library):
    """A library that decodes static batches."""

    def decode(self, items: Sequence[Item]) -> list[Answer]:
        """See `Library`."""
        knobs = self.knobs
        batches = list(static_batches(items, knobs.max_batch_size, knobs.length_slack))
        answers: dict[int, Answer] = {}
        with ThreadPoolExecutor(knobs.num_workers) as pool:
            decoded = pool.map(self.decode_batch, ([items[i] for i in each] for each in batches))
            for batch, results in zip(batches, decoded, strict=True):
                answers |= dict(zip(batch, results, strict=True))
        return [answers[index] for index in range(len(items))]

    @abstractmethod
    def decode_batch(self, items: Sequence[Item]) -> list[Answer]:
        """Answers of one batch, all decoded to its longest target."""


class Transformers(BatchLibrary):
    """`generate()`, batch by batch."""

    def load(self) -> None:
        """See `Library`."""
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        tokenizers: Any = AutoTokenizer
        self._tokenizer = tokenizers.from_pretrained(self.folder)
        dtype = getattr(torch, self.knobs.dtype)
        model = AutoModelForSeq2SeqLM.from_pretrained(self.folder, dtype=dtype)
        self._model: Any = model.to(self.knobs.device).eval()
        # In its favour: cuDNN's attention is made anew for every shape of a batch.
        torch.backends.cuda.enable_cudnn_sdp(False)

    @torch.inference_mode()
    def decode_batch(self, items: Sequence[Item]) -> list[Answer]:
        """See `BatchLibrary`."""
        torch.set_num_threads(self.knobs.num_threads)  # each thread has its own count
        inputs = self._tokenizer(
            [item.text for item in items],
            return_tensors="pt",
            padding=True,
            return_token_type_ids=False,
        ).to(self.knobs.device)
        rows = self._model.generate(**inputs, **_longest(items).parameters)
        return [self._answer(row, item) for row, item in zip(rows, items, strict=True)]

    def _answer(self, row: torch.Tensor, item: Item) -> Answer:
        token_ids = row[1:].tolist()  # behind the start token
        eos = self._tokenizer.eos_token_id
        length = item.target_len
        if length is None and eos in token_ids:
            length = token_ids.index(eos) + 1
        token_ids = token_ids[:length]
        return Answer(self._tokenizer.decode(token_ids, skip_special_tokens=True), len(token_ids))


class CTranslate2(BatchLibrary):
    """CTranslate2, converted when it is loaded."""

    @classmethod
    def refusal(cls, folder: Path) -> str:
        """See `Library`."""
        if _ct2_loader(folder) is not None:
            return ""
        from transformers import AutoConfig

        (architecture,) = AutoConfig.from_pretrained(folder).architectures
        return f"CTranslate2 does not convert `{architecture}`"

    def load(self) -> None:
        """See `Library`."""
        import ctranslate2
        from transformers import AutoTokenizer

        tokenizers: Any = AutoTokenizer
        self._tokenizer = tokenizers.from_pretrained(self.folder)
        with TemporaryDirectory() as folder:
            _convert(self.folder, self._tokenizer, folder)
            self._translator = ctranslate2.Translator(
                folder,
                device=self.knobs.device,
                compute_type=self.knobs.dtype,
                inter_threads=self.knobs.num_workers,
                intra_threads=self.knobs.num_threads,
            )

    def decode_batch(self, items: Sequence[Item]) -> list[Answer]:
        """See `BatchLibrary`."""
        tokenizer = self._tokenizer
        sources = [
            tokenizer.convert_ids_to_tokens(tokenizer(item.text)["input_ids"]) for item in items
        ]
        longest = _longest(items)
        lengths = {}
        if longest.target_len is not None:
            lengths["min_decoding_length"] = longest.target_len
            lengths["max_decoding_length"] = longest.target_len
        results = self._translator.translate_batch(sources, beam_size=longest.num_beams, **lengths)
        return [
            self._answer(result.hypotheses[0], item)
            for result, item in zip(results, items, strict=True)
        ]

    def _answer(self, tokens: list[str], item: Item) -> Answer:
        tokens = tokens[: item.target_len]
        token_ids = self._tokenizer.convert_tokens_to_ids(tokens)
        return Answer(self._tokenizer.decode(token_ids, skip_special_tokens=True), len(tokens))


def _convert(checkpoint: Path, tokenizer: Any, folder: str) -> None:
    """What `ct2-transformers-converter` does, and what it lacks under transformers 5."""
    from transformers import AutoModelForSeq2SeqLM

    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint, dtype=torch.float32)
    config: Any = model.config
    # What the converter reads, and transformers 5 no longer writes.
    config.normalize_before, config.normalize_embedding = False, True
    with torch.no_grad():
        spec = _ct2_loader(checkpoint)(model, tokenizer)
    spec.validate()
    spec.optimize(quantization=None)
    spec.save(folder)


def _ct2_loader(checkpoint: Path) -> Any:
    """CTranslate2's converter of an architecture; None where it has none."""
    from ctranslate2.converters import transformers as converters
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(checkpoint)
    return converters._MODEL_LOADERS.get(type(config).__name__)


def _longest(items: Sequence[Item]) -> Item:
    return max(items, key=by_target_len)
