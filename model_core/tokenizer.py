"""Loads a tokenizer, and notices when there is none, or when an argument is none of its own."""

import inspect
import logging
from collections.abc import Iterable

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from model_core.errors import CheckpointError
from model_core.repository import Repository
from model_core.spelling import did_you_mean

logger = logging.getLogger(__name__)

# The vocabularies of the library's tokenizers, by the names that their files have there.
_VOCABULARIES = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model"),
    *("sentencepiece.bpe.model", "source.spm", "target.spm", "tokenizer.model"),
    *("spm.model", "prophetnet.tokenizer"),
)
# Arguments that the library takes by other ways than a parameter of a tokenizer's class.
_ARGUMENTS = (
    *("use_fast", "tokenizer_type", "subfolder", "gguf_file", "fix_mistral_regex", "backend"),
    *("model_max_length", "max_len", "padding_side", "truncation_side", "model_input_names"),
    *("clean_up_tokenization_spaces", "split_special_tokens", "verbose", "pad_token_type_id"),
    *("add_prefix_space", "add_bos_token", "add_eos_token", "tokenizer_file", "vocab_file"),
    *("pad_to_multiple_of", "cache_dir", "force_download", "code_revision"),
)


def load_tokenizer(
    files: Repository, *, trust_remote_code: bool = False, **kwargs: str | int | float | bool
) -> PreTrainedTokenizerBase:
    """A tokenizer from a folder or from the Hub.

    Args:
        files: Where it is.
        trust_remote_code: Whether Python code that comes with it may run.
        kwargs: For `AutoTokenizer.from_pretrained`, as a model card may ask for.

    Raises:
        CheckpointError: There is none, or it cannot be loaded.
    """
    files.check()
    try:
        # The arguments of the files have their revision.
        tokenizer = AutoTokenizer.from_pretrained(  # nosec B615
            files.location, trust_remote_code=trust_remote_code, **files.kwargs, **kwargs
        )
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        # What the library says of missing files depends on what it then tries instead.
        if not _has_any(files, _VOCABULARIES):
            raise _missing(files, _VOCABULARIES) from error
        raise CheckpointError(
            f"expected a tokenizer in {files.location}, found: {type(error).__name__}: {error}"
        ) from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    # Without its vocabulary the library makes up a tokenizer of a few special tokens.
    names = sorted({*tokenizer.vocab_files_names.values(), "tokenizer.json"})
    if tokenizer.vocab_files_names and not _has_any(files, names):
        raise _missing(files, names)
    if kwargs:
        _warn_of_unknown(files, tokenizer, kwargs)
    return tokenizer


def _has_any(files: Repository, names: Iterable[str]) -> bool:
    return any(files.file(name) for name in names)


def _missing(files: Repository, names: Iterable[str]) -> CheckpointError:
    return CheckpointError(
        f"expected a tokenizer in {files.location}, found no tokenizer files "
        f"(none of {', '.join(names)}); where it is elsewhere, tokenizer_name in the settings of "
        "this checkpoint says so"
    )


def _warn_of_unknown(
    files: Repository, tokenizer: PreTrainedTokenizerBase, names: Iterable[str]
) -> None:
    """The library takes any argument, and passes over what it does not know."""
    known = {
        *_ARGUMENTS,
        *PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES,  # its own has what was given, too
        *files.json("tokenizer_config.json"),
    }
    for each in type(tokenizer).__mro__[:-1]:
        known.update(inspect.signature(each).parameters)
    for name in names:
        if name not in known:
            logger.warning(
                "%s: %s names no argument %s, so that it may change nothing%s",
                files.location,
                type(tokenizer).__name__,
                name,
                did_you_mean(name, sorted(known)),
            )
