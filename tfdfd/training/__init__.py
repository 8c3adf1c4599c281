"""Training of networks by recipes: `procedures.train` is the entry point."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class TrainingError(RuntimeError):
    """The training cannot continue. The message says where and why; the last saved state stays valid."""


@contextlib.contextmanager
def pipeline_errors(where: str) -> Iterator[None]:
    """Converts TensorFlow's errors, such as an unreadable crop, to a `TrainingError` that starts with `where`."""
    try:
        yield
    except TrainingError:
        raise
    except Exception as error:
        # TensorFlow's errors do not share a builtin base class, and their text contains a traceback.
        if not type(error).__module__.startswith("tensorflow"):
            raise
        messages = [line.strip() for line in str(error).splitlines() if "Error: " in line]
        message = messages[-1].partition("Error: ")[2] if messages else str(error)
        raise TrainingError(f"{where}: {message}. The last saved state stays.") from error
