"""Training of `meso_inception4` by tfdfd on batches in memory, in turns; run by `benchmarks.training`.

    KERAS_BACKEND=... python -m benchmarks.keras_training FOLDER

Times `tfdfd.training.engine.fit` itself, from the end of one step to the end of another.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from benchmarks.turns import say, turns
from tfdfd.models import build
from tfdfd.training.engine import fit
from tfdfd.training.recipe import Recipe
from tfdfd.training.run_folder import RunFolder
from tfdfd.weights.saving import named_weights

RECIPE = Recipe(name="benchmark", source="none", expected="nothing: images are noise", network="meso_inception4")


class InMemory:
    """Endless batches with the interface of `CropSet`."""

    steps = sys.maxsize

    def __init__(self, image, label):
        self._batches = image, label

    def batches(self, epoch, first_batch):
        """The batches, repeated."""
        return tf.data.Dataset.from_tensor_slices(self._batches).repeat().prefetch(tf.data.AUTOTUNE)


class Losses:
    """A progress report that records the losses of the first steps and ends the training."""

    def __init__(self, steps):
        self.losses, self._steps = [], steps

    def step(self, epoch, epochs, step, steps, loss):
        # Keras reports the mean over the steps of the epoch.
        self.losses.append(step * loss - sum(self.losses))
        if step == self._steps:
            raise Enough


class Turns:
    """A progress report that blocks the training between turns."""

    def __init__(self, warm, info):
        self._left, self._info, self._turns = warm, info, turns()

    def step(self, epoch, epochs, step, steps, loss):
        self._left -= 1
        if self._info and not self._left:
            say(self._info)
            self._info = None
        if not self._left:
            self._left = next(self._turns, 0)
            if not self._left:
                raise Enough


class Enough(Exception):
    """Ends the training."""


def train(model, crops, report) -> None:
    """Trains until the report ends it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        RunFolder(folder, RECIPE, {}, keras.backend.backend()) as run,
        contextlib.suppress(Enough),
    ):
        fit(model, RECIPE, crops, run, report)


def network(folder, dropout):
    model = build(RECIPE.network, dropout=dropout)
    values = np.load(folder / "weights.npz")
    for name, weight in named_weights(model).items():
        weight.assign(values[name])
    return model


def set_precision(name):
    keras.config.set_floatx(name)
    keras.config.set_dtype_policy(name)


def read_batches(file):
    data = np.load(file)
    return data["image"], data["label"]


def main(folder: Path) -> None:
    image, label = read_batches(folder / "batches.npz")
    scores = np.asarray(network(folder, 0.0)(image[0], training=False))[:, 0]
    if keras.backend.backend() == "tensorflow":
        set_precision("float64")
    few, their_labels = read_batches(folder / "compared.npz")
    first = Losses(len(few))
    train(network(folder, 0.0), InMemory(few, their_labels), first)
    set_precision("float32")
    info = {"version": keras.__version__, "scores": scores.tolist(), "losses": first.losses}
    train(network(folder, 0.5), InMemory(image, label), Turns(len(image), info))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
