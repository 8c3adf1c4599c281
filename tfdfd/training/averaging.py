"""The moving average of weights in the place of the weights, for as long as they are judged."""

from __future__ import annotations

import contextlib

import keras


@contextlib.contextmanager
def averaged(model: keras.Model, decay: float | None):
    """Within, `model` has its optimizer's moving averages for weights; with `decay` None, its own."""
    if decay is None:
        yield
        return
    swap = keras.callbacks.SwapEMAWeights()
    swap.set_model(model)
    swap.on_test_begin()
    try:
        yield
    finally:
        swap.on_test_end()
