"""S3's training: a new last layer on what a frozen network makes of each crop, which is computed once and kept.

As in the document (section IV): a fully connected layer with a softmax of two classes, plain gradient descent, `steps`
steps of `batch_size` crops drawn at random from the training set, with replacement. A softmax of two is a sigmoid of
the difference, so the layer's two columns then become the one of `fake_probability`, with the same answers. The weights
of the last step are kept, as there; nothing is chosen.
"""

from __future__ import annotations

import time

import numpy as np

from tfdfd.models import build
from tfdfd.models.blocks import freeze
from tfdfd.training.bottlenecks import BottleneckCache, folder_beside
from tfdfd.training.crop_set import TRAIN, VAL, CropSet
from tfdfd.training.curves import draw_curves
from tfdfd.training.engine import Report
from tfdfd.training.errors import TrainingError
from tfdfd.training.finishing import finish
from tfdfd.training.recipe import Recipe
from tfdfd.training.run_folder import RunFolder
from tfdfd.training.tensorboard import write_scalars
from tfdfd.training.validation import figures
from tfdfd.weights.loading import HEAD

ROWS_EVERY = 100
NOTES_EVERY = 30.0
# The settings of a recipe that gradient descent on stored values has no use for, and what they must be.
_FIXED = {
    "order": "shuffled",
    "augment": None,
    "optimizer": "sgdm",
    "schedule": "constant",
    "loss": "binary_crossentropy",
    "loss_scale": False,
    "gradient_noise": None,
    "ema": None,
    "gradient_flow": False,
    "patience": None,
}


class SoftmaxLayer:
    """A fully connected layer with a softmax of two classes (0 real, 1 fake) and its gradient descent, in float64.

    Args:
        width: of its input.
        seed: of its first weights, normal with a deviation of 0.001.
        rate: learning rate.
        momentum: share of the last step that the next one takes along; 0 for plain gradient descent.
    """

    def __init__(self, width: int, seed: int, rate: float, momentum: float = 0.0):
        self.kernel = np.random.default_rng([seed, 0]).normal(0, 0.001, (width, 2))
        self.bias = np.zeros(2)
        self._rate, self._momentum = rate, momentum
        self._speed = [np.zeros_like(self.kernel), np.zeros_like(self.bias)]

    def step(self, values: np.ndarray, labels: np.ndarray) -> None:
        """One step down the mean cross-entropy of crops: values `(n, width)`, labels `(n,)` of 0 and 1."""
        logits = values @ self.kernel + self.bias
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        error = shares / shares.sum(axis=1, keepdims=True)
        error[np.arange(len(labels)), labels] -= 1
        error /= len(labels)
        gradients = values.T @ error, error.sum(axis=0)
        for weights, speed, gradient in zip((self.kernel, self.bias), self._speed, gradients, strict=True):
            speed *= self._momentum
            speed -= self._rate * gradient
            weights += speed

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """Kernel `(width, 1)` and bias `(1,)`, float32, of the sigmoid that is the softmax's class 1."""
        with np.errstate(over="ignore"):
            return tuple((part[..., 1:] - part[..., :1]).astype(np.float32) for part in (self.kernel, self.bias))


def run(recipe: Recipe, crops: CropSet, run: RunFolder, report: Report) -> dict:
    """Trains the last layer of `recipe.network`, everything below it frozen.

    A run that was stopped goes on with the values that are stored, and repeats the steps, which take a second.

    Returns:
        The result, with table 2's figures of crops, before calibration: `train_accuracy`, `train_cross_entropy` and
        `val_crop_accuracy` (at 0.5), and the seconds for values and for steps.

    Raises:
        ValueError: settings that this training has no use for, a network without weights.
        TrainingError: a crop cannot be read, or the loss is no number.
    """
    _check(recipe)
    model = freeze(build(recipe.network, recipe.weights, (crops.size, crops.size, 3), **recipe.arguments), "all")
    begun = time.monotonic()
    faces = {split: crops.faces(split) for split in (TRAIN, VAL)}
    cache = BottleneckCache(model, recipe.network, recipe.arguments, folder_beside(faces[TRAIN]))
    stored = {split: cache.values(part, _Telling(report, split)) for split, part in faces.items()}
    values_seconds = time.monotonic() - begun
    for split, values in stored.items():
        damaged = f"; {values.removed} damaged pieces were removed" if values.removed else ""
        report.note(f"{split}: values of {values.computed:,} of {len(values):,} crops were computed{damaged}")
    layer, history = _descend(recipe, faces, stored, report)
    run.write_log(history)
    write_scalars(run.path / "tensorboard", history)
    draw_curves(run.path / "curves.png", history, recipe.name)
    model.get_layer(HEAD).set_weights(layer.folded())
    last = history[-1]
    told = {
        "steps": recipe.steps,
        "train_accuracy": last["accuracy"],
        "train_cross_entropy": last["loss"],
        "val_crop_accuracy": last["val_accuracy"],
        "values_computed": sum(values.computed for values in stored.values()),
        "values_seconds": round(values_seconds, 2),
        "training_seconds": round(time.monotonic() - begun, 2),
        "bottlenecks": str(cache.path),
    }
    return finish(model, recipe, crops, run, told)


def _check(recipe):
    if recipe.weights is None:
        raise ValueError(
            f"{recipe.name} keeps {recipe.network} as it is, so it must have weights: set weights=imagenet, "
            "weights=imagenet:FILE, a handle or a file."
        )
    if recipe.steps is None:
        raise ValueError(f"{recipe.name} counts steps, not epochs: set steps=2500, as S3 does, or another number.")
    if recipe.arguments.get("freeze", "all") != "all":
        raise ValueError(
            f"values that are computed once are of a frozen network; received arguments.freeze="
            f"{recipe.arguments['freeze']}. Leave it out, or train by another recipe."
        )
    for name, expected in _FIXED.items():
        value = getattr(recipe, name)
        if value != expected:
            told = "none" if expected is None else str(expected).lower()
            raise ValueError(f"the bottleneck procedure takes {name}={told} only; received {name}={value}.")


def _descend(recipe, faces, stored, report):
    """The trained layer, and a row of the log every so many steps."""
    labels = {split: np.array([row.label for row in part.rows]) for split, part in faces.items()}
    layer = SoftmaxLayer(stored[TRAIN].width, recipe.seed, recipe.learning_rate, recipe.momentum)
    draw, begun, history = np.random.default_rng([recipe.seed, 1]), time.monotonic(), []
    for step in range(1, recipe.steps + 1):
        chosen = draw.integers(len(labels[TRAIN]), size=recipe.batch_size)
        layer.step(stored[TRAIN].take(chosen), labels[TRAIN][chosen])
        if step % ROWS_EVERY and step != recipe.steps:
            continue
        training = figures(faces[TRAIN].rows, _scores(layer, stored[TRAIN], step))
        row = {"step": step, "learning_rate": recipe.learning_rate}
        row |= {"loss": training["val_loss"], "accuracy": training["val_accuracy"]}
        row |= figures(faces[VAL].rows, _scores(layer, stored[VAL], step))
        history.append(row | {"seconds": round(time.monotonic() - begun, 2)})
        report.step(0, 1, step, recipe.steps, row["loss"])
    return layer, history


def _scores(layer, values, step):
    kernel, bias = layer.folded()
    with np.errstate(all="ignore"):
        logits = np.concatenate([block @ kernel + bias for block in values.blocks()])[:, 0].astype(np.float64)
    if not np.isfinite(logits).all():
        raise TrainingError(f"after step {step} the network answers no numbers: lower learning_rate.")
    return np.exp(-np.logaddexp(0, -logits))


class _Telling:
    """Says from time to time how far the values are."""

    def __init__(self, report, split):
        self._report, self._split, self._last = report, split, time.monotonic()

    def __call__(self, done, count):
        if time.monotonic() - self._last >= NOTES_EVERY:
            self._last = time.monotonic()
            self._report.note(f"{self._split}: values of {done:,} of {count:,} crops")
