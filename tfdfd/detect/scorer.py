"""P(fake) of face crops: one compiled call a batch."""

from __future__ import annotations

import numpy as np

# Sizes that a batch is padded to: each is compiled once. On two cores 8 crops a call are as fast as 32 and take
# 300 MB less.
BATCH_SIZES = (1, 4, 8)


class Scorer:
    """Scores crops with a network of `tfdfd.models`.

    Args:
        model: RGB float32 in [0, 1] `(batch, height, width, 3)` -> P(fake) `(batch, 1)`.
    """

    def __init__(self, model):
        # Compiling through XLA takes seconds and saves milliseconds at these batch sizes.
        model.jit_compile = False
        self._model = model
        self.size = model.input_shape[1]

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """P(fake), float32 `(n,)` in [0, 1], of uint8 RGB crops `(n, size, size, 3)`.

        Raises:
            ValueError: the network answers something that is no probability.
        """
        scores = [self._batch(crops[i : i + BATCH_SIZES[-1]]) for i in range(0, len(crops), BATCH_SIZES[-1])]
        return np.concatenate(scores) if scores else np.empty(0, np.float32)

    def _batch(self, crops):
        padded = next(size for size in BATCH_SIZES if size >= len(crops))
        images = np.zeros((padded, *crops.shape[1:]), np.float32)
        np.divide(crops, np.float32(255), out=images[: len(crops)])
        scores = np.asarray(self._model.predict_on_batch(images))[: len(crops), 0]
        if not (np.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all()):
            raise ValueError(f"{self._model.name} answered values outside [0, 1]: its weights are damaged.")
        return scores
