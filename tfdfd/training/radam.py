"""Rectified Adam (Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", arXiv:1908.03265)."""

from __future__ import annotations

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="tfdfd")
class RAdam(keras.optimizers.Optimizer):
    """Algorithm 2 of the paper: Adam that goes by momentum alone until its adaptive rate has a variance to speak of.

    With ρ∞ = 2 / (1 - β2) - 1 and ρ = ρ∞ - 2 t β2^t / (1 - β2^t) at step t (from 1), m and v the moving averages of
    the gradient and of its square:

        ρ > threshold:  weight -= rate · r · m / (1 - β1^t) · √(1 - β2^t) / (√v + epsilon)
        otherwise:      weight -= rate · m / (1 - β1^t)
        r = √((ρ - 4) (ρ - 2) ρ∞ / ((ρ∞ - 4) (ρ∞ - 2) ρ))

    Args:
        learning_rate: above 0, or a Keras schedule of it.
        beta_1: decay of the average of gradients, in [0, 1).
        beta_2: decay of the average of their squares, in (0.6, 1): at 0.6 and below, ρ never reaches 4.
        epsilon: added to √v as the authors' code does; the paper has none.
        threshold: from 4. The paper's 4 begins to adapt at the fifth step (β2 = 0.999); the authors' code, the one of
            document S2 and PyTorch have 5, which is the sixth.
        **kwargs: what every Keras optimizer takes: `weight_decay` (apart from the gradient, as in AdamW), `clipnorm`,
            `use_ema` and others.

    Raises:
        ValueError: a value out of its range.
    """

    def __init__(self, learning_rate=1e-3, beta_1=0.9, beta_2=0.999, epsilon=1e-8, threshold=4.0, **kwargs):
        super().__init__(learning_rate=learning_rate, **kwargs)
        if not 0 <= beta_1 < 1:
            raise ValueError(f"beta_1 must be in [0, 1); received {beta_1}.")
        if not 0.6 < beta_2 < 1:
            raise ValueError(
                f"beta_2 must be above 0.6, so that some step is rectified, and below 1; received {beta_2}."
            )
        if epsilon < 0:
            raise ValueError(f"epsilon must be at least 0; received {epsilon}.")
        if threshold < 4:
            raise ValueError(f"threshold must be at least 4, below which r is no number; received {threshold}.")
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.threshold = threshold

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._firsts, self._seconds = self.add_optimizer_variables(variables, ["first_moment", "second_moment"])

    def update_step(self, gradient, variable, learning_rate):
        number = self._get_variable_index(variable)
        first, second = self._firsts[number], self._seconds[number]
        gradient = ops.cast(gradient, variable.dtype)
        self.assign(first, self.beta_1 * first + (1 - self.beta_1) * gradient)
        self.assign(second, self.beta_2 * second + (1 - self.beta_2) * ops.square(gradient))

        momentum, adaptive, is_adaptive = self._factors(ops.cast(self.iterations + 1, "float32"))
        rate = ops.cast(ops.cast(learning_rate, "float32") * momentum, variable.dtype)
        scale = ops.cast(adaptive, variable.dtype) / (ops.sqrt(second) + self.epsilon)
        self.assign_sub(variable, rate * first * ops.where(is_adaptive, scale, ops.ones_like(scale)))

    def get_config(self):
        own = {name: getattr(self, name) for name in ("beta_1", "beta_2", "epsilon", "threshold")}
        return super().get_config() | own

    def _factors(self, step):
        """1 / (1 - β1^t), r √(1 - β2^t), and whether ρ is above the threshold; float32 scalars of t as float32."""
        limit = 2 / (1 - self.beta_2) - 1
        length = self._length(step)
        rectified = (length - 4) * (length - 2) * (limit / ((limit - 4) * (limit - 2))) / length
        grown = -ops.expm1(step * math.log(self.beta_2))
        momentum = 1 / -ops.expm1(step * (math.log(self.beta_1) if self.beta_1 else -math.inf))
        return momentum, ops.sqrt(ops.maximum(rectified, 0.0) * grown), length > self.threshold

    def _length(self, step):
        """ρ at step t.

        As the paper writes it, it is a small difference of large numbers, of which float32 keeps a few percent in the
        first steps. With x = -t ln β2 and c = -2 / ln β2 it is ρ∞ - c x / (e^x - 1), whose series begins
        (ρ∞ - c) + t - c (x²/12 - x⁴/720 ...).
        """
        limit, scale = 2 / (1 - self.beta_2) - 1, -2 / math.log(self.beta_2)
        x = -math.log(self.beta_2) * step
        near = ops.minimum(x, 1.0)
        series = near**2 / 12 - near**4 / 720 + near**6 / 30240 - near**8 / 1209600
        return ops.where(x < 1, (limit - scale) + step - scale * series, limit - scale * x / ops.expm1(x))
