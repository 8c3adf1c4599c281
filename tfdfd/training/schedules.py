"""Learning rates by name: as functions of the step, and as what an epoch's result does to them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace

import keras
import numpy as np
from keras import ops
from keras.optimizers.schedules import CosineDecay, ExponentialDecay, LearningRateSchedule

from tfdfd.near_matches import did_you_mean
from tfdfd.training.errors import TrainingError

SCHEDULES = (
    "constant", "divided", "divided-5-epochs", "computed", "plateau", "plateau-training", "decay", "decay-plateau",
    "decay-plateau-training", "cosine",
)  # fmt: skip
LOWEST = 1e-6


@keras.saving.register_keras_serializable(package="tfdfd")
class DividedEvery(LearningRateSchedule):
    """`initial` divided by `factor` every so many steps, down to `lowest` (document S1, section 4.2, by default).

    Args:
        initial: rate of the steps 0 to `every` - 1.
        factor: above 1.
        every: steps, from 1.
        lowest: below which the rate does not go; 0 for no limit.

    Raises:
        ValueError: a value out of its range.
    """

    def __init__(self, initial=1e-3, factor=10.0, every=1000, lowest=LOWEST):
        if not (initial > 0 and factor > 1 and every >= 1 and 0 <= lowest <= initial):
            raise ValueError(
                "expected initial > 0, factor > 1, every >= 1 and 0 <= lowest <= initial; received "
                f"initial={initial}, factor={factor}, every={every}, lowest={lowest}."
            )
        self.initial, self.factor, self.every, self.lowest = initial, factor, every, lowest

    def __call__(self, step):
        times = ops.cast(ops.floor_divide(step, self.every), "float32")
        return ops.maximum(self.initial / ops.power(ops.cast(self.factor, "float32"), times), self.lowest)

    def get_config(self):
        return {"initial": self.initial, "factor": self.factor, "every": self.every, "lowest": self.lowest}


def computed_decay(
    initial: float, steps_per_epoch: int, epochs: int, rate: float = 0.1, lowest: float = LOWEST
) -> ExponentialDecay:
    """Decay in stairs that are long enough for `epochs` to hold all of them (document S1, section 4.3.1).

    In its words, "the number of steps after which one step of decay should be applied is calculated dynamically based
    on a decay limit (the lowest learning rate), decay steps and the number of epochs". It gives no formula; this is the
    one of the program its text comes from (github.com/MalayAgr/MesoNet-DeepFakeDetection, mesonet/train.py):

        decays = ⌊log(lowest / initial) / log(rate)⌋
        steps of a stair = steps_per_epoch · ⌊epochs / decays⌋

    With its 30 epochs from 1e-3 to 1e-6: 1e-3, 1e-4 and 1e-5 for ten epochs each. Epochs fewer than decays have stairs
    of one epoch.

    Args:
        initial: rate of the first stair.
        steps_per_epoch: from 1.
        epochs: that are planned, from 1.
        rate: factor from stair to stair, in (0, 1).
        lowest: the limit, at most `initial` times `rate`.

    Raises:
        ValueError: `lowest` leaves no room for a decay.
    """
    # Of a whole number of decays, the logarithms' quotient may be 2.9999999999999996.
    decays = math.floor(math.log(lowest / initial) / math.log(rate) + 1e-9)
    if decays < 1:
        raise ValueError(
            f"the computed decay goes from the learning rate down to {lowest} by factors of {rate}: expected a "
            f"learning rate of {lowest / rate:g} at least; received {initial}."
        )
    return ExponentialDecay(initial, steps_per_epoch * max(epochs // decays, 1), rate, staircase=True)


class EpochDecay:
    """The rate times `rate` after each `every` epochs: S2, section 7.1.5, ×0.94 every second epoch."""

    def __init__(self, rate: float = 0.94, every: int = 2):
        if not 0 < rate < 1 or every < 1:
            raise ValueError(f"expected a rate in (0, 1) and every >= 1; received rate={rate}, every={every}.")
        self.rate, self.every = rate, every

    def after_epoch(self, optimizer: keras.optimizers.Optimizer, epoch: int, row: dict) -> None:
        """Sets the optimizer's rate; epochs are counted from 0."""
        if (epoch + 1) % self.every == 0:
            optimizer.learning_rate = float(ops.convert_to_numpy(optimizer.learning_rate)) * self.rate

    def get_state(self) -> dict:
        """Nothing: what was done is in the optimizer's rate, the rest in the number of the epoch."""
        return {}

    def set_state(self, state: dict) -> None:
        """Takes what `get_state` gave."""


class Plateau:
    """The rate times `factor` when `patience` epochs in a row bring nothing, by Keras's ReduceLROnPlateau.

    S2, sections 5.3 and 7.1.5: halved "if an improvement wasn't observed in the last 2 epochs". (PyTorch, which it
    used, counts otherwise: there, patience 2 waits for a third.)

    Args:
        factor: in (0, 1).
        patience: epochs, from 1.
        monitor: name in the epoch's row; smaller is better.
    """

    def __init__(self, factor: float = 0.5, patience: int = 2, monitor: str = "val_loss"):
        if not 0 < factor < 1 or patience < 1:
            raise ValueError(
                f"expected a factor in (0, 1) and patience >= 1; received factor={factor}, patience={patience}."
            )
        self._callback = keras.callbacks.ReduceLROnPlateau(monitor, factor, patience, mode="min")

    def after_epoch(self, optimizer: keras.optimizers.Optimizer, epoch: int, row: dict) -> None:
        """Sets the optimizer's rate by the epoch's figures.

        Raises:
            TrainingError: they lack what is monitored, or it is no number.
        """
        monitor = self._callback.monitor
        if not np.isfinite(row.get(monitor, np.nan)):
            raise TrainingError(
                f"the learning rate follows {monitor}, which must be a finite number; received {row.get(monitor)} in "
                f"epoch {epoch + 1}, which has {', '.join(row)}."
            )
        # All that the callback asks a model for is its optimizer.
        self._callback.set_model(SimpleNamespace(optimizer=optimizer))
        self._callback.on_epoch_end(epoch, dict(row))

    def get_state(self) -> dict:
        """The best figure so far and the epochs without a better one, for JSON."""
        best = self._callback.best
        return {"best": None if best is None else float(best), "wait": self._callback.wait}

    def set_state(self, state: dict) -> None:
        """Takes what `get_state` gave; an empty dict begins anew."""
        self._callback.best, self._callback.wait = state.get("best"), state.get("wait", 0)


@dataclass(frozen=True)
class Schedule:
    """A learning rate over a whole training.

    Attributes:
        rate: what the optimizer is made with: a number, or a function of the step.
        rules: what is done to it after an epoch, in this order. Only with a number: Keras lets nobody set a rate that
            is a function.
    """

    rate: float | LearningRateSchedule
    rules: tuple[EpochDecay | Plateau, ...] = ()

    def after_epoch(self, optimizer: keras.optimizers.Optimizer, epoch: int, row: dict) -> None:
        """Sets the rate of the next epoch.

        Args:
            optimizer: of the training, wrapped or not.
            epoch: the one that is over, counted from 0.
            row: its figures by name, such as `val_loss`.

        Raises:
            TrainingError: a figure is missing or no number.
        """
        for rule in self.rules:
            rule.after_epoch(optimizer, epoch, row)

    def get_state(self) -> dict:
        """What is to be saved for going on, beside the optimizer's variables; for JSON."""
        return {type(rule).__name__: rule.get_state() for rule in self.rules}

    def set_state(self, state: dict) -> None:
        """Takes what `get_state` gave; an empty dict begins anew."""
        for rule in self.rules:
            rule.set_state(state.get(type(rule).__name__, {}))


def schedule_of(name: str, learning_rate: float, steps_per_epoch: int, epochs: int) -> Schedule:
    """A schedule by name.

    `constant`. `divided`: by 10 every 1,000 steps down to 1e-6 (S1, section 4.2). `divided-5-epochs`: by 10 every 5
    epochs (S1, section 4.3.1, second model). `computed`: see `computed_decay` (S1, first model). `plateau`: halved when
    two epochs bring nothing (S2, section 5.3). `decay-plateau`: that, and ×0.94 every second epoch (S2, section
    7.1.5). `plateau-training` and `decay-plateau-training`: the same by the training loss, as in S2's program. `decay`:
    ×0.94 every second epoch alone (S2, figure 7.2). `cosine`: along half a cosine to 0 at the last step.

    Args:
        name: one of `SCHEDULES`.
        learning_rate: of the first step.
        steps_per_epoch: from 1.
        epochs: that are planned, from 1.

    Raises:
        ValueError: an unknown name, with the near one; or numbers that the schedule cannot take.
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
