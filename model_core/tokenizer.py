"""Loads a tokenizer, and notices when there is none."""

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from model_core.errors import CheckpointError
from model_core.repository import Repository


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
        tokenizer = AutoTokenizer.from_pretrained(
            files.location, trust_remote_code=trust_remote_code, **files.kwargs, **kwargs
        )
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise CheckpointError(
            f"expected a tokenizer in {files.location}, found: {type(error).__name__}: {error}"
        ) from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    # Without its vocabulary the library makes up a tokenizer of a few special tokens.
    names = {*tokenizer.vocab_files_names.values(), "tokenizer.json"}
    if tokenizer.vocab_files_names and not any(files.file(name) for name in names):
        raise CheckpointError(
            f"expected a tokenizer in {files.location} "
            f"({type(tokenizer).__name__}: {', '.join(sorted(names))}), found no vocabulary"
        )
    return tokenizer
