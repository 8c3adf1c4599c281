"""Optimizers by name, with what the documents put around them."""

from __future__ import annotations

import keras

from tfdfd.near_matches import did_you_mean
from tfdfd.training.gradient_flow import GradientRecord
from tfdfd.training.gradient_noise import GradientNoise
from tfdfd.training.radam import RAdam
from tfdfd.training.wrapped import WrappedOptimizer

OPTIMIZERS = {"adam": keras.optimizers.Adam, "sgdm": keras.optimizers.SGD, "radam": RAdam}


@keras.saving.register_keras_serializable(package="tfdfd")
class SeparateAverage(WrappedOptimizer):
    """Leaves the moving average of weights beside them, where Keras's `fit` puts it in their place when it ends.

    A training that calls `fit` for each epoch goes on with the weights, and judges and keeps the averages
    (`keras.callbacks.SwapEMAWeights`).
    """

    def finalize_variable_values(self, var_list):
        pass


def make_optimizer(
    name: str,
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
    *,
    momentum: float = 0.9,
    radam_threshold: float = 4.0,
    loss_scale: bool = False,
    gradient_noise: float | None = None,
    steps_per_noise: int = 1,
    gradient_flow: bool = False,
    ema: float | None = None,
    seed: int = 0,
) -> keras.optimizers.Optimizer:
    """An optimizer, ready for `compile`. All it knows is in its `variables`: a training goes on from these.

    The documents' values, where they name any, are the defaults: Adam with 0.9 and 0.999 (S1, section 4.2), momentum
    0.9 (S2, section 5.3), RAdam of the paper.

    Args:
        name: one of `OPTIMIZERS`.
        learning_rate: above 0, or a function of the step (`tfdfd.training.schedules`).
        momentum: of `sgdm`, in [0, 1]; it is Keras's, whose steps keep the rate they were taken with.
        radam_threshold: of `radam`, see `RAdam`.
        loss_scale: scale the loss, dynamically, by `keras.optimizers.LossScaleOptimizer`. Under `mixed_float16`,
            Keras's `compile` does so anyway.
        gradient_noise: η of `GradientNoise`; None for none.
        steps_per_noise: after how many steps the noise becomes smaller: 1, or those of an epoch.
        gradient_flow: record each weight's gradients, before noise, for `GradientFlow`.
        ema: decay of a moving average of weights, in [0, 1), which stays beside them: see `SeparateAverage`; None for
            none.
        seed: of the noise; whole number from 0.

    Raises:
        ValueError: an unknown name, with the near ones; or a value out of its range.
    """
    if name not in OPTIMIZERS:
        hint = did_you_mean(name, OPTIMIZERS, 1, f"there are {', '.join(OPTIMIZERS)}.")
        raise ValueError(f"no optimizer is known as {name!r}; {hint}")
    options = {"sgdm": {"momentum": momentum}, "radam": {"threshold": radam_threshold}}.get(name, {})
    if ema is not None:
        if not 0 <= ema < 1:
            raise ValueError(f"ema must be in [0, 1); received {ema}.")
        options |= {"use_ema": True, "ema_momentum": ema}
    optimizer = OPTIMIZERS[name](learning_rate, **options)
    if ema is not None:
        optimizer = SeparateAverage(optimizer)
    if gradient_noise is not None:
        optimizer = GradientNoise(optimizer, gradient_noise, seed=seed, every=steps_per_noise)
    if gradient_flow:
        optimizer = GradientRecord(optimizer)
    return keras.optimizers.LossScaleOptimizer(optimizer) if loss_scale else optimizer
