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

from tfdfd.files import sha256, write_atomically
from tfdfd.training import seen
from tfdfd.training.recipe import Recipe
from tfdfd.version import __version__
from tfdfd.weights.records import find_record
from tfdfd.weights.store import PREFIX
from tfdfd.workdir import WorkDir

SCHEMA = 1
WEIGHTS = "weights.safetensors"
CARD = "weights.json"
# Of a run's description: where its data and the models that it begins with lie. Their digests are compared.
PLACES = ("data.folder", "recipe.weights", "recipe.teacher", "recipe.members")
# Before the colon of a recipe's `weights`: how a file is read.
KINDS = ("imagenet", "clip", "slim")
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
        built_on: what the model card is to say of the weights that the run is built on, see `tfdfd.weights.terms`.
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
            self.path, work, request, holds="run", places=PLACES, state=_state(None), upgrade=self._upgraded
        )
        self.result = self._work.before and _counted_from_one(self._work.before["result"], self.path)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self) -> None:
        """Lets others into the folder."""
        self._work.close()

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
        self._work.write(_state(result))

    def write_card(self, card: dict) -> None:
        """The model card of `weights.safetensors`, whose digest and size are added."""
        data = (self.path / WEIGHTS).read_bytes()
        known = {"file": WEIGHTS, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        write_atomically(self.path / CARD, json.dumps(card | known, indent=1, ensure_ascii=False) + "\n")

    def _upgraded(self, told):
        read_run(self.path)
        # Settings that recipes did not have when it was begun had their defaults.
        recipe = Recipe.from_settings(told["recipe"])
        return {"models": model_digests(recipe)} | told | {"recipe": recipe.settings()}


def _state(result):
    return {"versions": versions(), "finished": result is not None, "result": result}


def model_digests(recipe: Recipe) -> dict[str, str]:
    """What the models are that a recipe begins with, by setting: the digest of each file, behind how it is read.

    A path may hold another file later, and the same file may have several paths. What is not there stays as it is
    written: whoever opens it says what is missing.
    """
    named = {"weights": recipe.weights, "teacher": recipe.teacher}
    named |= {f"members.{number}": member for number, member in enumerate(recipe.members)}
    return {setting: _model_digest(text) for setting, text in named.items() if text}


def _model_digest(text):
    kind, colon, name = text.partition(":")
    kind, name = (kind + colon, name) if colon and kind in KINDS else ("", text)
    if name.startswith(PREFIX):
        with contextlib.suppress(ValueError):
            return f"{kind}{find_record(name).sha256}"
    path = Path(name, WEIGHTS) if Path(name, "run.json").is_file() else Path(name)
    return f"{kind}{sha256(path)}" if name and path.is_file() else text


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
