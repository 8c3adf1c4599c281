"""Why a training stopped that should not have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class TrainingError(RuntimeError):
    """It cannot go on; the message says where and why. What was saved before stays good."""


@contextlib.contextmanager
def pipeline_errors(where: str) -> Iterator[None]:
    """Within, TensorFlow's errors (a crop that cannot be read) become `TrainingError`s that begin with `where`."""
    try:
        yield
    except TrainingError:
        raise
    except Exception as error:
        # They are classes of their own, and carry a traceback as text.
        if not type(error).__module__.startswith("tensorflow"):
            raise
        told = [line.strip() for line in str(error).splitlines() if "Error: " in line]
        words = told[-1].partition("Error: ")[2] if told else str(error)
        raise TrainingError(f"{where}: {words}. The last saved state stays.") from error
