"""Networks that score batches of face crops or clips: their interface, Keras models, and scoring of any number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from tfdfd.runtime import TENSORFLOW

if TYPE_CHECKING:
    import keras


@runtime_checkable
class Network(Protocol):
    """A model with its weights, ready to run.

    Attributes:
        runtime: name of the runtime.
        name: name of the model, for messages.
        size: side of the crops in pixels.
        frames: crops of a clip; None for a network of single crops. Where it is given, each crop below is a clip,
            `(frames, size, size, 3)`.
        batch_sizes: permitted batch sizes, ascending; each is prepared at its first use.
    """

    runtime: str
    name: str
    size: int
    frames: int | None
    batch_sizes: tuple[int, ...]

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """P(fake), float32 `(n,)`, of uint8 RGB crops `(n, size, size, 3)`, C-contiguous, `n` one of `batch_sizes`."""


class KerasNetwork:
    """A `Network` on the backend that Keras uses.

    Args:
        model: takes RGB float32 in [0, 1] `(batch, size, size, 3)`, or clips `(batch, frames, size, size, 3)`, and
            returns P(fake) `(batch, 1)`.
    """

    runtime = TENSORFLOW
    # Each size is traced once. On two cores, 8 crops per call are as fast as 32 and take 300 MB less.
    batch_sizes: tuple[int, ...] = (1, 4, 8)

    def __init__(self, model: keras.Model):
        # Compilation by XLA takes seconds and saves milliseconds at these batch sizes.
        model.jit_compile = False
        self._model = model
        self.name = model.name
        self.size = model.input_shape[-2]
        self.frames: int | None = None
        if len(model.input_shape) == 5:
            # A clip has as many crops as a batch of single ones.
            self.frames, self.batch_sizes = model.input_shape[1], (1,)

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """P(fake), float32 `(n,)`, of uint8 RGB crops; see `Network`."""
        return np.asarray(self._model.predict_on_batch(crops / np.float32(255)))[:, 0]


class Scorer:
    """Scores any number of crops, in batches that the network is prepared for.

    Args:
        network: a `Network`, or a Keras model of `tfdfd.models`, which then runs on Keras.
    """

    def __init__(self, network: Network | keras.Model):
        self._network = network if isinstance(network, Network) else KerasNetwork(network)
        self.size = self._network.size

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """P(fake), float32 `(n,)` in [0, 1], of uint8 RGB crops `(n, size, size, 3)` or clips of them.

        Raises:
            ValueError: a score of the network is not a probability.
        """
        most = self._network.batch_sizes[-1]
        scores = [self._score_batch(crops[i : i + most]) for i in range(0, len(crops), most)]
        return np.concatenate(scores) if scores else np.empty(0, np.float32)

    def _score_batch(self, crops: np.ndarray) -> np.ndarray:
        padding = next(size for size in self._network.batch_sizes if size >= len(crops)) - len(crops)
        if padding:
            padded = np.concatenate([crops, np.zeros((padding, *crops.shape[1:]), np.uint8)])
        else:
            padded = np.ascontiguousarray(crops)
        scores = self._network(padded)[: len(crops)]
        if not (np.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all()):
            raise ValueError(f"{self._network.name} answered values outside [0, 1]: its weights are damaged.")
        return scores
