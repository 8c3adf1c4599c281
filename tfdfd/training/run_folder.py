"""The folder of one training: how it was made, how far it is, and what came out.

run.json              recipe, data with digests, versions, seed; in the end the result
state.safetensors     everything that going on needs, of the last saved step
best-<epoch>.safetensors   weights of the best epoch so far
seen.json             by what its data are known again: digests of names and files
log.csv, curves.png, tensorboard/, gradient_flow.csv   an epoch's figures
weights.safetensors, weights.json   the trained network and its model card: what `--model` and others take
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import platform
from importlib import metadata
from pathlib import Path

from tfdfd.files import locked_folder, write_atomically
from tfdfd.settings import differences
from tfdfd.training import seen
from tfdfd.training.recipe import Recipe
from tfdfd.version import __version__

SCHEMA = 1
WEIGHTS = "weights.safetensors"
CARD = "weights.json"
LOG = "log.csv"
_LIBRARIES = ("keras", "tensorflow", "jax", "numpy", "opencv-python", "scikit-learn")


class RunFolder:
    """A run in the making, or a finished one.

    Args:
        folder: made where it is not there.
        recipe: what is run.
        data: what it is run on: anything JSON holds, with digests.
        backend: of Keras.
        more: what else the work is told by, such as `pruning`: anything JSON holds.
        work: what is done, for whoever comes second.

    Attributes:
        path: of the folder.
        more: as given.
        result: of a finished run, else None.

    Use as a context manager: it keeps other runs out of the folder.

    Raises:
        ValueError: the folder holds another run, or something else.
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
        self._settings = {
            "schema": SCHEMA,
            "tfdfd": __version__,
            "recipe": recipe.settings(),
            "data": data,
            "backend": backend,
        } | self.more
        self._lock = locked_folder(self.path, work)
        try:
            self.result = self._open()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self) -> None:
        """Lets others into the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def abandon(self) -> None:
        """Forgets a run that came to nothing, so that the folder is free for one with other settings."""
        names = {file.name for file in self.path.iterdir() if not file.name.startswith(".tfdfd-")}
        if names <= {"run.json", seen.FILE}:
            for name in names:
                (self.path / name).unlink()

    def write_log(self, rows: list[dict]) -> None:
        """All epochs so far as `log.csv`: written anew each time, so that no epoch is in it twice."""
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path / LOG, text.getvalue())

    def finish(self, result: dict) -> None:
        """Says in `run.json` what came out."""
        self.result = result
        self._write()

    def write_card(self, card: dict) -> None:
        """The model card of `weights.safetensors`, whose digest and size are added."""
        data = (self.path / WEIGHTS).read_bytes()
        known = {"file": WEIGHTS, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        write_atomically(self.path / CARD, json.dumps(card | known, indent=1, ensure_ascii=False) + "\n")

    def _open(self):
        run = self.path / "run.json"
        if not run.exists():
            left_over = [file.name for file in self.path.iterdir() if not file.name.startswith(".tfdfd-")]
            if left_over:
                raise ValueError(f"{self.path} is not empty and holds no run; give a new or an empty folder.")
            self.result = None
            self._write()
            return None
        told = read_run(self.path)
        # Settings that recipes did not have when it was begun had their defaults.
        told["recipe"] = Recipe.from_settings(told["recipe"]).settings()
        words = differences({key: told.get(key) for key in self._settings}, self._settings)
        if words:
            raise ValueError(
                f"{self.path} was begun otherwise: {words}. Give the same again to go on, or another folder."
            )
        return _counted_from_one(told["result"], self.path)

    def _write(self):
        told = self._settings | {"versions": versions(), "finished": self.result is not None, "result": self.result}
        write_atomically(self.path / "run.json", json.dumps(told, indent=1, ensure_ascii=False) + "\n")


def read_run(folder: str | os.PathLike) -> dict:
    """The `run.json` of a run.

    Raises:
        ValueError: the folder holds none.
    """
    run = Path(folder) / "run.json"
    try:
        told = json.loads(run.read_bytes())
        Recipe.from_settings(told["recipe"])
        return told | {"result": told["result"], "data": told["data"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{run} is no run of 'tfdfd train': {type(error).__name__}: {error}.") from error


def finished_run(folder: str | os.PathLike) -> dict:
    """The `run.json` of a run that has come to its end.

    Raises:
        ValueError: it is none, or has not.
    """
    told = read_run(folder)
    if told["result"] is None:
        raise ValueError(f"the run {folder} is not finished; the same 'tfdfd train' goes on with it.")
    return told | {"result": _counted_from_one(told["result"], folder)}


def read_log(folder: str | os.PathLike) -> list[dict[str, str]]:
    """The rows of a run's `log.csv`, epochs counted from 1; none where there is no log.

    Raises:
        ValueError: it is no log.
    """
    log = Path(folder) / LOG
    if not log.is_file():
        return []
    try:
        with open(log, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if not _is_from_zero(rows):
            return rows
        return [row | {"epoch": str(int(row["epoch"]) + 1)} for row in rows]
    except (ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"{log} is no log of a training: {error}.") from error


def _is_from_zero(rows):
    """Whether a log is of an earlier version, which counted epochs from 0."""
    return bool(rows) and rows[0].get("epoch") == "0"


def _counted_from_one(result, folder):
    log = Path(folder) / LOG
    if not result or not isinstance(result.get("best_epoch"), int) or not log.is_file():
        return result
    with open(log, encoding="utf-8", errors="replace", newline="") as file:
        first = next(csv.DictReader(file), None)
    return result | {"best_epoch": result["best_epoch"] + 1} if first and _is_from_zero([first]) else result


def versions() -> dict:
    """Of Python and of the libraries that numbers depend on."""
    found = {"python": platform.python_version(), "tfdfd": __version__}
    for name in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
