"""Search spaces as KerasTuner's objects: `space` gives its `HyperParameters`, `HyperModel` builds and fits networks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import keras_tuner
import numpy as np
from keras_tuner.errors import FatalValueError

from tfdfd.data.crops import faces_of
from tfdfd.models import build
from tfdfd.training.crop_set import CropSet, validate
from tfdfd.training.engine import compile_model
from tfdfd.training.optimizers import averaged_weights, schedule_of
from tfdfd.training.procedures import dtype_policy
from tfdfd.training.recipe import Recipe, assignment
from tfdfd.tuning.search_space import Setting, Space, read_space


def space(network: str | os.PathLike) -> keras_tuner.HyperParameters:
    """Returns the search space of a network as KerasTuner's `HyperParameters`.

    Names are the keys of `tfdfd train --set`, such as `learning_rate` and `arguments.dropout`. A choice that contains
    text or None, which KerasTuner does not accept beside numbers, has its values as text, such as `"none"`.

    Args:
        network: name of a network, or path of a space file (`tuning/README.md`).

    Raises:
        ValueError: the network or file is unknown, or the file contains no valid space.
    """
    return declare(keras_tuner.HyperParameters(), read_space(network))


class HyperModel(keras_tuner.HyperModel):
    """A network and the search space of its training settings, for every tuner of KerasTuner.

    `build` returns a compiled network. `fit` trains it with the recipe's schedule, moving average of weights and
    optimizer wrappers; both read the settings of the trial from `hp`, and all others from the space's recipe. With
    `data`, `fit` trains on the face set's training split and adds `val_loss`, `val_accuracy`, `val_auc` (crops) and
    `val_video_auc` (videos) of its validation split to each epoch; test data are never opened. Without `data`, the
    arguments of `tuner.search` go to `model.fit`; images are float32 `(batch, height, width, 3)` in [0, 1], labels 0
    (real) and 1 (fake).

    Args:
        network: name of a network, path of a space file, or a `Space`.
        data: a face set with splits (`faces.csv` or its folder); None if `tuner.search` gets the data.
        settings: settings as `KEY=VALUE` that hold in every trial and are not varied, such as `data=crops`.
        quick: whether every trial takes seconds, to check that the search runs.
        allow_leaks: whether to accept a set whose splits share sources, people or files.
        name: see `keras_tuner.HyperModel`.
        tunable: see `keras_tuner.HyperModel`.

    Attributes:
        space: the settings that are varied.
        base: the recipe of all trials.

    Raises:
        ValueError: the network or space is unknown, nothing is left to vary, the recipe's procedure is not `fit`, or
            the data are missing, have one class only, or leak.
    """

    def __init__(
        self,
        network: str | os.PathLike | Space,
        data: str | os.PathLike | None = None,
        *,
        settings: Iterable[str] = (),
        quick: bool = False,
        allow_leaks: bool = False,
        name: str | None = None,
        tunable: bool = True,
    ):
        full = network if isinstance(network, Space) else read_space(network)
        self.base, self.space = full.prepared(settings, quick)
        if self.base.procedure != "fit" or self.base.teacher:
            raise ValueError(
                f"HyperModel fits one network; the recipe {self.base.name} of {full.network} has "
                f"procedure={self.base.procedure}, teacher={self.base.teacher}. Search it with 'tfdfd tune'."
            )
        # Digests of the crops are computed once.
        self._faces, self._allow_leaks = None if data is None else faces_of(data).with_digests(), allow_leaks
        if self._faces is not None:
            self._crops(self.base)
        super().__init__(name or full.network, tunable)

    def recipe(self, hp: keras_tuner.HyperParameters) -> Recipe:
        """Returns the recipe of a trial, which `tfdfd.training.procedures.train` takes."""
        known = {setting.key for setting in self.space.search} | {"tuner/epochs"}
        return self.base.changed(assignments({key: value for key, value in hp.values.items() if key in known}))

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Declares the space in `hp` and returns a compiled network with the settings of the trial.

        Raises:
            keras_tuner.errors.FatalValueError: the network cannot be built, for example without its initial weights.
        """
        declare(hp, self.space)
        recipe = self.recipe(hp)
        size = recipe.input_size()
        try:
            with dtype_policy(recipe.precision):
                model = build(recipe.network, recipe.weights, (size, size, 3), **recipe.arguments)
        except ValueError as error:
            raise FatalValueError(str(error)) from error
        steps = 1
        if recipe.gradient_noise is not None and recipe.noise_step == "epoch":
            if self._faces is None:
                raise FatalValueError("noise_step=epoch needs the steps of an epoch: give HyperModel(data=...).")
            steps = self._crops(recipe).steps
        compile_model(model, recipe, recipe.learning_rate, [keras.metrics.AUC(name="auc")], steps_per_epoch=steps)
        return model

    def fit(
        self, hp: keras_tuner.HyperParameters, model: keras.Model, *args: Any, **kwargs: Any
    ) -> keras.callbacks.History:
        """Trains a network of `build`.

        Args:
            hp: settings of the trial.
            model: the network.
            *args: arguments of `keras.Model.fit`; none if the data were given to `HyperModel`.
            **kwargs: the same. `epochs` and, for arrays, `batch_size` default to those of the trial.

        Returns:
            The history of `keras.Model.fit`.

        Raises:
            keras_tuner.errors.FatalValueError: there are no data, data are given twice, or labels have one class only.
        """
        recipe = self.recipe(hp)
        kwargs.setdefault("epochs", recipe.epochs)
        crops = None
        if self._faces is not None:
            if args or "x" in kwargs or "validation_data" in kwargs:
                raise FatalValueError("the data are given to HyperModel already; call search without x, y and others.")
            crops = self._crops(recipe)
            args = (crops.batches(kwargs.get("initial_epoch", 0), one_epoch=False),)
            kwargs |= {"shuffle": False}
        else:
            _check_labels(args[1] if len(args) > 1 else kwargs.get("y"))
            if not args and "x" not in kwargs:
                raise FatalValueError(
                    "there are no training data: give HyperModel(data=...), or call search(x, y, validation_data=...)."
                )
            if isinstance(args[0] if args else kwargs["x"], np.ndarray):
                kwargs.setdefault("batch_size", recipe.batch_size)
        callbacks = [_TrainingCallback(recipe, crops), *(kwargs.pop("callbacks", None) or [])]
        if recipe.patience is not None and crops is not None:
            mode = "min" if recipe.monitor == "val_loss" else "max"
            callbacks.append(keras.callbacks.EarlyStopping(recipe.monitor, patience=recipe.patience, mode=mode))
        return model.fit(*args, callbacks=callbacks, **kwargs)

    def _crops(self, recipe: Recipe) -> CropSet:
        return CropSet(self._faces, recipe, recipe.input_size(), self._allow_leaks)  # type: ignore[arg-type]


class _TrainingCallback(keras.callbacks.Callback):
    """Drives the recipe's learning rate, and validates averaged weights. It must be the first callback.

    The averages replace the weights from the end of an epoch to the start of the next one, so that other callbacks
    save them, and the network has them after training.
    """

    def __init__(self, recipe: Recipe, crops: CropSet | None) -> None:
        super().__init__()
        self._recipe, self._crops, self._averages = recipe, crops, contextlib.ExitStack()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        recipe, steps = self._recipe, self.params.get("steps")
        epochs = recipe.planned_epochs or self.params["epochs"]
        self._schedule = schedule_of(recipe.schedule, recipe.learning_rate, steps or 1, epochs)
        if not steps and callable(self._schedule.rate):
            raise FatalValueError(
                f"schedule={recipe.schedule} needs the number of steps: give search(steps_per_epoch=...)."
            )

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        weights = self.model.get_weights()
        self._averages.close()
        self.model.set_weights(weights)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._averages.close()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._averages.enter_context(averaged_weights(self.model, self._recipe.ema))

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        self._averages.close()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if callable(self._schedule.rate):
            rate = self._schedule.rate(self.model.optimizer.iterations)
            self.model.optimizer.learning_rate = float(keras.ops.convert_to_numpy(rate))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._averages.enter_context(averaged_weights(self.model, self._recipe.ema))
        if self._crops:
            logs |= validate(self.model, self._crops, self._recipe.loss)
        self._schedule.after_epoch(self.model.optimizer, epoch, logs)


def declare(hp: keras_tuner.HyperParameters, space: Space) -> keras_tuner.HyperParameters:
    """Adds the settings of a space to KerasTuner's hyperparameters, and returns them.

    Their defaults are the recipe's own values, where the space holds these.
    """
    own = space.own_values()
    for setting in space.search:
        default = tuner_value(setting, own[setting.key]) if setting.key in own else None
        if setting.choices:
            values = [tuner_value(setting, choice) for choice in setting.choices]
            hp.Choice(setting.key, values, ordered=not isinstance(values[0], str), default=default)
        elif setting.is_integer:
            hp.Int(setting.key, setting.low, setting.high, sampling=setting.scale, default=default)
        else:
            hp.Float(setting.key, float(setting.low), float(setting.high), sampling=setting.scale, default=default)
    return hp


def tuner_value(setting: Setting, value: Any) -> int | float | str:
    """Returns a setting's value as KerasTuner takes it: choices are all numbers or all text, and never None."""
    if not setting.choices:
        return value if setting.is_integer else float(value)
    if all(isinstance(choice, int) and not isinstance(choice, bool) for choice in setting.choices):
        return value
    if all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in setting.choices):
        return float(value)
    return assignment(setting.key, value).partition("=")[2]


def assignments(values: Mapping[str, Any]) -> list[str]:
    """Returns KerasTuner's values of a trial as `KEY=VALUE` for `Recipe.changed`."""
    epochs = [f"epochs={values['tuner/epochs']}"] if "tuner/epochs" in values else []
    return epochs + [f"{key}={value}" for key, value in values.items() if not key.startswith("tuner/")]


def _check_labels(labels: Any) -> None:
    if isinstance(labels, np.ndarray | list | tuple):
        classes = np.unique(np.asarray(labels)).tolist()
        if len(classes) < 2:
            raise FatalValueError(f"a network learns nothing from one class; received labels {classes} only.")
