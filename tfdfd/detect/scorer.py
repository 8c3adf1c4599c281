"""P(fake) of face crops: one prepared call a batch."""

from __future__ import annotations

import numpy as np

from tfdfd.runtime.network import Network
from tfdfd.runtime.with_keras import KerasNetwork


class Scorer:
    """Scores crops.

    Args:
        network: of `tfdfd.runtime`; or a Keras model of `tfdfd.models`, which Keras then runs.
    """

    def __init__(self, network):
        self._network = network if isinstance(network, Network) else KerasNetwork(network)
        self.size = self._network.size

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """P(fake), float32 `(n,)` in [0, 1], of uint8 RGB crops `(n, size, size, 3)`.

        Raises:
            ValueError: the network answers something that is no probability.
        """
        most = self._network.batch_sizes[-1]
        scores = [self._batch(crops[i : i + most]) for i in range(0, len(crops), most)]
        return np.concatenate(scores) if scores else np.empty(0, np.float32)

    def _batch(self, crops):
        padding = next(size for size in self._network.batch_sizes if size >= len(crops)) - len(crops)
        if padding:
            padded = np.concatenate([crops, np.zeros((padding, *crops.shape[1:]), np.uint8)])
        else:
            padded = np.ascontiguousarray(crops)
        scores = self._network(padded)[: len(crops)]
        if not (np.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all()):
            raise ValueError(f"{self._network.name} answered values outside [0, 1]: its weights are damaged.")
        return scores
