"""The files of a checkpoint or tokenizer: a folder, or a repository on the Hub."""

import errno
import json
import re
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file, extract_commit_hash

from model_core.errors import CheckpointError

_CANNOT_STORE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


class Repository:
    """Files by name, downloaded where need be.

    Attributes:
        location: Folder or Hub id, as the operator wrote it; every error starts with it.
        revision: Branch, tag or commit on the Hub; the commit itself once it is pinned.
        is_local: Whether it is a folder.
    """

    def __init__(self, location: str, revision: str | None = None) -> None:
        self.location = location
        self.revision = revision
        self.is_local = Path(location).is_dir()

    @property
    def name(self) -> str:
        """The folder's name, or the Hub id."""
        return Path(self.location).resolve().name if self.is_local else self.location

    @property
    def kwargs(self) -> dict[str, Any]:
        """What the library's `from_pretrained` needs besides the location."""
        return {"revision": self.revision, "local_files_only": self.is_local}

    def check(self) -> None:
        """Refuse what is neither a folder nor a Hub id.

        Raises:
            CheckpointError: It says what was found.
        """
        if self.is_local:
            return
        if Path(self.location).exists():
            raise self.error("a folder or a Hub id", "a file")
        if not _HUB_ID.fullmatch(self.location) or self.location.startswith("."):
            raise self.error("a folder or a Hub id", "neither: no such folder")

    def pin(self) -> None:
        """Name the commit, so that every further file is of the same one, whatever is pushed.

        Raises:
            CheckpointError: The Hub cannot be reached or has no such repository.
        """
        if self.is_local:
            return
        path = self.file("config.json", required=True)
        self.revision = extract_commit_hash(path, None) or self.revision

    def file(self, name: str, *, required: bool = False) -> str | None:
        """Path of a file; None where there is none.

        Raises:
            CheckpointError: The Hub cannot be reached or has no such repository.
        """
        if self.is_local:
            path = Path(self.location) / name
            return str(path) if path.is_file() else None
        try:
            found: str | None = cached_file(
                self.location,
                name,
                revision=self.revision,
                _raise_exceptions_for_missing_entries=required,
            )
        except OSError as error:
            if error.errno in _CANNOT_STORE:
                message = f"{self.location}: cannot store its files: {error}"
                raise CheckpointError(message) from error
            raise self.error(
                "a folder or a Hub id", f"no such folder, and on the Hub: {error}"
            ) from error
        return found

    def json(self, name: str, *, required: bool = False) -> dict[str, Any]:
        """A JSON object; an empty one where there is no such file.

        Raises:
            CheckpointError: The file is required and not there, or holds something else.
        """
        path = self.file(name, required=required)
        if path is None:
            if required:
                raise self.error(f"a {name}", "none")
            return {}
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise self.error(f"JSON in {name}", str(error)) from error
        if not isinstance(content, dict):
            raise self.error(f"a JSON object in {name}", type(content).__name__)
        return content

    def error(self, expected: str, found: str) -> CheckpointError:
        """The error to raise."""
        return CheckpointError(f"{self.location}: expected {expected}, found {found}")
