"""A function in a Python of its own, so that neither memory nor threads of one measurement disturb the next."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys

from tfdfd.log_lines import without_log_lines

# The whole import path is handed over, so that the current folder does not decide which code is measured.
_BOOT = "import sys; sys.path[:] = sys.argv[2:]; from tfdfd.cost.process import main; main(sys.argv[1])"


class MeasuringFailed(RuntimeError):
    """The function raised, or its process died; the message says which."""


def in_process_of_its_own(target: str, **arguments):
    """The result of `module:function`, called with these arguments in a new process; all of them JSON values.

    Raises:
        MeasuringFailed: it raised or died; what it wrote to standard error is kept off the screen.
    """
    request = json.dumps({"target": target, "arguments": arguments})
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    done = subprocess.run(
        [sys.executable, "-c", _BOOT, request, *sys.path],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=environment,
    )
    try:
        answer = json.loads(done.stdout)
    except json.JSONDecodeError:
        raise MeasuringFailed(_last_words(done)) from None
    if "error" in answer:
        raise MeasuringFailed(answer["error"])
    return answer["result"]


def main(request: str) -> None:
    """Runs in the process: the answer is all that reaches its standard output."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answer:
        os.dup2(2, 1)
        request = json.loads(request)
        module, function = request["target"].split(":")
        try:
            result = {"result": getattr(importlib.import_module(module), function)(**request["arguments"])}
        except Exception as error:
            result = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
        json.dump(result, answer)


def _last_words(done):
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return f"the process was killed ({name})" + ("; out of memory?" if name == "SIGKILL" else "")
    lines = without_log_lines(done.stderr).strip().splitlines() or [""]
    return f"the process ended with code {done.returncode}: {lines[-1]}"
