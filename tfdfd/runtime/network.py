"""What a runtime makes of a model: something that scores a batch of crops."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Network(Protocol):
    """A model with its weights, ready to run.

    Attributes:
        runtime: name of what runs it.
        name: name of the model, for messages.
        size: side of the crops in pixels.
        batch_sizes: numbers of crops that a call may have, ascending; each is prepared at its first use.
    """

    runtime: str
    name: str
    size: int
    batch_sizes: tuple[int, ...]

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """P(fake), float32 `(n,)`, of uint8 RGB crops `(n, size, size, 3)`, C-contiguous, `n` one of `batch_sizes`."""
