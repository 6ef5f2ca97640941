"""API keys: who may call, and under which name."""

import hashlib
import hmac
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import SecretStr
from starlette.datastructures import Headers

from app.request_context import ANONYMOUS, UNKNOWN
from app.settings import NO_FILE, Settings, variable
from model_core.errors import TandemError

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_KEY = re.compile(r"[!-+\--~]{16,256}", re.ASCII)  # printable, but no blank and no comma
_RESERVED = (ANONYMOUS, UNKNOWN)


class ApiKeysError(TandemError):
    """The keys cannot be read: says where and what was expected, and never shows a key."""


class ApiKeys:
    """The keys of a server, by their digests; several may have one name, so that keys can change.

    Keys are those of `TANDEM_API_KEYS` and of `TANDEM_API_KEYS_FILE`. Safe to ask and to reload
    from any thread.
    """

    def __init__(self, secret: SecretStr | None = None, file: str = NO_FILE) -> None:
        """Read the keys.

        Raises:
            ApiKeysError: A key is malformed, or there are two names for one.
        """
        self._secret = secret
        self._file = file
        self._names = self._read()

    @classmethod
    def of(cls, settings: Settings) -> "ApiKeys":
        """The keys that the settings name."""
        return cls(settings.api_keys, settings.api_keys_file)

    @property
    def are_required(self) -> bool:
        """Whether a call needs a key."""
        return self._secret is not None or self.has_file

    @property
    def has_file(self) -> bool:
        """Whether there is a file that can be read again."""
        return self._file != NO_FILE

    def reload(self) -> None:
        """Read the file again; keys that cannot be read leave those as they were."""
        try:
            self._names = self._read()
        except ApiKeysError as error:
            logger.error("the API keys stay as they were: %s", error)  # noqa: TRY400
        else:
            logger.info("read the API keys again, there are %d", len(self._names))

    def name_of(self, headers: Headers) -> str | None:
        """The name of the key that a call shows; None where it shows none that is known."""
        if not self.are_required:
            return ANONYMOUS
        presented = _presented(headers)
        return None if presented is None else self._name_of_key(presented)

    def _name_of_key(self, presented: str) -> str | None:
        """Compares with every key, each in constant time: how long it takes tells nothing."""
        digest = _digest(presented)
        found = None
        for known, name in self._names.items():
            if hmac.compare_digest(known, digest):
                found = name
        return found

    def _read(self) -> dict[bytes, str]:
        names: dict[bytes, str] = {}
        for place, entry in self._entries():
            name, _, key = entry.partition(":")
            _check(place, name, key)
            if names.setdefault(_digest(key), name) != name:
                raise ApiKeysError(f"{place}: expected a key of its own, found that of another")
        if self.are_required and not names:
            places = f"{variable('api_keys')}, {variable('api_keys_file')}"
            raise ApiKeysError(f"{places}: expected at least one NAME:KEY")
        return names

    def _entries(self) -> Iterator[tuple[str, str]]:
        """Where each entry stands, and the entry."""
        if self._secret is not None:
            yield from _numbered(
                f"{variable('api_keys')}: entry", self._secret.get_secret_value().split(",")
            )
        if self.has_file:
            yield from _numbered(f"{self._file}: line", _lines(self._file))


def _numbered(place: str, entries: Iterable[str]) -> Iterator[tuple[str, str]]:
    for number, entry in enumerate(entries, start=1):
        if (entry := entry.strip()) and not entry.startswith("#"):
            yield f"{place} {number}", entry


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8"
        raise ApiKeysError(f"{file}: expected a file with a NAME:KEY a line: {reason}") from None


def _check(place: str, name: str, key: str) -> None:
    if not _NAME.fullmatch(name) or not _KEY.fullmatch(key):
        raise ApiKeysError(
            f"{place}: expected NAME:KEY, a name of up to 64 letters, digits, dots, dashes and "
            "underscores, and a key of 16 to 256 printable ASCII characters without comma or blank"
        )
    if name in _RESERVED:
        raise ApiKeysError(f"{place}: expected another name: {', '.join(_RESERVED)} are taken")


def _presented(headers: Headers) -> str | None:
    """The key in `Authorization: Bearer` or `X-API-Key`; None for none, or for two."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    bearer = credentials.strip() if scheme.lower() == "bearer" else ""
    given = {key for key in (bearer, headers.get("x-api-key", "")) if key}
    return given.pop() if len(given) == 1 else None


def _digest(key: str) -> bytes:
    """Of a random key of 16 characters or more, which needs no slow hash."""
    return hashlib.sha256(key.encode()).digest()
