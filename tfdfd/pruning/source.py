"""The network that is pruned: where it lies, how it was trained, and whether it knows the data that it is judged on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path

from tfdfd.data.crops import Faces
from tfdfd.data.tables import FaceRow
from tfdfd.models import CLIPS, spec
from tfdfd.training.recipe import Recipe
from tfdfd.training.run_folder import finished_run
from tfdfd.training.training_fingerprints import fingerprints_of, read_fingerprints
from tfdfd.weights.records import WeightRecord

# What fine-tuning with tfmot goes by. The rest is of trainings.
SETTINGS = (
    "data", "order", "augment", "batch_size", "epochs", "steps", "learning_rate", "loss", "monitor", "patience",
    "calibration", "limit", "seed",
)  # fmt: skip
# Of the run that the network comes from, what its fine-tuning does alike.
_KEPT = ("data", "order", "augment", "batch_size", "loss", "monitor", "calibration", "limit", "seed")
EPOCHS, LEARNING_RATE = 10, 1e-3


def recipe_for(source: str | os.PathLike, record: WeightRecord, assignments: Sequence[str] = ()) -> Recipe:
    """How a located network is fine-tuned: on data as its own run was trained on, where it comes from one.

    Args:
        source: handle, weights file or run folder.
        record: of it.
        assignments: `KEY=VALUE`, of `SETTINGS`.

    Raises:
        ValueError: a network of clips or with an SVM, an unfinished run, or a setting that pruning has not.
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
        raise ValueError(f"pruning does not go by {', '.join(other)}; it has the settings {', '.join(SETTINGS)}.")
    return replace(changed, arguments=dict(record.arguments))


def is_run(source: str | os.PathLike) -> bool:
    """Whether a source is the folder of a run."""
    return (Path(source) / "run.json").is_file()


def refuse_known(source: str | os.PathLike, faces: Faces, rows: Iterable[FaceRow], allow: bool = False) -> str | None:
    """Raises `ValueError` where the network was trained on rows of `faces` that pruning is to be judged on.

    Args:
        source: handle, weights file or run folder.
        faces: the set.
        rows: its validation split.
        allow: whether it is taken all the same.

    Returns:
        What a reader must know of it, or None.
    """
    seen = read_fingerprints(source) if is_run(source) else None
    if seen is None:
        return f"whether {os.fspath(source)} was trained on this validation split is not known: it has no list of that."
    trained_on = seen.get("train", frozenset())
    known = [row.file for row in rows if any(mark in trained_on for _, mark in fingerprints_of(row, faces.root))]
    if not known:
        return None
    told = f"{os.fspath(source)} was trained on {len(known):,} crops of the validation split, such as {known[0]}"
    if not allow:
        raise ValueError(f"{told}; give the set and the splits that it was trained with, or --allow-leaks.")
    return f"{told.upper()}: its figures are too good."
