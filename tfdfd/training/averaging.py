"""The moving average of weights in the place of the weights, for as long as they are judged."""

from __future__ import annotations

import contextlib

import keras


@contextlib.contextmanager
def averaged(model: keras.Model, decay: float | None):
    """Within, `model` has its optimizer's moving averages for weights; with `decay` None, its own.

    (Keras's `SwapEMAWeights` adds and subtracts, so that the weights come back a last bit off.)
    """
    if decay is None:
        yield
        return
    optimizer = model.optimizer
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    weights = model.trainable_variables
    own = [keras.ops.convert_to_numpy(weight.value).copy() for weight in weights]
    for weight, average in zip(weights, optimizer._model_variables_moving_average, strict=True):
        weight.assign(average)
    try:
        yield
    finally:
        for weight, values in zip(weights, own, strict=True):
            weight.assign(values)
