"""Python child processes of the package: one starter, JSON lines as their way of communicating, and why one ended.

A child runs this package's code from the parent's import path, writes messages on standard output, may be sent messages
on standard input, and ends with its parent, whose end closes the child's standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import TextIO

from tfdfd.log_lines import without_log_lines

_END_OF_ERRORS = 4000
# The whole import path is handed over, so the current folder does not decide which code runs.
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from tfdfd.process import import_quickly; import_quickly(); "
)


def python_command(code: str, *arguments: str) -> list[str]:
    """The command that runs code of this package; `sys` is imported there, and `sys.argv[1:]` holds `arguments`."""
    return [sys.executable, "-c", _BOOT + code, json.dumps(sys.path), *arguments]


class PythonProcess:
    """A child process; a context manager that kills it if it is still running at the end.

    Args:
        code, arguments: as for `python_command`.
        environment: variables that differ from this process's; None removes one.

    Attributes:
        errors: end of its standard error without log lines, known after `wait`.
    """

    def __init__(self, code: str, *arguments: str, environment: dict[str, str | None] | None = None):
        changed = {"TF_CPP_MIN_LOG_LEVEL": "3"} | (environment or {})
        variables = {name: value for name, value in (os.environ | changed).items() if value is not None}
        self.errors = ""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            python_command(code, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=variables,
            encoding="utf-8",
        )

    def __enter__(self) -> PythonProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        with contextlib.suppress(BrokenPipeError):  # a message that it did not read
            self._process.stdin.close()  # type: ignore[union-attr]
        self._process.stdout.close()  # type: ignore[union-attr]
        self._process.wait()
        self._stderr.close()

    def kill(self) -> None:
        """Ends it at once; may be called from any thread."""
        self._process.kill()

    def send(self, **message: object) -> None:
        """Sends one message, which must be JSON, to a child that receives messages.

        Raises:
            OSError: the child has ended.
        """
        self._process.stdin.write(json.dumps(message) + "\n")  # type: ignore[union-attr]
        self._process.stdin.flush()  # type: ignore[union-attr]

    def messages(self) -> Iterator[dict]:
        """The child's messages, until it ends or closes its output."""
        for line in self._process.stdout:  # type: ignore[union-attr]
            yield json.loads(line)

    def wait(self, seconds: float | None = None) -> int:
        """Its exit code; negative: killed by that signal.

        Raises:
            subprocess.TimeoutExpired: it is still running after `seconds`.
        """
        code = self._process.wait(seconds)
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - _END_OF_ERRORS))
        self.errors = without_log_lines(self._stderr.read().decode("utf-8", "replace")).strip()
        return code


class Channel:
    """The child's side: messages to the parent. Anything else written to standard output goes to standard error.

    From its creation on, the process ends when its parent does.

    Args:
        receive: called with each message of the parent, in a thread of the channel.
    """

    def __init__(self, receive: Callable[[dict], None] | None = None) -> None:
        self._file: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        self._lock = threading.Lock()
        os.dup2(2, 1)
        threading.Thread(target=_follow_parent, args=(receive,), daemon=True).start()

    def send(self, **message: object) -> None:
        """Writes one message, which must be JSON; may be called from any thread."""
        with self._lock:
            self._file.write(json.dumps(message) + "\n")
            self._file.flush()


def _follow_parent(receive: Callable[[dict], None] | None) -> None:
    rest = b""
    while part := os.read(0, 1 << 16):  # not `sys.stdin`: its lock must not be held when Python ends
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if receive is not None:
                receive(json.loads(line))
    os._exit(1)
