"""Training engine: Keras's `fit`, one epoch at a time, validated, saved, and resumable at any step; and distillation.

All state of a step (weights, optimizer, random generators, running metrics) is in Keras variables, and the data are a
function of seed, epoch and position. A run that was killed therefore ends with the weights it would have had.

A student that has a teacher learns from labels and imitates the teacher's last feature maps and its answer. Answers:
Hinton et al., "Distilling the knowledge in a neural network", arXiv:1503.02531, here without a temperature, since a
single logit leaves nothing to soften. Feature maps: Romero et al., "FitNets", arXiv:1412.6550, section 2.2. The
regressor is a 1x1 convolution here, since both maps come from the same faces and differ in their grids only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
from keras import layers, ops
from keras.optimizers.schedules import LearningRateSchedule

from tfdfd.models import load, refuse_clips
from tfdfd.models.counting import node_of
from tfdfd.training import TrainingError, pipeline_errors
from tfdfd.training.crop_set import ClipSet, CropSet, is_better, validate, write_last_scores
from tfdfd.training.history import (
    FLOW_TABLE,
    GradientFlow,
    draw_curves,
    draw_first_kernels,
    draw_gradient_flow,
    load_pyplot,
    write_history,
)
from tfdfd.training.optimizers import averaged_weights, make_optimizer, schedule_of, set_norm_momentum
from tfdfd.training.recipe import Recipe
from tfdfd.training.run_folder import STATE, RunFolder, best_weights, keep_best, load_state, save_state
from tfdfd.weights.loading import load_safetensors
from tfdfd.weights.saving import save_weights
from tfdfd.weights.store import locate

LABELS, HINT, ANSWER = "labels_loss", "hint_loss", "answer_loss"
_POOLS = (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)
_LEAST_POWER = 1e-12


class Distilled(keras.Model):
    """The model that is trained instead of a student that has a teacher.

    The loss is the loss of the labels plus `weight` times the sum of two terms: the mean squared difference between the
    teacher's last feature maps, scaled to a mean square of 1 per batch, and a 1x1 convolution of the student's, on the
    smaller of both grids; and the cross-entropy of the student's P(fake) against the teacher's. The convolution is
    trained with the student and belongs to neither network. All three terms are float32 whatever the precision of the
    networks, and are logged as `LABELS`, `HINT` and `ANSWER`, without `weight`.

    The model takes the student's input, float32 `(batch, height, width, 3)` in [0, 1], and returns P(fake)
    `(batch, 1)`, hint and answer, both scalars.

    Args:
        student: a network of `tfdfd.models`; training this model changes its weights.
        teacher: a trained network of any input size; faces are resized for it. It is frozen, and runs in inference
            mode.
        weight: weight of the two imitation terms against 1 of the labels; above 0.

    Attributes:
        projection: the convolution from the student's maps to the teacher's.

    Raises:
        ValueError: a network has no feature maps of its own at its end, as with two streams, or `weight` is not above
            0.
    """

    def __init__(self, student: keras.Model, teacher: keras.Model, weight: float = 1.0):
        # float32: the model passes images on unchanged, and the networks cast them as they need.
        super().__init__(name=f"{student.name}_distilled", dtype="float32")
        if not weight > 0:
            raise ValueError(f"the weight of imitating must be above 0; received {weight!r}.")
        self.student, self.teacher = _with_maps(student), _with_maps(teacher)
        self.teacher.trainable = False
        self.weight = weight
        ours, theirs = (model.outputs[1].shape for model in (self.student, self.teacher))
        self._grid = tuple(map(min, ours[1:3], theirs[1:3]))
        self.projection = layers.Conv2D(theirs[3], 1, dtype="float32", name="projection")
        self.projection.build((None, *self._grid, ours[3]))
        self._means = {name: keras.metrics.Mean(name) for name in (LABELS, HINT, ANSWER)}
        self.built = True

    @property
    def own_variables(self) -> list[keras.Variable]:
        """All variables but the teacher's, which never change: the state that resuming needs."""
        teachers = {id(variable) for variable in self.teacher.variables}
        return [variable for variable in self.variables if id(variable) not in teachers]

    def call(self, image: Any, training: bool | None = None) -> tuple:
        probability, maps = self.student(image, training=training)
        resized = _resized(image, self.teacher.inputs[0].shape[1:3])
        taught, hints = map(ops.stop_gradient, self.teacher(resized, training=False))
        maps, hints = (_resized(ops.cast(values, "float32"), self._grid) for values in (maps, hints))
        hints = hints / ops.sqrt(ops.mean(ops.square(hints)) + _LEAST_POWER)
        hint = ops.mean(ops.square(self.projection(maps) - hints))
        answer = ops.mean(keras.losses.binary_crossentropy(ops.cast(taught, "float32"), probability))
        return probability, hint, answer

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        probability, hint, answer = y_pred
        labels = super().compute_loss(x, y, probability, sample_weight, training)
        for mean, value in zip(self._means.values(), (labels, hint, answer), strict=True):
            mean.update_state(value, sample_weight=ops.shape(probability)[0])
        return labels + self.weight * (hint + answer)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Updates metrics with P(fake), which is passed alone or as this model's output."""
        probability = y_pred[0] if isinstance(y_pred, tuple) else y_pred
        return super().compute_metrics(x, y, probability, sample_weight)


def feature_maps(model: keras.Model) -> keras.KerasTensor:
    """Returns the last feature maps of a network, symbolic `(batch, height, width, channels)`.

    They are the input of its global pooling, or else the last maps of more than one cell before the layer `features`.

    Raises:
        ValueError: there are none, or several in parallel.
    """
    if "features" not in {layer.name for layer in model.layers}:
        raise ValueError(f"{model.name} has no layer 'features', as the networks of tfdfd.models have.")
    node = node_of(model.get_layer("features").output)
    while len(node.input_tensors) == 1:
        (tensor,) = node.input_tensors
        if isinstance(node.operation, _POOLS) or (len(tensor.shape) == 4 and tuple(tensor.shape[1:3]) != (1, 1)):
            return tensor
        node = node_of(tensor)
    raise ValueError(
        f"{model.name} has no last feature maps to imitate: its features come from {node.operation.name}, not from "
        "maps of one image. Use networks with one stream, such as mobilenet_v1."
    )


def _with_maps(model: keras.Model) -> keras.Model:
    return keras.Model(model.inputs, [model.output, feature_maps(model)], name=model.name)


def _resized(images: Any, size: Sequence[int]) -> Any:
    """Resizes bilinearly, averaging where it shrinks."""
    if tuple(images.shape[1:3]) == tuple(size):
        return images
    return ops.image.resize(images, tuple(size), "bilinear", antialias=True)


SECONDS_BETWEEN_SAVES = 300.0
SECONDS_BETWEEN_CURVES = 10.0


class Report(Protocol):
    """Receives the progress of a training."""

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float) -> None:
        """Called after each step; epochs and steps are counted from 1."""

    def epoch(self, row: dict) -> None:
        """Called after each epoch with its row of the log."""

    def note(self, text: str) -> None:
        """Called with further messages."""


@dataclass
class Progress:
    """Progress of a training, saved beside the variables. Epochs and steps are counted from 0."""

    epoch: int = 0
    step: int = 0
    best_epoch: int | None = None
    history: list[dict] = field(default_factory=list)
    metrics: list = field(default_factory=list)
    schedule: dict = field(default_factory=dict)
    seconds: float = 0.0


def fit(model: keras.Model, recipe: Recipe, crops: CropSet | ClipSet, run: RunFolder, report: Report) -> Progress:
    """Trains `model` by the recipe, from the state in the run folder; afterwards it has the best epoch's weights.

    Raises:
        TrainingError: the loss is not finite, a crop cannot be read, or the state cannot be saved; says where.
    """
    schedule = schedule_of(recipe.schedule, recipe.learning_rate, crops.steps, recipe.planned_epochs or recipe.epochs)
    # With a teacher, the trained model wraps the network.
    learner = _with_teacher(model, recipe) if recipe.teacher else model
    compile_model(learner, recipe, schedule.rate, steps_per_epoch=crops.steps)
    model.jit_compile = learner.jit_compile
    saver = _Saver(learner, run.path / STATE, report, recipe, crops.steps)
    progress = saver.progress
    schedule.set_state(progress.schedule)
    flow = GradientFlow(learner) if recipe.gradient_flow else None
    load_pyplot()  # if it is missing, the error comes before the work
    drawn = time.monotonic()
    while progress.epoch < recipe.epochs and not _is_over(progress, recipe):
        epoch, start_time = progress.epoch, time.monotonic()
        row = {"epoch": epoch + 1, "learning_rate": _rate(learner)}
        row |= _one_epoch(learner, crops, saver)
        with averaged_weights(learner, recipe.ema):
            row |= validate(model, crops, recipe.loss)
            best = progress.best_epoch
            if best is None or is_better(row, progress.history[best], recipe.monitor):
                save_weights(model, best_weights(run.path, epoch))
                progress.best_epoch = epoch
        progress.seconds += time.monotonic() - start_time
        row["seconds"] = round(progress.seconds, 1)
        progress.history.append(row)
        schedule.after_epoch(learner.optimizer, epoch, row)
        progress.epoch, progress.step, progress.metrics = epoch + 1, 0, []
        progress.schedule = schedule.get_state()
        if flow:
            flow.write(run.path / FLOW_TABLE, epoch + 1)
        saver.save()
        keep_best(run.path, progress.best_epoch)
        if curves := time.monotonic() - drawn > SECONDS_BETWEEN_CURVES:
            drawn = time.monotonic()
        write_history(run.path, progress.history, recipe.name, curves)
        report.epoch(row)
    draw_curves(run.path, progress.history, recipe.name)
    with averaged_weights(learner, recipe.ema):
        write_last_scores(model, crops, run.path)
    load_safetensors(model, best_weights(run.path, progress.best_epoch))  # type: ignore[arg-type]
    draw_first_kernels(run.path / "first_kernels.png", model)
    if flow:
        draw_gradient_flow(run.path / "gradient_flow.png", run.path / FLOW_TABLE)
    return progress


def compile_model(
    model: keras.Model,
    recipe: Recipe,
    rate: float | LearningRateSchedule,
    metrics: Sequence[keras.Metric] = (),
    steps_per_epoch: int = 1,
) -> None:
    """Compiles `model` with the recipe's optimizer, norm momentum and loss; `metrics` are added to `accuracy`."""
    if recipe.norm_momentum is not None:
        set_norm_momentum(model, recipe.norm_momentum)
    model.compile(
        make_optimizer(
            recipe.optimizer,
            rate,
            momentum=recipe.momentum,
            radam_threshold=recipe.radam_threshold,
            loss_scale=recipe.loss_scale,
            gradient_noise=recipe.gradient_noise,
            steps_per_noise=steps_per_epoch if recipe.noise_step == "epoch" else 1,
            ema=recipe.ema,
            gradient_flow=recipe.gradient_flow,
            seed=recipe.seed,
        ),
        loss=recipe.loss,
        metrics=[keras.metrics.BinaryAccuracy(name="accuracy"), *metrics],
        # On CPUs, XLA's convolutions are slower than TensorFlow's own.
        jit_compile="auto" if keras.backend.backend() != "tensorflow" else False,
    )


class _Saver(keras.callbacks.Callback):
    """Reports steps, saves the state periodically, and stops at a loss that is not finite."""

    def __init__(self, model: keras.Model, path: Path, report: Report, recipe: Recipe, steps: int) -> None:
        super().__init__()
        self.path, self._report, self._recipe, self._steps = path, report, recipe, steps
        self.set_model(model)
        model.optimizer.build(model.trainable_variables)
        # Metrics create their variables at the first update.
        model.compute_metrics(None, np.zeros((1, 1), "float32"), np.full((1, 1), 0.5, "float32"))
        self.progress = Progress(**(load_state(path, self._variables()) or {}))
        # Earlier versions counted epochs from 0.
        self.progress.history = [row | {"epoch": number} for number, row in enumerate(self.progress.history, 1)]
        self._last_save = time.monotonic()

    def save(self) -> None:
        save_state(self.path, self._variables(), vars(self.progress))
        self._last_save = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # `fit` has reset the metrics; those of a partial epoch continue.
        for variable, values in zip(self._model.metrics_variables, self.progress.metrics, strict=False):
            variable.assign(np.asarray(values, variable.dtype))
        self._first = self.progress.step

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        step, loss = self._first + batch + 1, float(logs["loss"])  # type: ignore[index]
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {step} of {self._steps} in epoch {self.progress.epoch + 1}, "
                f"learning rate {_rate(self._model):.3g}. Lower learning_rate, or set loss_scale=true; the last saved "
                "state stays."
            )
        self._report.step(self.progress.epoch + 1, self._recipe.epochs, step, self._steps, loss)
        if time.monotonic() - self._last_save >= SECONDS_BETWEEN_SAVES and step < self._steps:
            model = self.model  # under JAX, this property brings the variables up to date
            self.progress.step = step
            self.progress.metrics = [np.asarray(variable).tolist() for variable in model.metrics_variables]
            self.save()

    def _variables(self) -> list:
        model = self._model
        own = model.own_variables if isinstance(model, Distilled) else model.variables
        return [*own, *model.optimizer.variables]


def _with_teacher(model: keras.Model, recipe: Recipe) -> keras.Model:
    record, path = locate(recipe.teacher)  # type: ignore[arg-type]
    refuse_clips(record, "a student")
    return Distilled(model, load(record, path), recipe.teacher_weight)


def _one_epoch(model: keras.Model, crops: CropSet | ClipSet, saver: _Saver) -> dict[str, Any]:
    """Trains one epoch, or the rest of it; returns its training metrics."""
    progress = saver.progress
    with pipeline_errors(f"epoch {progress.epoch + 1}"):
        history = model.fit(
            crops.batches(progress.epoch, progress.step),
            steps_per_epoch=crops.steps - progress.step,
            initial_epoch=progress.epoch,
            epochs=progress.epoch + 1,
            callbacks=[saver],
            shuffle=False,
            verbose=0,
        ).history
    values = {name: values[-1] for name, values in history.items()}
    # The loss of labels alone is comparable to that of validation; a teacher's terms have columns of their own.
    row = {"loss": values.get(LABELS, values["loss"]), "accuracy": values["accuracy"]}
    return row | {name: values[name] for name in (HINT, ANSWER) if name in values}


def _rate(model: keras.Model) -> float:
    return float(np.asarray(model.optimizer.learning_rate))


def _is_over(progress: Progress, recipe: Recipe) -> bool:
    return (
        recipe.patience is not None  # type: ignore[return-value]
        and progress.history
        and (progress.epoch - 1 - progress.best_epoch >= recipe.patience)  # type: ignore[operator]
    )
