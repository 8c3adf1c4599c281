"""Trial of a version in a process of its own, before the server loads it: one that crashes or hangs is quarantined.

A damaged or hostile SavedModel can end the process that loads it. What the trial found is kept in the cache by the
digest of the version's files, so a restart neither repeats a crash nor tries a good version again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import stat
import threading
from pathlib import Path
from typing import Any

from tfdfd.child_process import Channel, PythonProcess
from tfdfd.files import sha256, write_atomically
from tfdfd.hub import HubError
from tfdfd.hub.sources import cache_folder, check_owner
from tfdfd.serve import FAILED_PRECONDITION, ServingError
from tfdfd.version import __version__

_CODE = "from tfdfd.serve.trial import main; main(sys.argv[1], float(sys.argv[2]))"
# Requests come first. A higher value could starve the trial of a large model on a busy machine.
_NICENESS = 5
_PARTS = ("saved_model.pb", "variables", "assets", "assets.extra")


class Trials:
    """Tries versions and remembers the results.

    Args:
        seconds: that a version may take to load and warm up.
        call_seconds: time limit of one warm-up request.
        records: folder of the results; None: in the cache.
    """

    def __init__(self, seconds: float, call_seconds: float, records: Path | None = None):
        self._seconds, self._call_seconds = seconds, call_seconds
        self._records = records or _records_folder()
        self._process: PythonProcess | None = None

    def check(self, folder: Path) -> None:
        """Loads and warms up a version in a process of its own, unless the result is known.

        Raises:
            ServingError: the version crashed or hung and is quarantined, or cannot be loaded.
        """
        record = self._records / f"{digest_of(folder)}.json" if self._records else None
        quarantined = _read(record) if record else None
        if quarantined is None:
            quarantined = self._try(folder)
            if record:
                # If the cache cannot be written, the result is lost with the server.
                with contextlib.suppress(OSError):
                    record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    write_atomically(record, json.dumps({"folder": str(folder), "quarantined": quarantined}) + "\n")
        if quarantined:
            again = f", or delete {record} to try again" if record else ""
            raise ServingError(FAILED_PRECONDITION, f"quarantined: {quarantined} Replace its files{again}.")

    def close(self) -> None:
        """Ends a trial that is running."""
        if self._process is not None:
            self._process.kill()

    def _try(self, folder: Path) -> str:
        """Why the version is quarantined, or an empty text."""
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        with PythonProcess(_CODE, str(folder), str(self._call_seconds)) as process:
            self._process = process
            timer = threading.Timer(self._seconds, stop)
            timer.daemon = True
            messages = process.messages()
            try:
                # The time counts from the end of its imports, which may take long on a busy machine.
                result = next(messages, None)
                timer.start()
                result = result and next(messages, None)
                code: Any = None if result else process.wait()
            finally:
                timer.cancel()
                self._process = None
        if result and "error" in result:
            raise ServingError(result["code"], result["error"])
        if result:
            return ""
        if late.is_set():
            return f"it did not load within {self._seconds:g} s."
        if code in (-signal.SIGKILL, -signal.SIGTERM) or code >= 0:
            # Not the version's doing: out of memory, or a stop of the server.
            why = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            raise ServingError(FAILED_PRECONDITION, f"the process that tried it {why}.")
        return f"it crashed the process that loaded it ({signal.Signals(-code).name})."


def digest_of(folder: Path) -> str:
    """SHA-256 over names and contents of a version's files, and over what loads them.

    Raises:
        ServingError: a file is not a regular file, such as a pipe, which would never end.
    """
    from tensorflow import __version__ as tensorflow

    value = hashlib.sha256(f"{__version__} {tensorflow}\n".encode())
    for part in _PARTS:
        for path in sorted([folder / part, *(folder / part).rglob("*")]):
            if not os.path.lexists(path) or path.is_dir():
                continue
            if not stat.S_ISREG(path.stat().st_mode):
                raise ServingError(FAILED_PRECONDITION, f"{path} is not a regular file.")
            value.update(f"{path.relative_to(folder).as_posix()} {sha256(path)}\n".encode())
    return value.hexdigest()


def _records_folder() -> Path | None:
    """In the cache, or None if there is no cache or others may write there."""
    with contextlib.suppress(HubError):
        folder = cache_folder() / "serving"
        check_owner(folder)
        return folder
    return None


def _read(record: Path) -> str | None:
    try:
        return str(json.loads(record.read_text("utf-8"))["quarantined"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def main(folder: str, call_seconds: float) -> None:
    """Entry point of the process: loads and warms up one version, and sends the result."""
    from tfdfd.serve.loaded_model import LoadedModel, warm_up

    channel = Channel()
    with contextlib.suppress(AttributeError, OSError):
        os.nice(_NICENESS)
    channel.send(ready=True)
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        warm_up(LoadedModel(folder), call_seconds)
    except ServingError as error:
        channel.send(error=error.message, code=error.code)
    else:
        channel.send(loaded=folder)
    # Without the end of Python, in which TensorFlow waits for its threads.
    os._exit(0)
