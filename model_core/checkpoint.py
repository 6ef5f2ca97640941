"""A checkpoint in a folder or on the Hub -> model, tokenizer, generation defaults, languages."""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

from model_core.cross_attention import check_cross_attention
from model_core.defaults import CheckpointFiles, read_defaults
from model_core.encoder import GlobalAttention
from model_core.errors import CheckpointError
from model_core.generation import GenerationDefaults, Task
from model_core.language_files import read_languages
from model_core.languages import Languages
from model_core.packing import has_packed_kernels
from model_core.repository import Repository
from model_core.sizes import max_len, source_vocab_size, target_vocab_size
from model_core.stopping import StopStrings
from model_core.tokenizer import load_tokenizer
from model_core.tying import tie_decoder_to_encoder

logger = logging.getLogger(__name__)

DType = Literal["auto", "float32", "bfloat16", "float16", "int8"]

_DEVICE = re.compile(r"cpu|cuda(:(\d+))?")
_HALF_PRECISION = (torch.bfloat16, torch.float16)
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointOptions:
    """How to load a checkpoint.

    Attributes:
        dtype: `auto` is float32 on a CPU, whatever the file holds; on CUDA it is the file's, if
            that is float16 or bfloat16, and float32 otherwise. `int8` (linear layers in int8, all
            else in float32) needs a CPU.
        device: `auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`.
        revision: Branch, tag or commit on the Hub.
        allow_pickle: Whether weights may be pickles, which can run any code.
        trust_remote_code: Whether Python code of the checkpoint may run.
        tokenizer: Keyword arguments for `AutoTokenizer.from_pretrained`.
        tokenizer_name: Where the tokenizer is, if not with the weights.
        target_tokenizer_name: Where the tokenizer of the answers is, if they have their own.
        add_special_tokens: Whether the tokenizer adds its special tokens to a source.
        languages: Source and target language, where the files do not say.
        generation: Generation defaults that go before the checkpoint's own.
        generation_from: Where the operator wrote them, for errors.
        tie_encoder_decoder: Whether the decoder shares the encoder's weights; None: as
            `config.json` says.
        global_attention: Which source tokens of LED attend to all: none, or the first.
    """

    dtype: DType = "auto"
    device: str = "auto"
    revision: str | None = None
    allow_pickle: bool = False
    trust_remote_code: bool = False
    tokenizer: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    tokenizer_name: str | None = None
    target_tokenizer_name: str | None = None
    add_special_tokens: bool = True
    languages: tuple[str, str] | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    generation_from: str = "options"
    tie_encoder_decoder: bool | None = None
    global_attention: GlobalAttention = "none"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """A loaded checkpoint: everything that is read from its files.

    Attributes:
        name: The folder's name, or the Hub id.
        source: Folder or Hub id, as it was given.
        revision: Commit of a Hub id; None for a folder.
        architecture: Class of the model.
        model: In evaluation mode, without gradients, on its device and in its dtype; in float32 if
            that is int8, which is made of it later.
        tokenizer: Of sources; not safe to share among threads, see `model_core.text`.
        target_tokenizer: Of answers; the same one, unless they have their own.
        stop_strings: Criteria of requests whose answers end with given strings.
        defaults: Generation defaults; `for_task` has those of a single task.
        languages: Empty where the checkpoint says nothing of languages.
        task_prefixes: Text before a source, by the name of the task in `task_specific_params`.
        max_source_len: Encoder positions; None where they are relative.
        max_target_len: Decoder positions; None where they are relative.
        vocab_size: Logits of one step.
        source_vocab_size: Token ids that the encoder knows.
        device: Where the model is.
        dtype: Of its weights; int8 if its linear layers are to run so.
        add_special_tokens: As in `CheckpointOptions`.
        global_attention: As in `CheckpointOptions`.
    """

    name: str
    source: str
    revision: str | None
    architecture: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    target_tokenizer: PreTrainedTokenizerBase
    stop_strings: StopStrings
    defaults: GenerationDefaults
    languages: Languages
    task_prefixes: Mapping[str, str]
    max_source_len: int | None
    max_target_len: int | None
    vocab_size: int
    source_vocab_size: int
    device: torch.device
    dtype: torch.dtype
    add_special_tokens: bool = True
    global_attention: GlobalAttention = "none"

    def without_model(self) -> "Checkpoint":
        """The same for a process in which the model does not run."""
        return replace(self, model=cast(PreTrainedModel, None))


def load_checkpoint(
    source: str, options: CheckpointOptions | None = None, *, task: Task | None = None
) -> Checkpoint:
    """Load a checkpoint from a folder or from the Hub.

    Args:
        source: A folder, or a Hub id (`owner/name`).
        options: How to load it.
        task: What it is to serve, where that is one thing: its defaults are then that task's.

    Raises:
        CheckpointError: It cannot be loaded or served; says what was expected and what was found.
    """
    return _Loader(source, options or CheckpointOptions()).load(task)


class _Loader:
    """Reads one checkpoint; every failure names the source as the operator wrote it."""

    def __init__(self, source: str, options: CheckpointOptions) -> None:
        self._source = source
        self._options = options
        self._files = Repository(source, options.revision)

    def load(self, task: Task | None) -> Checkpoint:
        """See `load_checkpoint`."""
        device = _device(self._options.device)
        self._check_int8(device)
        self._files.check()
        self._files.pin()
        config = self._files.json("config.json", required=True)
        self._check_architecture(config)
        self._check_weights()
        if device.type == "cuda":
            _turn_off_cudnn_attention()
        with self._located():
            model = self._model(config, device)
            tokenizer = self._tokenizer()
            vocab_size = target_vocab_size(model)
            files = CheckpointFiles(
                config=config,
                generation_config=self._files.json("generation_config.json"),
                options=self._options.generation,
                options_name=self._options.generation_from,
            )
            max_target_len = max_len(model, "decoder")
            defaults = read_defaults(
                files,
                model_config=model.config,
                vocab_size=vocab_size,
                max_target_len=max_target_len,
            )
            languages = self._languages(config, tokenizer, defaults)
            target_tokenizer = self._target_tokenizer(tokenizer)
        return Checkpoint(
            name=self._files.name,
            source=self._source,
            revision=self._files.revision,
            architecture=type(model).__name__,
            model=model,
            tokenizer=tokenizer,
            target_tokenizer=target_tokenizer,
            stop_strings=StopStrings(target_tokenizer),
            defaults=defaults if task is None else defaults.for_task(TASK_NAMES[task]),
            languages=languages,
            task_prefixes=_task_prefixes(files),
            max_source_len=max_len(model, "encoder"),
            max_target_len=max_target_len,
            vocab_size=vocab_size,
            source_vocab_size=source_vocab_size(model),
            device=device,
            dtype=torch.int8 if self._options.dtype == "int8" else model.dtype,
            add_special_tokens=self._options.add_special_tokens,
            global_attention=self._options.global_attention,
        )

    @contextmanager
    def _located(self) -> Iterator[None]:
        """Say which checkpoint an error is about, whatever raised it."""
        try:
            yield
        except CheckpointError as error:
            raise CheckpointError(f"{self._source}: {error}") from error
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(
                f"{self._source}: expected a checkpoint that can be loaded, found: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _check_int8(self, device: torch.device) -> None:
        if self._options.dtype == "int8" and not has_packed_kernels(device):
            raise CheckpointError(
                f"{self._source}: dtype is int8: expected a CPU for which torch has oneDNN, "
                f"found device {device}"
            )

    def _check_architecture(self, config: Mapping[str, Any]) -> None:
        if self._options.trust_remote_code and "AutoModelForSeq2SeqLM" in (
            config.get("auto_map") or {}
        ):
            return
        model_type = config.get("model_type")
        # The list names models that write text from audio, too: those are decoder-only.
        if (
            model_type not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
            or not CONFIG_MAPPING[str(model_type)].is_encoder_decoder
        ):
            found = (
                f"the architecture {model_type!r} ({', '.join(config.get('architectures') or [])})"
            )
            if config.get("auto_map"):
                found += " with code of its own, which is not trusted"
            raise self._files.error("an encoder-decoder", found)

    def _check_weights(self) -> None:
        if any(self._files.file(name) for name in _SAFETENSORS):
            return
        pickles = [name for name in _PICKLES if self._files.file(name)]
        if not pickles:
            raise self._files.error("weights in model.safetensors", "none")
        if not self._options.allow_pickle:
            raise self._files.error(
                "weights in model.safetensors",
                f"{pickles[0]}, a pickle, which can run any code and is loaded only if allowed",
            )

    def _model(self, config: Mapping[str, Any], device: torch.device) -> PreTrainedModel:
        # With the pinned revision.
        kwargs = {**self._files.kwargs, "trust_remote_code": self._options.trust_remote_code}
        model: Any
        model, report = AutoModelForSeq2SeqLM.from_pretrained(  # nosec B615
            self._source,
            config=AutoConfig.from_pretrained(self._source, **kwargs),  # nosec B615
            dtype=self._dtype(device),
            use_safetensors=None if self._options.allow_pickle else True,
            output_loading_info=True,
            **kwargs,
        )
        self._check_loaded(model, config, report)
        if self._options.dtype == "auto" and model.dtype not in _HALF_PRECISION:
            model = model.float()
        model = model.to(device)
        model.requires_grad_(False)
        model.eval()
        assert isinstance(model, PreTrainedModel)
        check_cross_attention(model)
        return model

    def _check_loaded(
        self, model: PreTrainedModel, config: Mapping[str, Any], report: Mapping[str, Any]
    ) -> None:
        """Tie what is to be tied, and only then judge what is missing."""
        missing = set(report["missing_keys"])
        wanted = self._options.tie_encoder_decoder
        if config.get("tie_encoder_decoder") if wanted is None else wanted:
            missing = tie_decoder_to_encoder(model, missing, is_forced=wanted is True)
        if missing:
            listed = ", ".join(sorted(missing)[:5]) + (" …" if len(missing) > 5 else "")
            raise CheckpointError(
                f"expected every weight of {type(model).__name__}, found {len(missing)} missing: "
                f"{listed}"
            )
        if report["unexpected_keys"]:
            logger.warning(
                "%s: weights that are not used: %s",
                self._source,
                ", ".join(sorted(report["unexpected_keys"])[:5]),
            )

    def _dtype(self, device: torch.device) -> torch.dtype | Literal["auto"]:
        if self._options.dtype == "int8":
            return torch.float32
        if self._options.dtype != "auto":
            dtype = getattr(torch, self._options.dtype)
            assert isinstance(dtype, torch.dtype)
            return dtype
        return "auto" if device.type == "cuda" else torch.float32

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        name = self._options.tokenizer_name
        return load_tokenizer(
            self._files if name is None else Repository(name),
            trust_remote_code=self._options.trust_remote_code,
            **self._options.tokenizer,
        )

    def _target_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        name = self._options.target_tokenizer_name
        if name is None:
            return tokenizer
        return load_tokenizer(Repository(name), trust_remote_code=self._options.trust_remote_code)

    def _languages(
        self,
        config: Mapping[str, Any],
        tokenizer: PreTrainedTokenizerBase,
        defaults: GenerationDefaults,
    ) -> Languages:
        if self._options.languages is not None:
            source_lang, target_lang = self._options.languages
            config = {
                **config,
                "tandem": {"source_lang": source_lang, "target_lang": target_lang},
            }
        return read_languages(
            config,
            tokenizer,
            vocab_size=defaults.vocab_size,
            default_target_ids=(
                defaults.values.forced_bos_token_id,
                defaults.decoder_start_token_id,
            ),
        )


TASK_NAMES: dict[Task, str] = {"translate": "translation", "summarize": "summarization"}
"""Tasks in `task_specific_params`; single language pairs have names of their own."""


def _task_prefixes(files: CheckpointFiles) -> dict[str, str]:
    return {
        name: str(values["prefix"])
        for name, values in files.task_specific_params.items()
        if values.get("prefix")
    }


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = _DEVICE.fullmatch(name)
    if found is None:
        raise CheckpointError(f"expected device auto, cpu, cuda or cuda:N, found {name!r}")
    num_devices = torch.cuda.device_count()
    if name != "cpu" and int(found[2] or 0) >= num_devices:
        raise CheckpointError(f"expected device {name}, found {num_devices} CUDA devices")
    return torch.device(name)


def _turn_off_cudnn_attention() -> None:
    """In the whole process: it is made anew for every shape of a batch, in a tenth of a second."""
    torch.backends.cuda.enable_cudnn_sdp(False)
