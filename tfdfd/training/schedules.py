"""Learning rate schedules by name: functions of the step, and rules that change the rate after an epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.optimizers.schedules import CosineDecay, ExponentialDecay, LearningRateSchedule

from tfdfd.near_matches import did_you_mean
from tfdfd.training import TrainingError

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
    if name == "constant":
        return Schedule(learning_rate)
    if name == "divided":
        return Schedule(DividedEvery(learning_rate))
    if name == "divided-5-epochs":
        return Schedule(DividedEvery(learning_rate, every=5 * steps_per_epoch, lowest=0.0))
    if name == "computed":
        return Schedule(computed_decay(learning_rate, steps_per_epoch, epochs))
    if name == "plateau":
        return Schedule(learning_rate, (Plateau(),))
    if name == "decay-plateau":
        return Schedule(learning_rate, (EpochDecay(), Plateau()))
    if name == "plateau-training":
        return Schedule(learning_rate, (Plateau(monitor="loss"),))
    if name == "decay":
        return Schedule(learning_rate, (EpochDecay(),))
    if name == "decay-plateau-training":
        return Schedule(learning_rate, (EpochDecay(), Plateau(monitor="loss")))
    if name == "cosine":
        return Schedule(CosineDecay(learning_rate, steps_per_epoch * epochs))
    hint = did_you_mean(name, SCHEDULES, 1, f"there are {', '.join(SCHEDULES)}.")
    raise ValueError(f"no schedule is known as {name!r}; {hint}")
