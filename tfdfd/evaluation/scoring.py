"""Scores evaluation sets with a model: `scores.csv`, written in parts so that an interrupted run resumes.

`scores.json` beside it identifies the model and the sets.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfdfd.evaluation.sets import EvalSet
from tfdfd.files import differences, locked, write_atomically
from tfdfd.metrics.scores import OK, ScoreRow, read_scores, write_scores
from tfdfd.models import clip_frames, load
from tfdfd.version import __version__
from tfdfd.weights import WeightRecord
from tfdfd.weights.store import RUN, locate

SCHEMA = 1
# Fields that determine the scores.
_DECISIVE = (
    "sha256", "size", "names", "split", "crops", "rows_sha256", "frames_of_a_clip", "self_blended", "seed", "condition",
)  # fmt: skip
_OTHER = {"model": "another model", "sets": "other sets"}
PART = 2048  # crops that are scored again at most after an interruption
BATCH = 32


class EvaluationError(RuntimeError):
    """Scoring cannot continue."""


@dataclass(frozen=True, eq=False)
class OpenedModel:
    """A model ready to score.

    Attributes:
        record: record of its weights.
        network: the Keras model.
        run: folder of its `tfdfd train` run, or None.
        path: path of its weights.
    """

    record: WeightRecord
    network: keras.Model
    run: Path | None
    path: Path

    @property
    def size(self) -> int:
        """Side of its square input crops in pixels."""
        return self.network.input_shape[-2]

    @property
    def frames(self) -> int | None:
        """Crops per clip; None for a network of single crops."""
        return clip_frames(self.record)

    @property
    def key(self) -> str:
        """Digest of everything that determines its scores, for caches."""
        record = self.record
        known = (record.sha256, record.model, record.arguments, self.size, record.polarity, record.members, record.base)
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]

    def info(self) -> dict:
        """Description for reports."""
        record = self.record
        return {
            "handle": record.handle,
            "network": record.model,
            "sha256": record.sha256,
            "threshold": record.threshold,
            "inconclusive_band": list(record.inconclusive_band) if record.inconclusive_band else None,
            "size": self.size,
            "frames_of_a_clip": self.frames,
            "run": None if self.run is None else os.path.abspath(self.run),
            "licence": record.licence,
            "training_data": record.training_data,
        }


def open_model(model: str | os.PathLike) -> OpenedModel:
    """Opens a handle, a weights file with its card, or the folder of a finished run.

    Raises:
        ValueError: there is no such model, or its input is not square.
    """
    record, path = locate(model)
    network = load(record, path)
    if network.input_shape[-3] != network.input_shape[-2]:
        raise ValueError(f"{record.handle} takes {network.input_shape}; expected square crops (batch, size, size, 3).")
    # XLA compilation takes longer than it saves on a CPU.
    network.jit_compile = False
    return OpenedModel(record, network, path.parent if (path.parent / RUN).is_file() else None, path)


def score_sets(
    model: OpenedModel,
    sets: Sequence[EvalSet],
    folder: str | os.PathLike,
    name: str = "scores",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[ScoreRow]:
    """Scores all crops of the sets, or reads the scores that the same model gave the same sets before.

    Args:
        model: the model.
        sets: sets of the model's input size, with different names.
        folder: for `NAME.csv` and `NAME.json`; created if missing.
        name: name of the two files.
        progress: called with the number of crops scored and the total.

    Returns:
        The rows of `NAME.csv`: the crops of each set in order, then the rows without a score.

    Raises:
        ValueError: the folder holds scores of another model or set, or another process works in it.
        EvaluationError: the network returns something that is not a probability; names the crop.
        OSError: a file cannot be written.
    """
    check_names(sets)
    folder = Path(folder)
    with locked(folder, "tfdfd evaluate"):
        table, description = folder / f"{name}.csv", folder / f"{name}.json"
        about = {"schema": SCHEMA, "tfdfd": __version__, "model": model.info(), "sets": [one.info() for one in sets]}
        crops = sum(len(one.rows) for one in sets)
        stored = None
        if table.exists():
            _check_same(about, description, table)
            stored = read_scores(table)
        rows = stored[:crops] if stored else _score_parts(model, sets, folder / f".{name}", about, progress)
        # An index that is given later adds videos.
        rows = rows + [row for one in sets for row in one.absent]
        if rows == stored:
            return rows
        # The description first: a table without it would be taken for somebody else's.
        write_atomically(description, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
        write_scores(table, rows)
        shutil.rmtree(folder / f".{name}", ignore_errors=True)
        return rows


def cached_scores(model: OpenedModel, one: EvalSet, cache: Path, code: Iterable[str] = ()) -> list[ScoreRow]:
    """`score_sets` of one set in a folder of a cache that is named by the model, the set and the code.

    Args:
        model: the model.
        one: the set.
        cache: folder of all cached scores.
        code: digests of the code that makes the crops.
    """
    decisive = _decisive({"model": model.info(), "sets": [one.info()]})
    key = hashlib.sha256(json.dumps([decisive, *code], sort_keys=True).encode()).hexdigest()[:16]
    return score_sets(model, [one], cache / model.key / key)


def about_scores(table: str | os.PathLike) -> dict | None:
    """The description beside a table of scores; None if there is none.

    Raises:
        ValueError: the file is not such a description.
    """
    file = Path(table).with_suffix(".json")
    if not file.is_file():
        return None
    try:
        about = json.loads(file.read_bytes())
        return about | {"schema": about["schema"], "model": dict(about["model"]), "sets": list(about["sets"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} does not describe the scores in {table}: {type(error).__name__}: {error}.") from error


def check_names(sets: Sequence[EvalSet]) -> None:
    """Raises `ValueError` if two sets have the same name in tables."""
    known: dict[str, str] = {}
    for one in sets:
        for name in one.info()["names"]:
            if name in known:
                raise ValueError(
                    f"{known[name]} and {one.where} are both called {name!r}; name them: --data NAME={one.where}."
                )
            known[name] = one.where


def _check_same(about: dict[str, Any], description: Path, table: Path) -> None:
    before = about_scores(table)
    if before is None:
        raise ValueError(
            f"{table} exists, but {description}, which describes it, does not; give a new or empty folder."
        )
    mine, theirs = _decisive(about), _decisive(before)
    for key in mine:
        if mine[key] != theirs[key]:
            changed = differences(theirs[key], mine[key])
            raise ValueError(
                f"{table} holds scores of {_OTHER[key]}: {changed}. Give another folder, or the same model and sets."
            )


def _decisive(about: dict[str, Any]) -> dict[str, Any]:
    """The fields that determine the scores; locations of files are not among them."""
    sets = {number: {key: one.get(key) for key in _DECISIVE} for number, one in enumerate(about["sets"])}
    return {"model": {key: about["model"].get(key) for key in _DECISIVE}, "sets": sets}


def _score_parts(
    model: OpenedModel, sets: Sequence[EvalSet], folder: Path, about: dict[str, Any], progress: Any
) -> list[ScoreRow]:
    _open_parts(folder, about)
    total, rows = sum(len(one.rows) for one in sets), []
    for index, one in enumerate(sets):
        for part in one.parts(PART):
            file = folder / f"{index}-{part.start:09}.csv"
            if file.exists():
                rows += read_scores(file)
            else:
                scored = _score_part(model, one, part)
                write_scores(file, scored)
                rows += scored
            progress(len(rows), total)
    return rows


def _open_parts(folder: Path, about: dict[str, Any]) -> None:
    """Deletes the parts of other scores."""
    about = {"schema": about["schema"], "tfdfd": about["tfdfd"]} | _decisive(about)
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    mark = folder / "of"
    if not mark.is_file() or mark.read_text("utf-8") != digest:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        write_atomically(mark, digest)


def _score_part(model: OpenedModel, one: EvalSet, numbers: Sequence[int]) -> list[ScoreRow]:
    numbers, broken = list(numbers), {}
    try:
        scores = _predict(model, one, numbers)
    except EvaluationError:
        raise
    except Exception:  # readers raise various types; checking each file tells the cause
        broken = one.unreadable(numbers)
        if not broken:
            raise
        numbers = [number for number in numbers if number not in broken]
        scores = _predict(model, one, numbers) if numbers else []  # type: ignore[assignment]
    rows = {n: one.score_row(one.rows[n], float(score), OK) for n, score in zip(numbers, scores, strict=True)}
    rows |= {number: one.score_row(one.rows[number], None, status) for number, status in broken.items()}
    return [rows[number] for number in sorted(rows)]


def _predict(model: OpenedModel, one: EvalSet, numbers: Sequence[int]) -> np.ndarray:
    """P(fake) of these rows, float64 `(n,)`."""
    batch = max(1, BATCH // (model.frames or 1))
    with contextlib.closing(one.batches(numbers, batch)) as batches:  # type: ignore[type-var]
        outputs = [np.asarray(model.network.predict_on_batch(batch), np.float64).reshape(-1) for batch in batches]
    scores = np.concatenate(outputs)
    if len(scores) != len(numbers):
        raise EvaluationError(
            f"{len(scores):,} scores for {len(numbers):,} crops of {one.where}: the set changed meanwhile."
        )
    wrong = np.flatnonzero(~((scores >= 0) & (scores <= 1)))
    if len(wrong):
        first = int(wrong[0])
        raise EvaluationError(
            f"{model.record.handle} returns {scores[first]} for {one.rows[numbers[first]].file} ({len(wrong):,} such "
            "values in this part): its weights are damaged. Train again, or download them again."
        )
    return scores
