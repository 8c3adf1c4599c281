"""Local page on which a person drops files and reads the verdicts: its files, of which nothing outlives the command.

They lie in a private temporary folder.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfdfd.files import locked_folder

WORK = "tfdfd app"
# States of a file. `failed` means that scoring broke down; a file that cannot be read has a result that says so.
UPLOADING, WAITING, SCORING, DONE, FAILED = "uploading", "waiting", "scoring", "done", "failed"
PENDING = (UPLOADING, WAITING, SCORING)


@contextlib.contextmanager
def session_folder() -> Iterator[Path]:
    """A new folder that only this user can read, removed at the end; folders of sessions that were killed go first.

    Raises:
        OSError: no folder can be made.
        ValueError: the place of the folders belongs to somebody else.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0
    place = Path(tempfile.gettempdir()) / f"tfdfd-app-{user}"
    with contextlib.suppress(FileExistsError):
        place.mkdir(mode=0o700)
    status = place.lstat()
    if not stat.S_ISDIR(status.st_mode) or (hasattr(os, "getuid") and status.st_uid != user):
        raise ValueError(f"{place} is not a folder of this user, so uploads would not be safe there; set TMPDIR.")
    place.chmod(0o700)
    # Held until the new folder has its own lock: no other start takes it for a leftover.
    guard = locked_folder(place, WORK, wait=True)
    try:
        for old in place.iterdir():
            with contextlib.suppress(ValueError, OSError):  # the folder of a session that is running
                lock = locked_folder(old, WORK)
                shutil.rmtree(old)
                if lock is not None:
                    os.close(lock)
        folder = Path(tempfile.mkdtemp(dir=place))
        lock = locked_folder(folder, WORK)
    finally:
        if guard is not None:
            os.close(guard)
    try:
        yield folder
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
        if lock is not None:
            os.close(lock)


@dataclass
class SessionFile:
    """One file that was dropped on the page.

    Attributes:
        folder: folder of the session.
        name: its name for people.
        size: its bytes; None while it arrives without a stated length.
        number: random name of its files in the folder.
        received: bytes that arrived.
        state: one of the states above.
        first: time and score of the first frame, before the result.
        result: result in the JSON of `tfdfd detect`, without its faces.
        message: reason for `failed`.
    """

    folder: Path
    name: str
    size: int | None
    number: str = field(default_factory=lambda: secrets.token_hex(8))
    received: int = 0
    state: str = UPLOADING
    first: dict[str, float] | None = None
    result: dict[str, Any] | None = None
    message: str | None = None

    @property
    def media(self) -> Path:
        """The uploaded file, which exists until it is scored."""
        return self.folder / self.number

    @property
    def page(self) -> Path:
        """The report."""
        return self.folder / f"{self.number}.html"

    @property
    def document(self) -> Path:
        """The JSON of `tfdfd detect`."""
        return self.folder / f"{self.number}.json"

    def remove(self) -> None:
        """Deletes all of its files."""
        for path in (self.media, self.page, self.document):
            path.unlink(missing_ok=True)

    def to_dict(self) -> dict[str, Any]:
        """What the page shows."""
        names = ("number", "name", "size", "received", "state", "first", "result", "message")
        return {name: getattr(self, name) for name in names}
