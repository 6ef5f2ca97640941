"""Every tiny architecture by name, and checkpoints of them on disk."""

from pathlib import Path
from tempfile import TemporaryDirectory

from tests.tiny import bart, encoder_decoder, others, t5
from tests.tiny.draw import Builder
from tests.tiny.tokenizers import TOKENIZERS

LEAN_ARCHITECTURES: dict[str, Builder] = {**encoder_decoder.LEAN, **bart.LEAN, **t5.LEAN}
FALLBACK_ARCHITECTURES: dict[str, Builder] = {**bart.FALLBACK, **others.FALLBACK}
DECODER_ONLY_ARCHITECTURES: dict[str, Builder] = {**others.DECODER_ONLY}
TINY_ARCHITECTURES: dict[str, Builder] = {
    **LEAN_ARCHITECTURES,
    **FALLBACK_ARCHITECTURES,
    **DECODER_ONLY_ARCHITECTURES,
}


def build_tiny_checkpoint(name: str, folder: Path) -> Path:
    """Write config, weights, tokenizer and generation defaults of one architecture to a folder.

    Args:
        name: A key of `TINY_ARCHITECTURES`.
        folder: Made where it does not exist.

    Returns:
        The folder, ready for `from_pretrained`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    TINY_ARCHITECTURES[name]().save_pretrained(folder)
    with TemporaryDirectory() as scratch:
        TOKENIZERS[name](Path(scratch)).save_pretrained(folder)
    return folder
