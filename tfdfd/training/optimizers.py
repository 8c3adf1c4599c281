"""Optimizers and learning rate schedules by name, and the documents' gradient noise, gradient records and averages."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.optimizers.schedules import CosineDecay, ExponentialDecay, LearningRateSchedule

from tfdfd.text import did_you_mean
from tfdfd.training import TrainingError


@keras.saving.register_keras_serializable(package="tfdfd")
class RAdam(keras.optimizers.Optimizer):
    """Rectified Adam (Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", arXiv:1908.03265).

    Algorithm 2 of the paper: the optimizer uses momentum alone until the variance of the adaptive rate is tractable.
    With ρ∞ = 2 / (1 - β2) - 1 and ρ = ρ∞ - 2 t β2^t / (1 - β2^t) at step t (from 1), and m and v the moving averages of
    the gradient and of its square:

        ρ > threshold:  weight -= rate · r · m / (1 - β1^t) · √(1 - β2^t) / (√v + epsilon)
        otherwise:      weight -= rate · m / (1 - β1^t)
        r = √((ρ - 4) (ρ - 2) ρ∞ / ((ρ∞ - 4) (ρ∞ - 2) ρ))

    Args:
        learning_rate: number above 0, or a Keras schedule.
        beta_1: decay of the average of gradients, in [0, 1).
        beta_2: decay of the average of squared gradients, in (0.6, 1). At 0.6 and below, ρ never reaches 4.
        epsilon: added to √v, as in the authors' code; the paper has none.
        threshold: at least 4. With the paper's 4, adaptation starts at the fifth step (β2 = 0.999); the authors' code,
            document S2 and PyTorch use 5, which is the sixth step.
        **kwargs: the arguments of every Keras optimizer: `weight_decay` (decoupled, as in AdamW), `clipnorm`,
            `use_ema` and others.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        threshold: float = 4.0,
        **kwargs: Any,
    ) -> None:
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
            raise ValueError(f"threshold must be at least 4, below which r is not defined; received {threshold}.")
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.threshold = threshold

    def build(self, variables: Sequence[Any]) -> None:
        if self.built:
            return
        super().build(variables)
        self._firsts, self._seconds = self.add_optimizer_variables(variables, ["first_moment", "second_moment"])

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        number = self._get_variable_index(variable)
        first, second = self._firsts[number], self._seconds[number]
        gradient = ops.cast(gradient, variable.dtype)
        self.assign(first, self.beta_1 * first + (1 - self.beta_1) * gradient)
        self.assign(second, self.beta_2 * second + (1 - self.beta_2) * ops.square(gradient))

        momentum, adaptive, is_adaptive = self._factors(ops.cast(self.iterations + 1, "float32"))
        rate = ops.cast(ops.cast(learning_rate, "float32") * momentum, variable.dtype)
        scale = ops.cast(adaptive, variable.dtype) / (ops.sqrt(second) + self.epsilon)
        self.assign_sub(variable, rate * first * ops.where(is_adaptive, scale, ops.ones_like(scale)))

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("beta_1", "beta_2", "epsilon", "threshold")}
        return super().get_config() | own

    def _factors(self, step: Any) -> tuple:
        """Returns 1 / (1 - β1^t), r √(1 - β2^t), and whether ρ exceeds the threshold, for t as a float32 scalar."""
        limit = 2 / (1 - self.beta_2) - 1
        length = self._length(step)
        rectified = (length - 4) * (length - 2) * (limit / ((limit - 4) * (limit - 2))) / length
        grown = -ops.expm1(step * math.log(self.beta_2))
        momentum = 1 / -ops.expm1(step * (math.log(self.beta_1) if self.beta_1 else -math.inf))
        return momentum, ops.sqrt(ops.maximum(rectified, 0.0) * grown), length > self.threshold

    def _length(self, step: Any) -> Any:
        """Returns ρ at step t.

        The paper's formula is a small difference of large numbers, which loses most of float32's precision in the
        first steps. With x = -t ln β2 and c = -2 / ln β2 it equals ρ∞ - c x / (e^x - 1), whose series starts
        (ρ∞ - c) + t - c (x²/12 - x⁴/720 ...).
        """
        limit, scale = 2 / (1 - self.beta_2) - 1, -2 / math.log(self.beta_2)
        x = -math.log(self.beta_2) * step
        near = ops.minimum(x, 1.0)
        series = near**2 / 12 - near**4 / 720 + near**6 / 30240 - near**8 / 1209600
        return ops.where(x < 1, (limit - scale) + step - scale * series, limit - scale * x / ops.expm1(x))


class OptimizerWrapper(keras.optimizers.Optimizer):
    """An optimizer that transforms gradients, then lets another optimizer apply them.

    Keras and its callbacks see one optimizer. Loss scaling goes outside of it (`keras.optimizers.LossScaleOptimizer`),
    so that the wrapper sees unscaled gradients, and only those that are applied. A subclass implements
    `transform_gradients`, keeps its state in Keras variables made in `build`, and returns its arguments in
    `get_config`.

    Raises:
        ValueError: the inner optimizer scales the loss.
    """

    def __init__(self, inner_optimizer: keras.optimizers.Optimizer, name: str | None = None) -> None:
        if isinstance(inner_optimizer, keras.optimizers.LossScaleOptimizer) or inner_optimizer.loss_scale_factor:
            raise ValueError(
                f"{type(self).__name__} needs unscaled gradients: put LossScaleOptimizer around it; received "
                f"{inner_optimizer.name} with loss scaling inside."
            )
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer

    def transform_gradients(self, gradients: list) -> list:
        """Returns the gradients for the inner optimizer, in the order of the weights; None for a missing gradient."""
        return gradients

    def build(self, variables: Sequence[Any]) -> None:
        self.inner_optimizer.build(variables)
        super().build(variables)

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        if not self.built:
            self.build(list(trainable_variables))  # type: ignore[arg-type]
        if len(grads) != len(self._trainable_variables):
            raise ValueError(
                f"{self.name} takes one gradient (or None) for each of the {len(self._trainable_variables)} weights it "
                f"was built with; received {len(grads)} gradients."
            )
        self.inner_optimizer.apply(self.transform_gradients(list(grads)), trainable_variables)

    @property
    def variables(self) -> list:
        return [*super().variables, *self.inner_optimizer.variables]

    @property
    def learning_rate(self) -> Any:
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self) -> Any:
        return self.inner_optimizer.iterations

    @property
    def _model_variables_moving_average(self) -> Any:
        # Keras's SwapEMAWeights looks for the averages here; it unwraps one level only.
        return self.inner_optimizer._model_variables_moving_average

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        self.inner_optimizer.finalize_variable_values(var_list)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "inner_optimizer": keras.saving.serialize_keras_object(self.inner_optimizer)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> OptimizerWrapper:
        inner = keras.saving.deserialize_keras_object(config["inner_optimizer"], custom_objects)
        return cls(**config | {"inner_optimizer": inner})


@keras.saving.register_keras_serializable(package="tfdfd")
class SeparateAverage(OptimizerWrapper):
    """Keeps the moving average of weights apart from the weights when `fit` ends; Keras would overwrite the weights.

    A training that calls `fit` once per epoch continues with the weights, and validates and saves the averages; see
    `averaged_weights`.
    """

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        pass


@keras.saving.register_keras_serializable(package="tfdfd")
class GradientNoise(OptimizerWrapper):
    """Adds annealed Gaussian noise to gradients (Neelakantan et al., arXiv:1511.06807; document S2, section 7.1.2).

    The variance at time t (from 0) is η / (1 + t)^γ. Noise is added before the inner optimizer clips. The generator is
    one of the optimizer's variables: a training resumed from saved variables draws the same noise as an uninterrupted
    one.

    Args:
        inner_optimizer: the optimizer that applies the gradients, see `OptimizerWrapper`.
        eta: η, above 0; the paper tries 0.01, 0.3 and 1.
        gamma: γ, at least 0.
        seed: integer, at least 0.
        name: name of the wrapper.
        every: number of steps in a unit of t, at least 1: 1, or the steps of an epoch (S2 tried both).

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer,
        eta: float,
        gamma: float = 0.55,
        seed: int = 0,
        name: str | None = None,
        every: int = 1,
    ) -> None:
        super().__init__(inner_optimizer, name)
        if not eta > 0 or not gamma >= 0:
            raise ValueError(f"expected eta above 0 and gamma of at least 0; received eta={eta}, gamma={gamma}.")
        if every < 1:
            raise ValueError(f"every must be at least 1 step; received {every}.")
        self.eta = eta
        self.gamma = gamma
        self.seed = seed
        self.every = every
        self.generator = keras.random.SeedGenerator(seed)

    def transform_gradients(self, gradients: Sequence[Any]) -> list:
        step = ops.cast(ops.floor_divide(self.iterations, self.every), "float32")
        deviation = ops.sqrt(self.eta / (1 + step) ** self.gamma)
        return [None if gradient is None else gradient + self._noise(gradient, deviation) for gradient in gradients]

    @property
    def variables(self) -> list:
        return [self.generator.state, *super().variables]

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"eta": self.eta, "gamma": self.gamma, "seed": self.seed, "every": self.every}

    def _noise(self, gradient: Any, deviation: Any) -> Any:
        noise = keras.random.normal(gradient.shape, dtype="float32", seed=self.generator)
        return ops.cast(deviation * noise, gradient.dtype)


@keras.saving.register_keras_serializable(package="tfdfd")
class GradientRecord(OptimizerWrapper):
    """Records the largest |g| and the mean |g| of each weight since `clear`; passes gradients on unchanged.

    Args:
        inner_optimizer: the optimizer that applies the gradients, see `OptimizerWrapper`. A missing gradient counts
            as 0.
        name: name of the wrapper.
    """

    def build(self, variables: Sequence[Any]) -> None:
        super().build(variables)
        self.weight_sizes = tuple((variable.path, int(np.prod(variable.shape))) for variable in variables)
        count = len(self.weight_sizes)
        self._largest = self.add_variable((count,), dtype="float32", name="largest_gradients")
        self._total = self.add_variable((count,), dtype="float32", name="sum_of_mean_gradients")
        self._steps = self.add_variable((), dtype="int32", name="recorded_steps")

    def transform_gradients(self, gradients: list) -> list:
        sizes = [None if gradient is None else ops.abs(ops.cast(gradient, "float32")) for gradient in gradients]
        largest = ops.stack([ops.zeros(()) if size is None else ops.max(size) for size in sizes])
        mean = ops.stack([ops.zeros(()) if size is None else ops.mean(size) for size in sizes])
        self._largest.assign(ops.maximum(self._largest, largest))
        self._total.assign(self._total + mean)
        self._steps.assign(self._steps + 1)
        return gradients

    def magnitudes(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the largest and the mean |g| of each weight, float64 `(weights,)`; NaN before the first step."""
        steps = int(ops.convert_to_numpy(self._steps))
        if not steps:
            nothing = np.full(len(self.weight_sizes), np.nan)
            return nothing, nothing
        largest, total = (ops.convert_to_numpy(part).astype(np.float64) for part in (self._largest, self._total))
        return largest, total / steps

    def clear(self) -> None:
        """Starts a new recording, as at the start of an epoch."""
        for variable in (self._largest, self._total, self._steps):
            variable.assign(ops.zeros(variable.shape, variable.dtype))


OPTIMIZERS = {"adam": keras.optimizers.Adam, "sgdm": keras.optimizers.SGD, "radam": RAdam}


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
    """Returns an optimizer for `compile`. Its `variables` hold its whole state, so a training resumes from them.

    Defaults are the documents' values where they name any: Adam with 0.9 and 0.999 (S1, section 4.2), momentum 0.9
    (S2, section 5.3), RAdam as in the paper.

    Args:
        name: one of `OPTIMIZERS`.
        learning_rate: number above 0, or a function of the step (`tfdfd.training.optimizers`).
        momentum: for `sgdm`, in [0, 1]. It is Keras's momentum, which includes the rate of past steps.
        radam_threshold: `threshold` of `RAdam`, for `radam`.
        loss_scale: whether to scale the loss dynamically with `keras.optimizers.LossScaleOptimizer`. Under
            `mixed_float16`, Keras's `compile` does so anyway.
        gradient_noise: η of `GradientNoise`; None for none.
        steps_per_noise: `every` of `GradientNoise`: 1, or the steps of an epoch.
        gradient_flow: whether to record each weight's gradients, before noise, for `history.GradientFlow`.
        ema: decay of a separate moving average of the weights, in [0, 1), see `SeparateAverage`; None for none.
        seed: seed of the noise, an integer of at least 0.

    Raises:
        ValueError: the name is unknown (the error lists near matches), or a value is out of range.
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


@contextlib.contextmanager
def averaged_weights(model: keras.Model, decay: float | None) -> Iterator[None]:
    """Replaces the weights of `model` by its optimizer's moving averages inside the context; no-op if `decay` is None.

    Keras's `SwapEMAWeights` adds and subtracts, which changes the last bit of the weights; this restores them exactly.
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


SCHEDULES = (
    "constant", "divided", "divided-5-epochs", "computed", "plateau", "plateau-training", "decay", "decay-plateau",
    "decay-plateau-training", "cosine",
)  # fmt: skip
LOWEST = 1e-6


@keras.saving.register_keras_serializable(package="tfdfd")
class DividedEvery(LearningRateSchedule):
    """`initial` divided by `factor` after every `every` steps, down to `lowest` (default: document S1, section 4.2).

    Args:
        initial: rate of the steps 0 to `every` - 1.
        factor: above 1.
        every: number of steps, at least 1.
        lowest: lower limit of the rate; 0 for none.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(self, initial: float = 1e-3, factor: float = 10.0, every: int = 1000, lowest: float = LOWEST) -> None:
        if not (initial > 0 and factor > 1 and every >= 1 and 0 <= lowest <= initial):
            raise ValueError(
                "expected initial > 0, factor > 1, every >= 1 and 0 <= lowest <= initial; received "
                f"initial={initial}, factor={factor}, every={every}, lowest={lowest}."
            )
        self.initial, self.factor, self.every, self.lowest = initial, factor, every, lowest

    def __call__(self, step: Any) -> Any:
        times = ops.cast(ops.floor_divide(step, self.every), "float32")
        return ops.maximum(self.initial / ops.power(ops.cast(self.factor, "float32"), times), self.lowest)

    def get_config(self) -> dict[str, Any]:
        return {"initial": self.initial, "factor": self.factor, "every": self.every, "lowest": self.lowest}


def computed_decay(
    initial: float, steps_per_epoch: int, epochs: int, rate: float = 0.1, lowest: float = LOWEST
) -> ExponentialDecay:
    """Returns a staircase decay whose stairs divide the epochs (document S1, section 4.3.1).

    In its words, "the number of steps after which one step of decay should be applied is calculated dynamically based
    on a decay limit (the lowest learning rate), decay steps and the number of epochs". It gives no formula; this one is
    from the program that its text describes (github.com/MalayAgr/MesoNet-DeepFakeDetection, mesonet/train.py):

        decays = ⌊log(lowest / initial) / log(rate)⌋
        steps of a stair = steps_per_epoch · ⌊epochs / decays⌋

    With its 30 epochs from 1e-3 to 1e-6, the rate is 1e-3, 1e-4 and 1e-5 for ten epochs each. If there are fewer epochs
    than decays, stairs have one epoch.

    Args:
        initial: rate of the first stair.
        steps_per_epoch: at least 1.
        epochs: number of planned epochs, at least 1.
        rate: factor between stairs, in (0, 1).
        lowest: lower limit, at most `initial` times `rate`.

    Raises:
        ValueError: there is no decay between `initial` and `lowest`.
    """
    # For an integer number of decays, the quotient may be 2.9999999999999996.
    decays = math.floor(math.log(lowest / initial) / math.log(rate) + 1e-9)
    if decays < 1:
        raise ValueError(
            f"the computed decay goes from the learning rate down to {lowest} by factors of {rate}: expected a "
            f"learning rate of {lowest / rate:g} at least; received {initial}."
        )
    return ExponentialDecay(initial, steps_per_epoch * max(epochs // decays, 1), rate, staircase=True)


class EpochDecay:
    """Multiplies the learning rate by `rate` every `every` epochs (S2, section 7.1.5: 0.94 every second epoch)."""

    def __init__(self, rate: float = 0.94, every: int = 2):
        if not 0 < rate < 1 or every < 1:
            raise ValueError(f"expected a rate in (0, 1) and every >= 1; received rate={rate}, every={every}.")
        self.rate, self.every = rate, every

    def after_epoch(self, optimizer: keras.optimizers.Optimizer, epoch: int, row: dict) -> None:
        """Updates the optimizer's rate; epochs are counted from 0."""
        if (epoch + 1) % self.every == 0:
            optimizer.learning_rate = float(ops.convert_to_numpy(optimizer.learning_rate)) * self.rate

    def get_state(self) -> dict:
        """Returns an empty dict: the state is the optimizer's rate and the number of the epoch."""
        return {}

    def set_state(self, state: dict) -> None:
        """Restores what `get_state` returned."""


class Plateau:
    """Multiplies the learning rate by `factor` after `patience` epochs without improvement (ReduceLROnPlateau).

    S2, sections 5.3 and 7.1.5: halved "if an improvement wasn't observed in the last 2 epochs". (PyTorch, which the
    document used, counts otherwise: its patience of 2 waits for a third epoch.)

    Args:
        factor: in (0, 1).
        patience: number of epochs, at least 1.
        monitor: metric of the epoch's row; smaller is better.
    """

    def __init__(self, factor: float = 0.5, patience: int = 2, monitor: str = "val_loss"):
        if not 0 < factor < 1 or patience < 1:
            raise ValueError(
                f"expected a factor in (0, 1) and patience >= 1; received factor={factor}, patience={patience}."
            )
        self._callback = keras.callbacks.ReduceLROnPlateau(monitor, factor, patience, mode="min")

    def after_epoch(self, optimizer: keras.optimizers.Optimizer, epoch: int, row: dict) -> None:
        """Updates the optimizer's rate from the epoch's metrics.

        Raises:
            TrainingError: the monitored metric is missing or not finite.
        """
        monitor = self._callback.monitor
        if not np.isfinite(row.get(monitor, np.nan)):
            raise TrainingError(
                f"the learning rate follows {monitor}, which must be a finite number; received {row.get(monitor)} in "
                f"epoch {epoch + 1}, which has {', '.join(row)}."
            )
        # The callback reads only the optimizer of a model.
        self._callback.set_model(SimpleNamespace(optimizer=optimizer))
        self._callback.on_epoch_end(epoch, dict(row))

    def get_state(self) -> dict:
        """Returns the best value so far and the number of epochs without improvement, JSON-serializable."""
        best = self._callback.best
        return {"best": None if best is None else float(best), "wait": self._callback.wait}

    def set_state(self, state: dict) -> None:
        """Restores what `get_state` returned; an empty dict resets the state."""
        self._callback.best, self._callback.wait = state.get("best"), state.get("wait", 0)


@dataclass(frozen=True)
class Schedule:
    """The learning rate of a whole training.

    Attributes:
        rate: initial rate of the optimizer: a number, or a function of the step.
        rules: updates after each epoch, in this order. They need a number, since Keras does not let a function be
            replaced.
    """

    rate: float | LearningRateSchedule
    rules: tuple[EpochDecay | Plateau, ...] = ()

    def after_epoch(self, optimizer: keras.optimizers.Optimizer, epoch: int, row: dict) -> None:
        """Sets the rate of the next epoch.

        Args:
            optimizer: the optimizer of the training, wrapped or not.
            epoch: the epoch that ended, counted from 0.
            row: its metrics by name, such as `val_loss`.

        Raises:
            TrainingError: a metric is missing or not finite.
        """
        for rule in self.rules:
            rule.after_epoch(optimizer, epoch, row)

    def get_state(self) -> dict:
        """Returns the state that resuming needs beside the optimizer's variables, JSON-serializable."""
        return {type(rule).__name__: rule.get_state() for rule in self.rules}

    def set_state(self, state: dict) -> None:
        """Restores what `get_state` returned; an empty dict resets the state."""
        for rule in self.rules:
            rule.set_state(state.get(type(rule).__name__, {}))


def schedule_of(name: str, learning_rate: float, steps_per_epoch: int, epochs: int) -> Schedule:
    """Returns a schedule by name.

    `constant`. `divided`: by 10 every 1,000 steps down to 1e-6 (S1, section 4.2). `divided-5-epochs`: by 10 every 5
    epochs (S1, section 4.3.1, second model). `computed`: see `computed_decay` (S1, first model). `plateau`: halved
    after two epochs without improvement (S2, section 5.3). `decay-plateau`: the same, and times 0.94 every second epoch
    (S2, section 7.1.5). `plateau-training` and `decay-plateau-training`: the same by the training loss, as in the code
    of S2's author. `decay`: times 0.94 every second epoch alone (S2, figure 7.2). `cosine`: half a cosine down to 0 at
    the last step.

    Args:
        name: one of `SCHEDULES`.
        learning_rate: rate of the first step.
        steps_per_epoch: at least 1.
        epochs: number of planned epochs, at least 1.

    Raises:
        ValueError: the name is unknown (the error lists near matches), or the schedule does not accept a number.
    """
    if steps_per_epoch < 1 or epochs < 1:
        raise ValueError(
            f"expected at least one step and one epoch; received steps_per_epoch={steps_per_epoch}, epochs={epochs}."
        )
    makers: dict[str, Callable[[], Schedule]] = {
        "constant": lambda: Schedule(learning_rate),
        "divided": lambda: Schedule(DividedEvery(learning_rate)),
        "divided-5-epochs": lambda: Schedule(DividedEvery(learning_rate, every=5 * steps_per_epoch, lowest=0.0)),
        "computed": lambda: Schedule(computed_decay(learning_rate, steps_per_epoch, epochs)),
        "plateau": lambda: Schedule(learning_rate, (Plateau(),)),
        "plateau-training": lambda: Schedule(learning_rate, (Plateau(monitor="loss"),)),
        "decay": lambda: Schedule(learning_rate, (EpochDecay(),)),
        "decay-plateau": lambda: Schedule(learning_rate, (EpochDecay(), Plateau())),
        "decay-plateau-training": lambda: Schedule(learning_rate, (EpochDecay(), Plateau(monitor="loss"))),
        "cosine": lambda: Schedule(CosineDecay(learning_rate, steps_per_epoch * epochs)),
    }
    if name in makers:
        return makers[name]()
    hint = did_you_mean(name, SCHEDULES, 1, f"there are {', '.join(SCHEDULES)}.")
    raise ValueError(f"no schedule is known as {name!r}; {hint}")


def set_norm_momentum(model: keras.Model, momentum: float) -> int:
    """Sets the momentum of the running mean and variance in every batch normalization layer.

    Running statistics start at 0 and 1, and a share of `momentum ** steps` of that start remains: with MobileNetV3's
    own 0.999, a quarter after 1,400 steps. A deep network trained from scratch in so few steps then gives all images
    about the same score in inference, however well it does on training batches.

    Args:
        model: not compiled yet; nested models are included.
        momentum: between 0 and 1.

    Returns:
        The number of layers that were set.
    """
    count = 0
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            count += set_norm_momentum(layer, momentum)
        elif isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = momentum
            count += 1
    return count
