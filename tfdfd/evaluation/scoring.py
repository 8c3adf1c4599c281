"""From a model and sets of crops to `scores.csv`: written crop by crop in parts, so that a stopped scoring goes on.

`scores.json` beside it says of what model and sets the scores are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfdfd.evaluation.judged_set import JudgedSet
from tfdfd.files import locked_folder, write_atomically
from tfdfd.metrics.scores import OK, ScoreRow, read_scores, write_scores
from tfdfd.models import CLIPS, load
from tfdfd.models.temporal import load_temporal
from tfdfd.version import __version__
from tfdfd.weights.records import WeightRecord
from tfdfd.weights.store import RUN, locate
from tfdfd.workdir import differences

SCHEMA = 1
_DECIDES = ("sha256", "size", "names", "split", "crops", "rows_sha256", "frames_of_a_clip", "self_blended", "seed")
_OTHER = {"model": "another model", "sets": "other sets"}
PART = 2048  # crops; that many are lost when a scoring is stopped
BATCH = 32


class EvaluationError(RuntimeError):
    """A scoring that cannot go on."""


@dataclass(frozen=True)
class OpenedModel:
    """A model ready to score.

    Attributes:
        record: of its weights.
        network: the Keras model.
        run: folder of the `tfdfd train` run that it is of, or None.
    """

    record: WeightRecord
    network: object
    run: Path | None

    @property
    def size(self) -> int:
        """Side of the square crops that it takes."""
        return self.network.input_shape[-2]

    @property
    def frames(self) -> int | None:
        """Crops of a clip; None where it takes single ones."""
        return self.network.input_shape[1] if self.record.model == CLIPS else None

    def told(self) -> dict:
        """What a report says of it."""
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
        ValueError: there is none, or it does not take square crops.
    """
    record, path = locate(model)
    network = load_temporal(record, path) if record.model == CLIPS else load(record, path)
    if network.input_shape[-3] != network.input_shape[-2]:
        raise ValueError(f"{record.handle} takes {network.input_shape}; expected (batch, size, size, 3): square crops.")
    # Compiling through XLA takes longer than it saves on a processor.
    network.jit_compile = False
    return OpenedModel(record, network, path.parent if (path.parent / RUN).is_file() else None)


def score_sets(
    model: OpenedModel,
    sets: Sequence[JudgedSet],
    folder: str | os.PathLike,
    name: str = "scores",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[ScoreRow]:
    """Scores all crops of the sets, or reads what was scored before by the same model of the same sets.

    Args:
        model: that scores.
        sets: all of the model's size, no two of one name.
        folder: for `NAME.csv` and `NAME.json`; made where it is not there.
        name: of the two files.
        progress: called with the number of crops scored, and of all.

    Returns:
        The rows as `NAME.csv` has them: crops of each set in its order, then what has no score.

    Raises:
        ValueError: the folder holds scores of another model or set, or another process is at work in it.
        EvaluationError: the network answers something that is no probability; names the crop.
        OSError: a file cannot be written.
    """
    check_names(sets)
    folder = Path(folder)
    lock = locked_folder(folder, "tfdfd evaluate")
    try:
        table, told = folder / f"{name}.csv", folder / f"{name}.json"
        about = {"schema": SCHEMA, "tfdfd": __version__, "model": model.told(), "sets": [one.told() for one in sets]}
        crops = sum(len(one.rows) for one in sets)
        stored = None
        if table.exists():
            _check_same(about, told, table)
            stored = read_scores(table)
        rows = stored[:crops] if stored else _scored(model, sets, folder / f".{name}", about, progress)
        # An index given later tells of more.
        rows = rows + [row for one in sets for row in one.absent]
        if rows == stored:
            return rows
        # The description first: a table without one would be taken for somebody else's.
        write_atomically(told, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
        write_scores(table, rows)
        shutil.rmtree(folder / f".{name}", ignore_errors=True)
        return rows
    finally:
        if lock is not None:
            os.close(lock)


def about_scores(table: str | os.PathLike) -> dict | None:
    """What the JSON file beside a table of scores says of it; None where there is none.

    Raises:
        ValueError: the file is none of this form.
    """
    file = Path(table).with_suffix(".json")
    if not file.is_file():
        return None
    try:
        about = json.loads(file.read_bytes())
        return about | {"schema": about["schema"], "model": dict(about["model"]), "sets": list(about["sets"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} does not say what {table} is of: {type(error).__name__}: {error}.") from error


def check_names(sets: Sequence[JudgedSet]) -> None:
    """Raises `ValueError` where two sets would be one in the tables."""
    known = {}
    for one in sets:
        for name in one.told()["names"]:
            if name in known:
                raise ValueError(
                    f"{known[name]} and {one.where} are both called {name!r}; name them: --data NAME={one.where}."
                )
            known[name] = one.where


def _check_same(about, told, table):
    before = about_scores(table)
    if before is None:
        raise ValueError(f"{table} is there, but not {told}, which says of what; give a new or an empty folder.")
    mine, theirs = _decisive(about), _decisive(before)
    for key in mine:
        if mine[key] != theirs[key]:
            words = differences(theirs[key], mine[key])
            raise ValueError(f"{table} holds scores of {_OTHER[key]}: {words}. Give another folder, or the same again.")


def _decisive(about):
    """What decides on scores: not where the files lie."""
    found = {"model": {key: about["model"].get(key) for key in _DECIDES}}
    return found | {"sets": {n: {key: one.get(key) for key in _DECIDES} for n, one in enumerate(about["sets"])}}


def _scored(model, sets, parts, about, progress):
    _open_parts(parts, about)
    total, rows = sum(len(one.rows) for one in sets), []
    for place, one in enumerate(sets):
        for part in one.parts(PART):
            file = parts / f"{place}-{part.start:09}.csv"
            if file.exists():
                rows += read_scores(file)
            else:
                found = _part(model, one, part)
                write_scores(file, found)
                rows += found
            progress(len(rows), total)
    return rows


def _open_parts(parts, about):
    """Parts of other scores are of no use."""
    about = {"schema": about["schema"], "tfdfd": about["tfdfd"]} | _decisive(about)
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    mark = parts / "of"
    if not mark.is_file() or mark.read_text("utf-8") != digest:
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir()
        write_atomically(mark, digest)


def _part(model, one, numbers):
    numbers, broken = list(numbers), {}
    try:
        scores = _predicted(model, one, numbers)
    except EvaluationError:
        raise
    except Exception:  # whatever a reader of crops raises; what it was is found by looking at each file
        broken = one.unreadable(numbers)
        if not broken:
            raise
        numbers = [number for number in numbers if number not in broken]
        scores = _predicted(model, one, numbers) if numbers else []
    found = {number: one.line(number, float(score), OK) for number, score in zip(numbers, scores, strict=True)}
    found |= {number: one.line(number, None, status) for number, status in broken.items()}
    return [found[number] for number in sorted(found)]


def _predicted(model, one, numbers):
    """P(fake) of these rows, float64 `(n,)`."""
    batch = max(1, BATCH // (model.frames or 1))
    with contextlib.closing(one.batches(numbers, batch)) as batches:
        answers = [np.asarray(model.network.predict_on_batch(batch), np.float64).reshape(-1) for batch in batches]
    scores = np.concatenate(answers)
    if len(scores) != len(numbers):
        raise EvaluationError(
            f"{len(scores):,} scores for {len(numbers):,} crops of {one.where}: it changed meanwhile."
        )
    wrong = np.flatnonzero(~((scores >= 0) & (scores <= 1)))
    if len(wrong):
        first = int(wrong[0])
        raise EvaluationError(
            f"{model.record.handle} answers {scores[first]} for {one.rows[numbers[first]].file} ({len(wrong):,} such "
            "answers in this part): its weights are damaged. Train again, or fetch them anew."
        )
    return scores
