"""Run folder of one training: its configuration, resumable state, results, and fingerprints of its data.

run.json                     recipe, data with digests, versions and seed; at the end the result
state.safetensors            variables and progress of the last saved step
best-<epoch>.safetensors     weights of the best epoch so far
seen.json                    fingerprints of the training data, by which an evaluation detects overlap with its own;
                             digests of names only, since a model is shared more widely than its data
log.csv, curves.png, tensorboard/, gradient_flow.csv   training history, see `history`
weights.safetensors, weights.json   the trained network and its model card, which `--model` and other options take
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfdfd.data.tables import FaceRow, keys_of
from tfdfd.files import WorkDir, sha256, write_atomically
from tfdfd.training import TrainingError
from tfdfd.training.recipe import Recipe
from tfdfd.version import __version__
from tfdfd.weights import find_record
from tfdfd.weights.store import PREFIX

if TYPE_CHECKING:
    import keras

SCHEMA = 1
WEIGHTS = "weights.safetensors"
CARD = "weights.json"
LOG = "log.csv"
STATE = "state.safetensors"
# Keys of run.json that locate data and initial models. Their digests are compared instead.
PLACES = ("data.folder", "recipe.weights", "recipe.teacher", "recipe.members")
# Prefixes of a recipe's `weights` that say how a file is read.
KINDS = ("imagenet", "clip", "slim")
_LIBRARIES = ("keras", "tensorflow", "jax", "numpy", "opencv-python", "scikit-learn")
_STATE_KEY = "tfdfd"


class RunFolder:
    """The folder of a new, resumed or finished run. Use it as a context manager: it locks the folder.

    Args:
        folder: created if it is missing.
        recipe: the recipe of the run.
        data: description of the data with digests, JSON-serializable.
        backend: the Keras backend.
        more: further configuration, such as `pruning`, JSON-serializable.
        work: the command, for the error that a second process gets.

    Attributes:
        path: path of the folder.
        more: as given.
        built_on: entries of the model card for the weights that the run builds on, see `tfdfd.weights.store`.
        result: result of a finished run, else None.

    Raises:
        ValueError: the folder contains another run, or something else.
        OSError: it cannot be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        recipe: Recipe,
        data: dict,
        backend: str,
        more: dict | None = None,
        work: str = "tfdfd train",
    ):
        self.path = Path(folder)
        self.more = more or {}
        self.built_on: list[dict] = []
        request = {
            "schema": SCHEMA,
            "tfdfd": __version__,
            "recipe": recipe.settings(),
            "models": model_digests(recipe),
            "data": data,
            "backend": backend,
        } | self.more
        self._work = WorkDir(
            self.path, work, request, holds="run", places=PLACES, state=_outcome(None), upgrade=self._upgraded
        )
        self.result = self._work.before and _counted_from_one(self._work.before["result"], self.path)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases the lock."""
        self._work.close()

    def abandon(self) -> None:
        """Deletes the files of a run that never started, so that the folder can take a run with other settings."""
        names = {file.name for file in self.path.iterdir() if not file.name.startswith(".tfdfd-")}
        if names <= {"run.json", FINGERPRINTS}:
            for name in names:
                (self.path / name).unlink()

    def finish(self, result: dict) -> None:
        """Records the result in `run.json`, and deletes the files that only resuming needed."""
        self.result = result
        self._work.write(_outcome(result))
        keep_best(self.path, None)
        (self.path / STATE).unlink(missing_ok=True)

    def write_card(self, card: dict) -> None:
        """Writes the model card of `weights.safetensors`; file name, size and digest are added."""
        data = (self.path / WEIGHTS).read_bytes()
        known = {"file": WEIGHTS, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        write_atomically(self.path / CARD, json.dumps(card | known, indent=1, ensure_ascii=False) + "\n")

    def _upgraded(self, description: dict[str, Any]) -> dict[str, Any]:
        read_run(self.path)
        # Settings that are newer than the run had their defaults.
        recipe = Recipe.from_settings(description["recipe"])
        return {"models": model_digests(recipe)} | description | {"recipe": recipe.settings()}


def _outcome(result: dict[str, Any] | None) -> dict[str, Any]:
    return {"versions": versions(), "finished": result is not None, "result": result}


def best_weights(folder: Path, epoch: int) -> Path:
    """Returns the file for the weights of the best epoch, counted from 0."""
    return folder / f"best-{epoch}.safetensors"


def keep_best(folder: Path, epoch: int | None) -> None:
    """Deletes the weights of all epochs but this one."""
    for file in folder.glob("best-*.safetensors"):
        if epoch is None or file != best_weights(folder, epoch):
            file.unlink()


def save_state(path: str | os.PathLike, variables: list[keras.Variable], progress: dict) -> None:
    """Writes variables, in their order, and the progress (JSON-serializable) to one file, atomically.

    Raises:
        TrainingError: the disk is full or the folder is not writable; the previous state stays.
    """
    from safetensors.numpy import save

    # (`ascontiguousarray` would turn scalars into arrays of one element.)
    arrays = {f"{number:05}": np.array(variable.numpy(), order="C") for number, variable in enumerate(variables)}
    try:
        write_atomically(path, save(arrays, {_STATE_KEY: json.dumps(progress)}))
    except OSError as error:
        raise TrainingError(
            f"{path} could not be written: {error}. The last saved state stays; free some space, then repeat the same "
            "command to resume."
        ) from error


def load_state(path: str | os.PathLike, variables: list[keras.Variable]) -> dict | None:
    """Assigns the saved values to the variables and returns the progress; None if there is no saved state.

    Raises:
        TrainingError: the file is damaged, or contains other variables.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).exists():
        return None
    try:
        with safe_open(path, "np") as file:
            progress = json.loads((file.metadata() or {})[_STATE_KEY])
            arrays = [file.get_tensor(name) for name in sorted(file.keys())]  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise TrainingError(f"{path} is not a saved state: {error}; remove it to start over.") from error
    shapes, expected = [array.shape for array in arrays], [tuple(variable.shape) for variable in variables]
    if shapes != expected:
        raise TrainingError(
            f"{path} contains {len(shapes)} arrays, which do not have the shapes of the {len(expected)} variables of "
            "this training; remove it to start over."
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
    return progress


def model_digests(recipe: Recipe) -> dict[str, str]:
    """Returns the digest of each model file that a recipe starts from, by setting, prefixed by how the file is read.

    Digests identify models, since a path may hold another file later, and one file may have several paths. A missing
    file is returned as it is written in the recipe; opening it later raises the error.
    """
    named = {"weights": recipe.weights, "teacher": recipe.teacher}
    named |= {f"members.{number}": member for number, member in enumerate(recipe.members)}
    return {setting: _model_digest(text) for setting, text in named.items() if text}


def _model_digest(text: str) -> str:
    kind, colon, name = text.partition(":")
    kind, name = (kind + colon, name) if colon and kind in KINDS else ("", text)
    if name.startswith(PREFIX):
        with contextlib.suppress(ValueError):
            return f"{kind}{find_record(name).sha256}"
    path = Path(name, WEIGHTS) if Path(name, "run.json").is_file() else Path(name)
    return f"{kind}{sha256(path)}" if name and path.is_file() else text


def read_run(folder: str | os.PathLike) -> dict:
    """Returns the `run.json` of a run.

    Raises:
        ValueError: the folder contains none.
    """
    file = Path(folder) / "run.json"
    try:
        run = json.loads(file.read_bytes())
        Recipe.from_settings(run["recipe"])
        return run | {"result": run["result"], "data": run["data"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} is not a run of 'tfdfd train': {type(error).__name__}: {error}.") from error


def finished_run(folder: str | os.PathLike) -> dict:
    """Returns the `run.json` of a finished run.

    Raises:
        ValueError: the folder contains no run, or an unfinished one.
    """
    run = read_run(folder)
    if run["result"] is None:
        raise ValueError(f"the run {folder} is not finished; repeat the same 'tfdfd train' to resume it.")
    return run | {"result": _counted_from_one(run["result"], folder)}


def read_log(folder: str | os.PathLike) -> list[dict[str, str]]:
    """Returns the rows of a run's `log.csv`, with epochs counted from 1; an empty list if there is no log.

    Raises:
        ValueError: the file is not a training log.
    """
    log = Path(folder) / LOG
    if not log.is_file():
        return []
    try:
        with open(log, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if not _starts_at_zero(rows):
            return rows
        return [row | {"epoch": str(int(row["epoch"]) + 1)} for row in rows]
    except (ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"{log} is not a log of a training: {error}.") from error


def _starts_at_zero(rows: Sequence[dict[str, Any]]) -> bool:
    """Returns whether the log is of an earlier version, which counted epochs from 0."""
    return bool(rows) and rows[0].get("epoch") == "0"


def _counted_from_one(result: dict[str, Any] | None, folder: str | os.PathLike) -> dict[str, Any] | None:
    log = Path(folder) / LOG
    if not result or not isinstance(result.get("best_epoch"), int) or not log.is_file():
        return result
    with open(log, encoding="utf-8", errors="replace", newline="") as file:
        first = next(csv.DictReader(file), None)
    return result | {"best_epoch": result["best_epoch"] + 1} if first and _starts_at_zero([first]) else result


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that results depend on."""
    known = {"python": platform.python_version(), "tfdfd": __version__}
    for name in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            known[name] = metadata.version(name)
    return known


FINGERPRINTS = "seen.json"
FINGERPRINTS_SCHEMA = 1
# Kind of a fingerprint: the bytes of a crop's file. The other kinds are those of `keys_of`.
CROP = "file"
# Data set name of plain folders. Names in one folder are unrelated to names in another folder.
_UNNAMED = "folder"


def write_fingerprints(
    folder: str | os.PathLike,
    parts: Mapping[str, Iterable[FaceRow]],
    root: str | os.PathLike,
    initial_models: Iterable[str | os.PathLike] = (),
) -> None:
    """Writes the fingerprints of each part (`train`, `val`) of a run's data.

    Args:
        folder: run folder.
        parts: rows by name of the part.
        root: folder of the crops.
        initial_models: models that the run starts from. If one is a run folder, its fingerprints are included.

    Raises:
        ValueError: the fingerprints of an initial model are damaged.
        OSError: the file cannot be written.
    """
    fingerprints = {
        name: {digest for row in rows for _, digest in fingerprints_of(row, root)} for name, rows in parts.items()
    }
    for model in initial_models:
        for name, inherited in (read_fingerprints(model) or {}).items():
            fingerprints.setdefault(name, set()).update(inherited)
    content = {"schema": FINGERPRINTS_SCHEMA} | {name: sorted(digests) for name, digests in fingerprints.items()}
    write_atomically(Path(folder) / FINGERPRINTS, json.dumps(content) + "\n")


def read_fingerprints(folder: str | os.PathLike) -> dict[str, frozenset[str]] | None:
    """Returns the fingerprints by part; None if the run has no such file.

    Raises:
        ValueError: the file is damaged or of another schema.
    """
    file = Path(folder) / FINGERPRINTS
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_bytes())
        if content.pop("schema") != FINGERPRINTS_SCHEMA:
            raise ValueError(f"another schema than {SCHEMA}")
        return {name: frozenset(digests) for name, digests in content.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} does not say what a run has seen: {type(error).__name__}: {error}.") from error


def fingerprints_of(row: FaceRow, root: str | os.PathLike) -> list[tuple[str, str]]:
    """Returns `(kind, digest)` for the file, video, sources and people of a crop.

    Names count within their data set; names of a plain folder count within that folder.
    """
    scope = os.path.realpath(root) if row.dataset == _UNNAMED else ""
    names = [(kind, "\0".join((dataset, scope, kind, name))) for dataset, kind, name in keys_of(row)]
    digests = [(kind, hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]) for kind, text in names]
    return digests + ([(CROP, row.sha256)] if row.sha256 else [])
