"""Alternating benchmark processes: each works only during its turn, so that no two run at once.

Uses only the standard library, so that a process may run another interpreter than the benchmark's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).parent.parent


class Way:
    """A process that writes one line of JSON when it is ready and after each turn. A context manager.

    Args:
        command: command line; it runs in the repository.
        environment: environment of the process.
    """

    def __init__(self, command: list[str], environment: dict):
        self._command = command
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=FOLDER, env=environment
        )
        self.info = {}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def ready(self) -> None:
        """Waits until the process is ready; `info` is its message.

        Raises:
            RuntimeError: the process ended; its reason is on standard error.
        """
        self.info = self._line()

    def turn(self, steps: int) -> dict:
        """Runs one turn: `seconds` of `steps`, and `processor_seconds` of all threads."""
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self):
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self._command)} ended with exit code {self._process.wait()}.")
        return json.loads(line)


def say(info: dict) -> None:
    """Called in the process: sends a message to the benchmark."""
    print(json.dumps(info), flush=True)


def turns():
    """Called in the process: yields the steps of each turn, and reports its times when the next is requested."""
    for line in sys.stdin:
        start, processor = time.perf_counter(), time.process_time()
        yield int(line)
        say({"seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - processor})
