"""`tfdfd prune`: a trained network pruned on a face set into a run folder, with a report of gains and losses."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfdfd.data.crops import Faces, faces_of
from tfdfd.data.tables import FaceRow
from tfdfd.files import temporary_folder, write_atomically
from tfdfd.metrics.intervals import compare
from tfdfd.metrics.scores import ScoreRow
from tfdfd.models import CLIPS, load, spec
from tfdfd.pruning import PruneOptions, lacks_pattern, prunable, sizes, zeros
from tfdfd.pruning.child import answers, check_libraries, describe, run_twin, write_work
from tfdfd.runtime.equality import check_twin, proof_crops
from tfdfd.training import TrainingError
from tfdfd.training.calibrate import finish
from tfdfd.training.crop_set import TRAIN, VAL, CropSet, score
from tfdfd.training.engine import Report
from tfdfd.training.recipe import Recipe
from tfdfd.training.run_folder import (
    WEIGHTS,
    RunFolder,
    fingerprints_of,
    finished_run,
    read_fingerprints,
    write_fingerprints,
)
from tfdfd.weights import WeightRecord
from tfdfd.weights.loading import load_safetensors
from tfdfd.weights.reading import read_safetensors
from tfdfd.weights.saving import save_weights
from tfdfd.weights.store import BEGUN_WITH, digest, inherit, locate

REPORT = "pruning.json"
WORK = "pruning"
SCHEMA = 1
# Largest shortfall of the sparsity: kernels of a few values cannot have every share.
SHORT_OF = 0.01
_REAL_CROPS = 16


def prune(
    source: str | os.PathLike,
    where: str | os.PathLike,
    folder: str | os.PathLike,
    report: Report,
    options: PruneOptions | None = None,
    settings: Sequence[str] = (),
    allow_leaks: bool = False,
) -> dict:
    """Prunes a network, or resumes; for a finished folder, returns its report.

    The folder becomes a run like those of `tfdfd.training.procedures.train`, with `pruning.json` in addition.

    Args:
        source: handle, weights file or folder of a finished run.
        where: a face set with splits; fine-tuned on `train`, evaluated on `val`.
        folder: folder of the pruned run; made if absent.
        report: receives progress.
        options: sparsity and schedule; None for the defaults.
        settings: `KEY=VALUE` of the fine-tuning, see `tfdfd.pruning.prune.SETTINGS`.
        allow_leaks: accept a set whose splits share sources, people or files, or a validation split that the network
            was trained on.

    Returns:
        The report, as `pruning.json` has it: `source`, `options`, `proof` (difference of twin and network, before and
        after), `zeros` of each prunable kernel and in total, `sizes` of both files plain and compressed, `auc` of
        both on validation with the interval of their difference, `protocol`, and `warnings`.

    Raises:
        ValueError: an invalid source, set, folder or setting, or a twin that differs from the network.
        TrainingError: it cannot go on, or fewer values than requested are zero; the last saved state stays.
        OSError: the folder cannot be written.
    """
    check_libraries()
    options = options or PruneOptions()
    record, weights = locate(source)
    recipe = recipe_for(source, record, settings)
    faces = faces_of(where)
    crops = CropSet(faces, recipe, recipe.size, allow_leaks)  # type: ignore[arg-type]
    parts = {split: faces_of(faces, split).rows for split in (TRAIN, VAL)}
    warning = refuse_known(source, faces, parts[VAL], allow_leaks)
    started = {"source": {"handle": record.handle, "sha256": digest(weights)}, "options": options.settings()}
    data = crops.digests()
    with RunFolder(folder, recipe, data, keras.backend.backend(), {"pruning": started}, "tfdfd prune") as run:
        if run.result is None:
            write_fingerprints(run.path, parts, faces.root, initial_models=[source] if is_run(source) else [])
            try:
                run.built_on = inherit(BEGUN_WITH, record)
                _make(record, weights, os.path.abspath(where), crops, recipe, options, run, report)
            except ValueError:
                shutil.rmtree(run.path / WORK, ignore_errors=True)
                run.abandon()
                raise
        else:
            report.note(f"{folder} was finished before")
        if not (run.path / REPORT).exists():
            figures = {"schema": SCHEMA} | started | compare_pruned(load(record, weights), crops, run)
            figures |= {"warnings": [*run.result["warnings"], *filter(None, [warning])]}  # type: ignore[index]
            write_atomically(run.path / REPORT, json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
        shutil.rmtree(run.path / WORK, ignore_errors=True)
        return json.loads((run.path / REPORT).read_text("utf-8"))


def _make(
    record: WeightRecord,
    weights: Path,
    where: str,
    crops: CropSet,
    recipe: Recipe,
    options: PruneOptions,
    run: RunFolder,
    report: Report,
) -> None:
    """Prunes, proves and finishes the run."""
    work = run.path / WORK
    model = load(record, weights)
    proof = _proof_crops(crops)
    write_work(model, proof, work)
    job: dict[str, Any] = {"recipe": recipe.settings(), "options": options.settings(), "data": where}
    job |= {"size": crops.size, "digests": crops.digests()}
    write_atomically(work / "job.json", json.dumps(job) + "\n")
    proved, done = run_twin([work], report)
    load_safetensors(model, work / "pruned.safetensors")
    after = check_twin(answers(model, proof), read_safetensors(work / "pruned_proof.safetensors"))
    graph = json.loads((work / "graph.json").read_text("utf-8"))
    counted = _counted(graph, read_safetensors(work / "pruned.safetensors"), options)
    result = done["done"] | {"zeros": counted["share"]}
    result |= {"proof": {"before": proved["apart"], "after": after}}
    finish(model, recipe, crops, run, result, card=_card(record, options))


def _proof_crops(crops: CropSet) -> np.ndarray:
    """Crops of the validation split, and noise of rising strength."""
    real: list[np.ndarray] = []
    for image, _ in crops.images(VAL)[0]:
        real.extend(np.asarray(image))
        if len(real) >= _REAL_CROPS:
            break
    return np.concatenate([np.stack(real[:_REAL_CROPS]), proof_crops(crops.size).astype(np.float32) / 255])


def _counted(graph: dict[str, Any], weights: dict[str, np.ndarray], options: PruneOptions) -> dict[str, Any]:
    kernels = prunable(graph)
    counted = zeros(weights, kernels)
    if options.two_of_four:
        without = lacks_pattern(weights, kernels)
        if without:
            raise TrainingError(f"{', '.join(without)} lack two zeros in each four values.")
    elif counted["share"] < options.sparsity - SHORT_OF:
        raise TrainingError(
            f"{counted['share']:.4f} of the kernels' values are zero, fewer than the requested {options.sparsity}: "
            f"the kernels are too small for that share."
        )
    return counted


def _card(record: WeightRecord, options: PruneOptions) -> dict[str, Any]:
    """Fields of the model card that differ from a training's."""
    how = "two of four" if options.two_of_four else f"{options.sparsity:g} ({options.schedule})"
    return {
        "initial_weights": {"handle": record.handle, "sha256": record.sha256},
        "pruning": {"zeros": how} | options.settings(),
    }


# Recipe settings that fine-tuning with tfmot uses.
SETTINGS = (
    "data", "order", "augment", "batch_size", "epochs", "steps", "learning_rate", "loss", "monitor", "patience",
    "calibration", "limit", "seed",
)  # fmt: skip
# Settings taken over from the run that the network comes from.
_KEPT = ("data", "order", "augment", "batch_size", "loss", "monitor", "calibration", "limit", "seed")
EPOCHS, LEARNING_RATE = 10, 1e-3


def recipe_for(source: str | os.PathLike, record: WeightRecord, assignments: Sequence[str] = ()) -> Recipe:
    """The recipe that fine-tunes a network, with the data settings of its own run if it comes from one.

    Raises:
        ValueError: a network of clips or with an SVM, an unfinished run, or a setting that pruning does not use.
    """
    if record.model == CLIPS or "svm" in record.arguments:
        what = "scores clips" if record.model == CLIPS else "ends in an SVM, which was fitted on its features"
        raise ValueError(f"{os.fspath(source)} {what}; prune the network of single faces that it was built on.")
    base = {}
    if is_run(source):
        base = {name: finished_run(source)["recipe"][name] for name in _KEPT}
    shape = record.input_shape or spec(record.model).input_shape
    if shape[0] != shape[1]:
        raise ValueError(f"pruning takes networks of square images; {os.fspath(source)} takes {shape}.")
    name = record.handle.rpartition("/")[2].partition(".")[2]
    recipe = Recipe(
        name=f"{name}-pruned" if name else "pruned",
        source="Zhu and Gupta, arXiv:1710.01878",
        expected="",
        network=record.model,
        arguments=record.arguments,
        size=shape[0],
        weights=os.fspath(source),
        epochs=EPOCHS,
        learning_rate=LEARNING_RATE,
        **base,
    )
    changed = recipe.changed(list(assignments))
    other = [
        setting.name
        for setting in fields(Recipe)
        if setting.name not in SETTINGS and getattr(changed, setting.name) != getattr(recipe, setting.name)
    ]
    if other:
        raise ValueError(f"pruning does not use {', '.join(other)}; it has the settings {', '.join(SETTINGS)}.")
    return replace(changed, arguments=dict(record.arguments))


def is_run(source: str | os.PathLike) -> bool:
    """Whether a source is a run folder."""
    return (Path(source) / "run.json").is_file()


def refuse_known(source: str | os.PathLike, faces: Faces, rows: Iterable[FaceRow], allow: bool = False) -> str | None:
    """Raises `ValueError` if the network was trained on the rows on which pruning is evaluated.

    Args:
        source: handle, weights file or run folder.
        faces: the set.
        rows: its validation split.
        allow: return a warning instead.

    Returns:
        A warning, or None.
    """
    seen = read_fingerprints(source) if is_run(source) else None
    if seen is None:
        return f"{os.fspath(source)} lists no training data: it may have been trained on this validation split."
    trained_on = seen.get("train", frozenset())
    known = [row.file for row in rows if any(mark in trained_on for _, mark in fingerprints_of(row, faces.root))]
    if not known:
        return None
    warning = f"{os.fspath(source)} was trained on {len(known):,} crops of the validation split, such as {known[0]}"
    if not allow:
        raise ValueError(f"{warning}; give the set and the splits that it was trained with, or --allow-leaks.")
    return f"{warning.upper()}: its figures are too good."


def compare_pruned(dense: keras.Model, crops: CropSet, run: RunFolder) -> dict:
    """Figures of the pruned network beside those of the dense one, measured on the files of a finished run.

    Args:
        dense: the network before pruning.
        crops: face set; both are evaluated on its validation split.
        run: run folder of the pruned network.

    Returns:
        `proof`, `zeros`, `sizes`, `auc` and `protocol`, see `tfdfd.pruning.prune.prune`.
    """
    rows, before = score(dense, crops)
    _, after = score(load(*locate(run.path)), crops)
    return {
        "proof": run.result["proof"],  # type: ignore[index]
        "zeros": zeros(read_safetensors(run.path / WEIGHTS), prunable(describe(dense))),
        "sizes": _sizes(dense, run.path / WEIGHTS),
        "auc": compare(score_rows(rows, before), score_rows(rows, after), cluster="source"),
        "protocol": f"validation split, {len(rows):,} crops, a video's score the mean of its crops; values and "
        "differences are before less after, intervals of 95 %: DeLong's over videos, the paired bootstrap's over "
        "sources; epoch, calibration and threshold of the pruned network were chosen on this split",
    }


def _sizes(dense: Path, pruned: Path) -> dict[str, Any]:
    # The source's own file may have another layout.
    with temporary_folder() as folder:
        save_weights(dense, folder / WEIGHTS)
        before = sizes(folder / WEIGHTS)
    after = sizes(pruned)
    return {
        "dense": before,
        "pruned": after,
        "gzip_to_dense": after["gzip_bytes"] / before["bytes"],
        "gzip_to_gzip": after["gzip_bytes"] / before["gzip_bytes"],
    }


def score_rows(rows: Iterable[FaceRow], scores: np.ndarray) -> list[ScoreRow]:
    """Crops with their P(fake), `(n,)`, as `tfdfd.metrics.intervals.compare` takes them."""
    names = ("file", "dataset", "video", "frame", "track", "label", "method", "source_id", "compression", "split")
    return [
        ScoreRow(**{name: getattr(row, name) for name in names}, fake_probability=float(value))
        for row, value in zip(rows, scores, strict=True)
    ]
