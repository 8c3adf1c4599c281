"""Ways that take turns, each in a process of its own: it works when it is told to, so that no two ever do at once.

Only the standard library, so that the process may be of another interpreter than the benchmark's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).parent.parent


class Way:
    """A process that says one line of JSON when it is ready, and another after each turn. A context manager.

    Args:
        command: what begins it; it runs in the repository.
        environment: of the process.
    """

    def __init__(self, command: list[str], environment: dict):
        self._command = command
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=FOLDER, env=environment
        )
        self.told = {}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def ready(self) -> None:
        """Waits until it is; `told` is what it said.

        Raises:
            RuntimeError: it ended instead; why is on the standard error.
        """
        self.told = self._line()

    def turn(self, steps: int) -> dict:
        """Lets it work: `seconds` that `steps` took, and `processor_seconds` of all its threads."""
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self):
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self._command)} ended with exit code {self._process.wait()}.")
        return json.loads(line)


def say(told: dict) -> None:
    """In the process of a way: tells the benchmark."""
    print(json.dumps(told), flush=True)


def turns():
    """In the process of a way: gives the steps of each turn, and tells what the work until the next one took."""
    for line in sys.stdin:
        begun, processor = time.perf_counter(), time.process_time()
        yield int(line)
        say({"seconds": time.perf_counter() - begun, "processor_seconds": time.process_time() - processor})
