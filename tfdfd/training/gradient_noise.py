"""Noise on gradients that fades (Neelakantan et al., "Adding Gradient Noise Improves Learning", arXiv:1511.06807)."""

from __future__ import annotations

import keras
from keras import ops

from tfdfd.training.wrapped import WrappedOptimizer


@keras.saving.register_keras_serializable(package="tfdfd")
class GradientNoise(WrappedOptimizer):
    """Adds normal noise of the variance η / (1 + t)^γ to each gradient at time t (from 0): document S2, section 7.1.2.

    The noise is added before the inner optimizer clips. Its generator is one of the optimizer's variables: a training
    that goes on from saved variables draws what an uninterrupted one would have drawn.

    Args:
        inner_optimizer: the one that takes the step; see `WrappedOptimizer`.
        eta: η, above 0; the paper tries 0.01, 0.3 and 1.
        gamma: γ, at least 0.
        seed: whole number from 0.
        every: steps that make a unit of t, from 1: 1, or those of an epoch (S2 tried both).
        name: of this optimizer.

    Raises:
        ValueError: a value out of its range.
    """

    def __init__(self, inner_optimizer, eta, gamma=0.55, seed=0, name=None, every=1):
        super().__init__(inner_optimizer, name)
        if not eta > 0 or not gamma >= 0:
            raise ValueError(f"expected eta above 0 and gamma of at least 0; received eta={eta}, gamma={gamma}.")
        self.eta = eta
        self.gamma = gamma
        if every < 1:
            raise ValueError(f"every must be at least 1 step; received {every}.")
        self.seed = seed
        self.every = every
        self.generator = keras.random.SeedGenerator(seed)

    def passed_on(self, gradients):
        step = ops.cast(ops.floor_divide(self.iterations, self.every), "float32")
        deviation = ops.sqrt(self.eta / (1 + step) ** self.gamma)
        return [None if gradient is None else gradient + self._noise(gradient, deviation) for gradient in gradients]

    @property
    def variables(self):
        return [self.generator.state, *super().variables]

    def get_config(self):
        return super().get_config() | {"eta": self.eta, "gamma": self.gamma, "seed": self.seed, "every": self.every}

    def _noise(self, gradient, deviation):
        noise = keras.random.normal(gradient.shape, dtype="float32", seed=self.generator)
        return ops.cast(deviation * noise, gradient.dtype)
