"""From a recipe and a face set to a trained network in a run folder: the one way in for each kind of training."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os

import keras

from tfdfd.data.crops import faces_of
from tfdfd.models import build, load, spec
from tfdfd.training.crop_set import TRAIN, VAL, CropSet
from tfdfd.training.engine import Report, fit
from tfdfd.training.finishing import finish
from tfdfd.training.recipe import Recipe
from tfdfd.training.run_folder import RunFolder
from tfdfd.training.seen import write_seen
from tfdfd.weights.slimming import PREFIX as SLIM
from tfdfd.weights.slimming import take_over, whole_of
from tfdfd.weights.store import locate
from tfdfd.weights.terms import built_on

# Those that do more than fit one network, each a file with `run(recipe, crops, folder, report) -> result`.
_FILES = {"svm": "svm_run", "bottleneck": "bottleneck_run", "ensemble": "ensemble_run", "temporal": "temporal_run"}


def train(
    recipe: Recipe,
    where: str | os.PathLike,
    folder: str | os.PathLike,
    report: Report,
    allow_leaks: bool = False,
) -> dict:
    """Runs an experiment, or goes on with it where it was stopped.

    Args:
        recipe: what is trained, and how.
        where: a face set with splits.
        folder: of the run; made where it is not there.
        report: who is told how it goes.
        allow_leaks: whether a set whose splits share sources, people or files is taken all the same.

    Returns:
        The result as `run.json` has it.

    Raises:
        ValueError: a set, a folder or a setting that is of no use.
        TrainingError: it cannot go on; the last saved state stays.
        OSError: the folder cannot be written.
    """
    _check_libraries()
    keras.utils.set_random_seed(recipe.seed)
    with _precision(recipe.precision):
        size = recipe.size or spec(recipe.network).input_shape[0]
        faces = faces_of(where)
        crops = CropSet(faces, recipe, size, allow_leaks)
        with RunFolder(folder, recipe, crops.digests(), keras.backend.backend(), _built_on(recipe)) as run:
            if run.result is not None:
                report.note(f"{folder} was finished before")
                return run.result
            if crops.count < recipe.batch_size:
                report.note(f"the {crops.count} crops to train on are fewer than a batch of {recipe.batch_size}")
            if crops.short_pairs:
                report.note(
                    f"{crops.short_pairs:,} pairs of a fake and its original have too few frames for {recipe.epochs} "
                    "epochs and are left out; 'tfdfd extract --all' takes every frame"
                )
            parts = {split: faces_of(faces, split).rows for split in (TRAIN, VAL)}
            begun_with = [*recipe.members, *filter(None, [recipe.weights, recipe.teacher])]
            write_seen(run.path, parts, faces.root, [model.removeprefix(SLIM) for model in begun_with])
            try:
                # Before the training: the files may be gone after it.
                run.built_on = built_on(recipe.weights, recipe.teacher, recipe.members)
                return _procedure(recipe)(recipe, crops, run, report)
            except ValueError:
                run.abandon()
                raise


def _check_libraries():
    """Before hours of training, not after its first epoch."""
    missing = [name for name in ("matplotlib", "scipy", "tensorboard") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"training needs {', '.join(missing)}, not installed here: run pip install 'tfdfd[train]'.")


def _procedure(recipe):
    if recipe.procedure == "fit":
        return _fit
    return importlib.import_module(f"tfdfd.training.{_FILES[recipe.procedure]}").run


def _built_on(recipe):
    """What a run says of its teacher and of what it is slimmed of: their bytes, since a path may hold others later."""
    found = {"teacher": locate(recipe.teacher)} if recipe.teacher else {}
    if _is_slimmed(recipe):
        found["slimmed_of"] = whole_of(recipe.network, recipe.weights)
    return {name: {"handle": record.handle, "sha256": record.sha256} for name, (record, _) in found.items()}


def _is_slimmed(recipe):
    return recipe.procedure == "fit" and (recipe.weights or "").startswith(SLIM)


def _fit(recipe, crops, run, report):
    model = _begun(recipe, (crops.size, crops.size, 3), report)
    place = fit(model, recipe, crops, run, report)
    told = {"epochs": place.epoch, "best_epoch": place.best_epoch + 1}
    return finish(model, recipe, crops, run, told, card=run.more)


def _begun(recipe, shape, report):
    if not _is_slimmed(recipe):
        return build(recipe.network, recipe.weights, shape, **recipe.arguments)
    model = build(recipe.network, None, shape, **recipe.arguments)
    record, path = whole_of(recipe.network, recipe.weights)
    taken, left_out = take_over(model, load(record, path))
    rows = ", ".join(map(str, left_out))
    report.note(f"{recipe.network} begins with {taken} weights of {record.handle}; left out: rows {rows}")
    return model


@contextlib.contextmanager
def _precision(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
