"""Bounds of the texts of a call, checked before anything is spent on them."""

from app.schemas import TextRequest
from app.settings import Settings
from model_core.errors import InvalidParameterError


def check_num_texts(num_texts: int, settings: Settings) -> None:
    """Refuse a list that is longer than the operator allows.

    Raises:
        InvalidParameterError: It is.
    """
    most = settings.max_texts_per_request
    if num_texts > most:
        raise InvalidParameterError("text", f"{num_texts} texts", f"at most {most}")


def check_num_chars(body: TextRequest, settings: Settings) -> None:
    """Refuse what is too long to be worth tokenizing, by its place and never by its value.

    Raises:
        InvalidParameterError: A text or the target prefix is.
    """
    _check_chars("target_prefix", body.target_prefix or "", settings.max_text_chars)
    for index, text in enumerate(body.texts):
        place = "text" if isinstance(body.text, str) else f"text.{index}"
        _check_chars(place, text, settings.max_text_chars)


def _check_chars(place: str, text: str, most: int) -> None:
    if len(text) > most:
        raise InvalidParameterError(place, f"{len(text)} characters", f"at most {most} characters")
