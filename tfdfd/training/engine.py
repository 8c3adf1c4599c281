"""The training of one network by Keras's `fit`, an epoch at a time: validated, saved, and resumable at any step.

Everything that a step depends on (weights, optimizer, random generators, running metrics) is in Keras variables, and
the data are a function of seed, epoch and position. So a run that was killed ends with the weights it would have had.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import keras
import numpy as np

from tfdfd.models import load
from tfdfd.training.averaging import averaged
from tfdfd.training.crop_set import CropSet
from tfdfd.training.curves import draw_curves
from tfdfd.training.distilling import ANSWER, HINT, LABELS, Distilled
from tfdfd.training.errors import TrainingError, pipeline_errors
from tfdfd.training.gradient_flow import GradientFlow
from tfdfd.training.norms import set_norm_momentum
from tfdfd.training.optimizers import make_optimizer
from tfdfd.training.pictures import draw_first_kernels, draw_gradient_flow
from tfdfd.training.recipe import Recipe
from tfdfd.training.run_folder import RunFolder
from tfdfd.training.schedules import schedule_of
from tfdfd.training.state import load_state, save_state
from tfdfd.training.tensorboard import write_scalars
from tfdfd.training.validation import is_better, validate, write_last_scores
from tfdfd.weights.loading import load_safetensors
from tfdfd.weights.saving import save_weights
from tfdfd.weights.store import locate

STATE = "state.safetensors"
SECONDS_BETWEEN_SAVES = 300.0


class Report(Protocol):
    """Who is told how it goes."""

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float) -> None:
        """After each step; epochs and steps are counted from 1."""

    def epoch(self, row: dict) -> None:
        """After each epoch, with its row of the log."""

    def note(self, text: str) -> None:
        """What else is to be known."""


@dataclass
class Place:
    """How far a training is: what is saved beside the variables."""

    epoch: int = 0
    step: int = 0
    best_epoch: int | None = None
    history: list[dict] = field(default_factory=list)
    metrics: list = field(default_factory=list)
    schedule: dict = field(default_factory=dict)
    seconds: float = 0.0


def fit(model: keras.Model, recipe: Recipe, crops: CropSet, run: RunFolder, report: Report) -> Place:
    """Trains `model` as the recipe says, from where the run folder is; ends with the weights of the best epoch in it.

    Raises:
        TrainingError: the loss is no number, a crop cannot be read, or the state cannot be saved; says where.
    """
    schedule = schedule_of(recipe.schedule, recipe.learning_rate, crops.steps, recipe.planned_epochs or recipe.epochs)
    if recipe.norm_momentum is not None:
        set_norm_momentum(model, recipe.norm_momentum)
    # What learns is the network itself, or with it what only its training needs.
    learner = Distilled(model, load(*locate(recipe.teacher)), recipe.teacher_weight) if recipe.teacher else model
    learner.compile(
        make_optimizer(
            recipe.optimizer,
            schedule.rate,
            momentum=recipe.momentum,
            radam_threshold=recipe.radam_threshold,
            loss_scale=recipe.loss_scale,
            gradient_noise=recipe.gradient_noise,
            steps_per_noise=crops.steps if recipe.noise_step == "epoch" else 1,
            ema=recipe.ema,
            gradient_flow=recipe.gradient_flow,
            seed=recipe.seed,
        ),
        loss=recipe.loss,
        metrics=[keras.metrics.BinaryAccuracy(name="accuracy")],
        # XLA's convolutions on a processor are slower than TensorFlow's own.
        jit_compile="auto" if keras.backend.backend() != "tensorflow" else False,
    )
    model.jit_compile = learner.jit_compile
    saver = _Saver(learner, run.path / STATE, report, recipe, crops.steps)
    place = saver.place
    schedule.set_state(place.schedule)
    flow = GradientFlow(learner) if recipe.gradient_flow else None
    while place.epoch < recipe.epochs and not _is_over(place, recipe):
        epoch, begun = place.epoch, time.monotonic()
        row = {"epoch": epoch + 1, "learning_rate": _rate(learner)}
        row |= _one_epoch(learner, crops, saver)
        with averaged(learner, recipe.ema):
            row |= validate(model, crops, recipe.loss)
            if _is_best(place, row, recipe.monitor):
                save_weights(model, _best(run.path, epoch))
                place.best_epoch = epoch
        place.seconds += time.monotonic() - begun
        row["seconds"] = round(place.seconds, 1)
        place.history.append(row)
        schedule.after_epoch(learner.optimizer, epoch, row)
        place.epoch, place.step, place.metrics, place.schedule = epoch + 1, 0, [], schedule.get_state()
        if flow:
            flow.write(run.path / "gradient_flow.csv", epoch + 1)
        saver.save()
        _forget_others(run.path, place.best_epoch)
        run.write_log(place.history)
        write_scalars(run.path / "tensorboard", place.history)
        draw_curves(run.path / "curves.png", place.history, recipe.name)
        report.epoch(row)
    with averaged(learner, recipe.ema):
        write_last_scores(model, crops, run.path)
    load_safetensors(model, _best(run.path, place.best_epoch))
    draw_first_kernels(run.path / "first_kernels.png", model)
    if flow:
        draw_gradient_flow(run.path / "gradient_flow.png", run.path / "gradient_flow.csv")
    return place


class _Saver(keras.callbacks.Callback):
    """Watches steps: tells the report, saves from time to time, and stops at a loss that is no number."""

    def __init__(self, model, path, report, recipe, steps):
        super().__init__()
        self.path, self._report, self._recipe, self._steps = path, report, recipe, steps
        self.set_model(model)
        model.optimizer.build(model.trainable_variables)
        # Metrics have their variables once they have seen something.
        model.compute_metrics(None, np.zeros((1, 1), "float32"), np.full((1, 1), 0.5, "float32"))
        self.place = Place(**(load_state(path, self._variables()) or {}))
        # States of earlier versions have epochs from 0.
        self.place.history = [row | {"epoch": number} for number, row in enumerate(self.place.history, 1)]
        self._saved = time.monotonic()

    def save(self):
        save_state(self.path, self._variables(), vars(self.place))
        self._saved = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        # `fit` has set the metrics back; those of the part of the epoch that is done go on.
        for variable, values in zip(self._model.metrics_variables, self.place.metrics, strict=False):
            variable.assign(np.asarray(values, variable.dtype))
        self._first = self.place.step

    def on_train_batch_end(self, batch, logs=None):
        step, loss = self._first + batch + 1, float(logs["loss"])
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {step} of {self._steps} in epoch {self.place.epoch + 1}, "
                f"learning rate {_rate(self._model):.3g}. Lower learning_rate, or set loss_scale=true; the last saved "
                "state stays."
            )
        self._report.step(self.place.epoch + 1, self._recipe.epochs, step, self._steps, loss)
        if time.monotonic() - self._saved >= SECONDS_BETWEEN_SAVES and step < self._steps:
            model = self.model  # under JAX this brings the variables up to date
            self.place.step = step
            self.place.metrics = [np.asarray(variable).tolist() for variable in model.metrics_variables]
            self.save()

    def _variables(self):
        model = self._model
        own = model.own_variables if isinstance(model, Distilled) else model.variables
        return [*own, *model.optimizer.variables]


def _one_epoch(model, crops, saver):
    """One epoch, or what is left of it; its training figures."""
    place = saver.place
    with pipeline_errors(f"epoch {place.epoch + 1}"):
        history = model.fit(
            crops.batches(place.epoch, place.step),
            steps_per_epoch=crops.steps - place.step,
            initial_epoch=place.epoch,
            epochs=place.epoch + 1,
            callbacks=[saver],
            shuffle=False,
            verbose=0,
        ).history
    figures = {name: values[-1] for name, values in history.items()}
    # Of labels alone, so that it can be read beside that of validation; a teacher's parts have columns of their own.
    row = {"loss": figures.get(LABELS, figures["loss"]), "accuracy": figures["accuracy"]}
    return row | {name: figures[name] for name in (HINT, ANSWER) if name in figures}


def _rate(model):
    return float(np.asarray(model.optimizer.learning_rate))


def _is_best(place, row, monitor):
    return place.best_epoch is None or is_better(row, place.history[place.best_epoch], monitor)


def _is_over(place, recipe):
    return recipe.patience is not None and place.history and place.epoch - 1 - place.best_epoch >= recipe.patience


def _best(folder, epoch):
    return Path(folder) / f"best-{epoch}.safetensors"


def _forget_others(folder, epoch):
    for file in Path(folder).glob("best-*.safetensors"):
        if file != _best(folder, epoch):
            file.unlink()
