"""A Keras model as it is, on the backend that Keras has."""

from __future__ import annotations

import numpy as np

from tfdfd.runtime.names import TENSORFLOW


class KerasNetwork:
    """A `Network` of a Keras model: RGB float32 in [0, 1] `(batch, size, size, 3)` -> P(fake) `(batch, 1)`."""

    runtime = TENSORFLOW
    # Each is traced once. On two cores 8 crops a call are as fast as 32 and take 300 MB less.
    batch_sizes = (1, 4, 8)

    def __init__(self, model):
        # Compiling through XLA takes seconds and saves milliseconds at these batch sizes.
        model.jit_compile = False
        self._model = model
        self.name = model.name
        self.size = model.input_shape[1]

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        return np.asarray(self._model.predict_on_batch(crops / np.float32(255)))[:, 0]
