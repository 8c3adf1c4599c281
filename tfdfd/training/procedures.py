"""Training procedures: from a recipe and a face set to a trained network in a run folder.

`train` is the entry point. The procedures `fit`, `svm`, `ensemble` and `temporal` are here, `bottleneck` is in
`bottlenecks`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfdfd.data.crops import faces_of
from tfdfd.data.pair_sets import METHOD
from tfdfd.data.splits import groups
from tfdfd.data.tables import SOURCE, FaceRow
from tfdfd.models import CLIPS, build, load, spec
from tfdfd.models.mobilenet_v3 import omitted_rows
from tfdfd.models.svm import with_svm
from tfdfd.models.temporal import temporal, training_stages
from tfdfd.training import TrainingError, pipeline_errors
from tfdfd.training.bottlenecks import train_bottleneck
from tfdfd.training.calibrate import LIMITS, finish
from tfdfd.training.crop_set import TRAIN, VAL, ClipSet, CropSet, is_better
from tfdfd.training.engine import Report, fit
from tfdfd.training.history import write_history
from tfdfd.training.recipe import Recipe
from tfdfd.training.run_folder import RunFolder, write_fingerprints
from tfdfd.training.svm import FOLDS, fit_svm
from tfdfd.weights.initial import SLIM, locate_full_network
from tfdfd.weights.saving import named_weights
from tfdfd.weights.store import built_on, locate

ENSEMBLE, ENSEMBLE_MEMBERS = "reseption_ensemble", ("reseption_v1", "reseption_v2")


def train(
    recipe: Recipe,
    where: str | os.PathLike,
    folder: str | os.PathLike,
    report: Report,
    allow_leaks: bool = False,
) -> dict:
    """Runs an experiment, or resumes it.

    Args:
        recipe: the network, its data and its training settings.
        where: a face set with splits.
        folder: run folder, created if it is missing.
        report: receives the progress.
        allow_leaks: whether to accept a set whose splits share sources, people or files.

    Returns:
        The result, as in `run.json`.

    Raises:
        ValueError: the set, the folder or a setting is invalid.
        TrainingError: the training cannot continue; the last saved state stays.
        OSError: the folder cannot be written.
    """
    _check_libraries()
    keras.utils.set_random_seed(recipe.seed)
    with dtype_policy(recipe.precision):
        faces = faces_of(where)
        crops = CropSet(faces, recipe, recipe.input_size(), allow_leaks)
        with RunFolder(folder, recipe, crops.digests(), keras.backend.backend(), _model_facts(recipe)) as run:
            if run.result is not None:
                report.note(f"{folder} was finished before")
                return run.result
            if crops.count < recipe.batch_size:
                report.note(f"the {crops.count} training crops are fewer than a batch of {recipe.batch_size}")
            if crops.short_pairs:
                report.note(
                    f"{crops.short_pairs:,} pairs of a fake and its original have too few frames for {recipe.epochs} "
                    "epochs and are left out; 'tfdfd extract --all' takes every frame"
                )
            parts = {split: faces_of(faces, split).rows for split in (TRAIN, VAL)}
            initial = [*recipe.members, *filter(None, [recipe.weights, recipe.teacher])]
            write_fingerprints(run.path, parts, faces.root, [model.removeprefix(SLIM) for model in initial])
            try:
                # Before the training, since the files may be gone after it.
                run.built_on = built_on(recipe.weights, recipe.teacher, recipe.members)
                return _PROCEDURES[recipe.procedure](recipe, crops, run, report)
            except ValueError:
                run.abandon()
                raise


def _check_libraries() -> None:
    """Fails before hours of training instead of after the first epoch."""
    missing = [
        name for name in ("matplotlib", "scipy", "sklearn", "tensorboard") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise ValueError(f"training needs {', '.join(missing)}, not installed here: run pip install 'tfdfd[train]'.")


def _model_facts(recipe: Recipe) -> dict[str, Any]:
    """Returns handle and digest of the teacher and of the full network of a slimmed one, for `run.json`."""
    models = {"teacher": locate(recipe.teacher)} if recipe.teacher else {}
    if _is_slimmed(recipe):
        models["slimmed_of"] = locate_full_network(recipe.network, recipe.weights)  # type: ignore[arg-type]
    return {name: {"handle": record.handle, "sha256": record.sha256} for name, (record, _) in models.items()}


def _is_slimmed(recipe: Recipe) -> bool:
    return recipe.procedure == "fit" and (recipe.weights or "").startswith(SLIM)


@contextlib.contextmanager
def dtype_policy(policy: str) -> Iterator[None]:
    """Sets Keras's global dtype policy inside the context."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@contextlib.contextmanager
def distributed(device: str | None = None, count: int = 1) -> Iterator[None]:
    """Shares each batch among `count` devices inside the context, with Keras's distribution API.

    Args:
        device: `cpu` or `gpu`, which must exist; None for the backend's default.
        count: number of devices; more than one needs Keras's JAX backend.

    Raises:
        ValueError: the devices do not exist, or the backend cannot distribute.
    """
    backend = keras.backend.backend()
    devices = keras.distribution.list_devices(device)
    if device and not devices:
        every = ", ".join(keras.distribution.list_devices()) or "none"
        raise ValueError(f"there is no {device} that {backend} can use; it finds {every}. Omit --device.")
    if count == 1:
        yield
        return
    if backend != "jax":
        raise ValueError(f"several devices need Keras's JAX backend; received {backend}: give --backend jax.")
    if len(devices) < count:
        raise ValueError(f"{count} devices were requested; {backend} finds {len(devices)}: {', '.join(devices)}.")
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(devices=devices[:count], auto_shard_dataset=False)
    )
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


def initial_network(recipe: Recipe, size: int) -> keras.Model:
    """Returns the network of a recipe with its initial weights, for pictures of `size` pixels.

    Raises:
        ValueError: the weights are missing, or of another network.
    """
    return build(recipe.network, recipe.weights, (size, size, 3), **recipe.arguments)


def _train_network(recipe: Recipe, crops: CropSet, run: RunFolder, report: Report) -> dict[str, Any]:
    """Fits one network."""
    model = initial_network(recipe, crops.size)
    if _is_slimmed(recipe):
        record, _ = locate_full_network(recipe.network, recipe.weights)  # type: ignore[arg-type]
        rows = ", ".join(map(str, omitted_rows(recipe.network)))
        taken = len(named_weights(model))
        report.note(f"{recipe.network} starts with {taken} weights of {record.handle}; omitted: rows {rows}")
    progress = fit(model, recipe, crops, run, report)
    facts = {"epochs": progress.epoch, "best_epoch": progress.best_epoch + 1}  # type: ignore[operator]
    return finish(model, recipe, crops, run, facts, card=run.more)


def _train_svm(recipe: Recipe, crops: CropSet, run: RunFolder, report: Report) -> dict[str, Any]:
    """Trains S1's "MesoInception4 + SVM": an RBF SVM replaces the last layer of a trained network.

    The SVM is fitted to the network's features of the training crops, without augmentation. Its probability comes from
    folds that share no source, so it needs no other calibration. The result has `svm`: number of `support_vectors`,
    `gamma` for scaled features, and the number of `groups` of crops that share a source (None: too few).

    Raises:
        TrainingError: the network cannot be trained, or no SVM can be fitted to its features.
    """
    model = initial_network(recipe, crops.size)
    progress = fit(model, recipe, crops, run, report)
    images, rows = crops.images(TRAIN)
    with pipeline_errors("features of the training crops"):
        features = keras.Model(model.input, model.get_layer("features").output).predict(images, verbose=0)
    labels, sources = np.array([row.label for row in rows]), source_groups(rows)
    if sources is None:
        report.note("too few sources to separate: the SVM's probability is fitted over crops, and is overconfident")
    try:
        arrays = fit_svm(features, labels, seed=recipe.seed, groups=sources)
    except ValueError as error:
        raise TrainingError(f"the network is trained, but no SVM could be fitted on its features: {error}") from error
    svm = {
        "support_vectors": len(arrays.dual_coef),
        "gamma": float(arrays.gamma),
        "groups": None if sources is None else len(set(sources)),
    }
    facts = {"epochs": progress.epoch, "best_epoch": progress.best_epoch + 1, "svm": svm}  # type: ignore[operator]
    arguments = recipe.arguments | {"svm": svm["support_vectors"]}
    return finish(with_svm(model, arrays), recipe, crops, run, facts, arguments)


def source_groups(rows: list[FaceRow]) -> list[str] | None:
    """Returns the name of each crop's group of shared sources; None if there are too few groups for `FOLDS` folds."""
    # A blended fake belongs to the crop it was made from.
    names = groups([replace(row, video=row.video.removesuffix(f"#{METHOD}")) for row in rows], (SOURCE,))
    of_class = [{name for name, row in zip(names, rows, strict=True) if row.label == label} for label in (0, 1)]
    if len(set(names)) < FOLDS or min(map(len, of_class)) < 2:
        return None
    # scikit-learn sorts the names, and does not accept tuples.
    return ["\0".join(name) for name in names]


def _train_ensemble(recipe: Recipe, crops: CropSet, run: RunFolder, report: Report) -> dict[str, Any]:
    """Trains S2's ensemble (section 7.3): dense layers on the frozen bodies of Reseption V1 and V2.

    The result has handle and digest of the `members`.
    """
    if recipe.network != ENSEMBLE:
        raise ValueError(f"the ensemble procedure trains {ENSEMBLE}; received network={recipe.network}.")
    v1, v2 = _members(recipe, crops.size, ENSEMBLE_MEMBERS)
    model = build(ENSEMBLE, v1=v1.network, v2=v2.network, **recipe.arguments)
    progress = fit(model, recipe, crops, run, report)
    members = {member.name: member.facts for member in (v1, v2)}
    facts = {"epochs": progress.epoch, "best_epoch": progress.best_epoch + 1, "members": members}  # type: ignore[operator]
    return finish(model, recipe, crops, run, facts)


def _train_temporal(recipe: Recipe, crops: CropSet, run: RunFolder, report: Report) -> dict[str, Any]:
    """Trains a recurrent layer over clips of `recipe.frames` crops, on one trained frame network.

    There are two stages of `epochs` epochs each (`tfdfd.models.temporal.training_stages`): the recurrent layer and the
    head on the frozen frame network, at the recipe's rate, then everything at a hundredth of it. Each stage has a
    folder in the run folder, and resumes from it. The better of their best epochs, on validation, is the result.

    In the result, `best_epoch` counts the epochs of both stages, and `clips` counts videos with a clip. The card is of
    a model `temporal`, which `tfdfd detect`, `evaluate`, `publish`, `export` and `serve` take.
    """
    (member,) = _members(recipe, crops.size, (recipe.network,))
    clips = ClipSet(crops, recipe)
    for name, counts in clips.counts.items():
        report.note(f"{name}: " + ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in counts.items()))
    model = temporal(member.network, recipe.frames, **recipe.arguments)
    first_rate = None
    history: list[dict[str, Any]] = []
    best: int | None = None
    stages: list[_Stage] = []
    for name, rate in training_stages(model):
        first_rate = first_rate or rate
        report.note(f"stage: {name}")
        stages.append(_Stage(run.path / name))
        at_rate = replace(recipe, learning_rate=recipe.learning_rate * rate / first_rate)
        progress = fit(model, at_rate, clips, stages[-1], report)  # type: ignore[arg-type]
        row = progress.history[progress.best_epoch]  # type: ignore[index]
        if best is None or is_better(row, history[best], recipe.monitor):
            best, weights = len(history) + progress.best_epoch, model.get_weights()  # type: ignore[operator]
        history += [row | {"epoch": len(history) + row["epoch"]} for row in progress.history]
    model.set_weights(weights)
    write_history(run.path, history, recipe.name)
    of_network = {key: value for key, value in member.arguments.items() if key != "freeze"}
    arguments = {"frame_network": member.name, "frame_arguments": of_network, "frames": recipe.frames}
    card = {
        "model": CLIPS,
        "handle": f"tfdfd/{CLIPS}.{recipe.name}",
        "input_shape": [crops.size, crops.size, 3],
        "protocol": f"validation split of {crops.digests()['folder']}: a clip of {recipe.frames} crops a video; epoch, "
        "calibration and thresholds chosen here",
        "limits": [
            f"Scores clips of {recipe.frames} equally spaced crops of a face in a video; no score for a photograph.",
            *LIMITS,
        ],
    }
    members = {member.name: member.facts}
    facts = {"epochs": len(history), "best_epoch": best + 1, "clips": clips.counts, "members": members}  # type: ignore[operator]
    result = finish(model, recipe, clips, run, facts, arguments | recipe.arguments, card)
    for stage in stages:
        shutil.rmtree(stage.path)
    return result


class _Stage:
    """The folder of one stage, which `fit` uses as a run folder."""

    def __init__(self, path: Path):
        self.path = path
        path.mkdir(exist_ok=True)


@dataclass(frozen=True, eq=False)
class _Member:
    """A trained network that another one is built on.

    Attributes:
        name: name in `tfdfd.models`.
        network: the network with its weights.
        arguments: arguments of its builder, from its card.
        facts: handle and digest, for the result of the run.
    """

    name: str
    network: keras.Model
    arguments: dict
    facts: dict


def _members(recipe: Recipe, size: int, networks: Sequence[str]) -> list[_Member]:
    """Returns the recipe's members, one of each of `networks` and in that order.

    Raises:
        ValueError: members are missing, are other networks, or take images of another size than `size`.
    """
    example = ",".join(f"RUN_{number}" for number, _ in enumerate(networks, 1))
    expected = " and ".join(networks)
    if not recipe.members:
        raise ValueError(
            f"{recipe.name} is built on trained networks: {expected}. Give the folders of their runs, weights files or "
            f"handles: --set members={example}."
        )
    located = [locate(member) for member in recipe.members]
    names = [record.model for record, _ in located]
    if sorted(names) != sorted(networks):
        raise ValueError(
            f"{recipe.name} is built on {expected}; received members={','.join(recipe.members)}, which are "
            f"{', '.join(names)}. Give --set members={example}."
        )
    for record, _ in located:
        own = (record.input_shape or spec(record.model).input_shape)[0]
        if own != size:
            raise ValueError(
                f"{record.handle} was trained at {own} pixels, and {recipe.name} is to take {size}: set size={own}, or "
                "give members of that size."
            )
    by_name = dict(zip(names, located, strict=True))
    members = [by_name[name] for name in networks]
    return [
        _Member(
            record.model,
            load(record, path),
            dict(record.arguments),
            {"handle": record.handle, "sha256": record.sha256},
        )
        for record, path in members
    ]


_PROCEDURES = {
    "fit": _train_network,
    "svm": _train_svm,
    "bottleneck": train_bottleneck,
    "ensemble": _train_ensemble,
    "temporal": _train_temporal,
}
