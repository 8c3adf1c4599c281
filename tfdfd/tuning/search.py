"""One search: what it is, the folder that holds it, and how it is gone through by one process.

search.json         what is searched, on which data
oracle.json         how far it is: every trial with its values
trials/<id>/        run folder of a trial, as 'tfdfd train' makes it
trials/<id>.json    what befell it
trials.csv, best.json, tensorboard/   what came out so far
workers/            what processes of --workers had to say
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from tfdfd.data.tables import FaceRow
from tfdfd.files import write_atomically
from tfdfd.models import spec
from tfdfd.training.config import assignment
from tfdfd.training.crop_set import VAL, CropSet
from tfdfd.training.engine import Report
from tfdfd.training.recipe import BLENDED, Recipe
from tfdfd.training.run_folder import PLACES, model_digests
from tfdfd.tuning.space import Space
from tfdfd.version import __version__
from tfdfd.workdir import read_description, refuse_other

SCHEMA = 1
# Not compared: where the data and the models lie, and the user's words for what the recipe holds.
_PLACES = (*PLACES, "data", "digests.folder", "changed", "space.fixed")
VIDEO_AUC, CROP_AUC = "val_video_auc", "val_auc"
# Makes who is told of one training.
Reports = Callable[[], AbstractContextManager[Report]]


@dataclass(frozen=True)
class Search:
    """What is searched.

    Attributes:
        folder: where everything of it lies.
        space: what is varied.
        recipe: what holds in every trial: the space's recipe, with what the user has set.
        data: a face set with splits.
        objective: what is to be great: the validation AUC of videos, or of crops where no video has two.
        tuner: one of `tfdfd.tuning.tuners.TUNERS`.
        max_trials: that are begun.
        seed: of what is drawn, and of each training.
        allow_leaks: as for `train`.
        changed: what recipe and space of the file were changed by, as `KEY=VALUE`.
        digests: of the data, as a run has them.
    """

    folder: Path
    space: Space
    recipe: Recipe
    data: str
    objective: str
    tuner: str
    max_trials: int
    seed: int
    allow_leaks: bool
    changed: tuple[str, ...]
    digests: dict

    def settings(self) -> dict:
        """What JSON holds of it. `max_trials` is not in it: a search may be made longer."""
        told = asdict(self) | {"recipe": self.recipe.settings(), "models": model_digests(self.recipe)}
        told |= {"schema": SCHEMA, "tfdfd": __version__}
        del told["folder"], told["max_trials"]
        return json.loads(json.dumps(told))


def make_search(
    space: Space,
    data: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    tuner: str = "random",
    max_trials: int = 20,
    seed: int = 0,
    settings: tuple[str, ...] = (),
    quick: bool = False,
    allow_leaks: bool = False,
) -> Search:
    """A search, after a look at the data.

    Args:
        space: what is varied.
        data: a face set with splits.
        folder: of the search.
        tuner: one of `tfdfd.tuning.tuners.TUNERS`.
        max_trials: that are begun.
        seed: of what is drawn, and of each training.
        settings: `KEY=VALUE` of the user: they hold in every trial and are not varied.
        quick: every trial in seconds, to see that it runs.
        allow_leaks: as for `train`.

    Raises:
        ValueError: a setting that does not exist, nothing left to vary, or a face set of no use.
    """
    if max_trials < 1:
        raise ValueError(f"a search needs one trial at least; received max_trials={max_trials}.")
    recipe = space.base()
    fixed = {"seed", "monitor", *(text.partition("=")[0] for text in settings)}
    if quick:
        before, recipe = recipe, recipe.quick()
        fixed |= {key for key, value in vars(recipe).items() if value != getattr(before, key)} | {"batch_size"}
    if tuner == "hyperband":
        fixed.add("epochs")
    recipe = recipe.changed([*settings, assignment("seed", seed)])
    if recipe.data == BLENDED:
        # Pairs are degraded by a rule of their own; a policy would change nothing.
        fixed.add("augment")
    space = space.without(fixed)
    if not space.search:
        raise ValueError(f"all that the space of {space.network} varies is set: {', '.join(settings)}; set less.")
    crops = CropSet(data, recipe, recipe.size or spec(recipe.network).input_shape[0], allow_leaks)
    objective = objective_of(crops.images(VAL)[1])
    return Search(
        folder=Path(folder),
        space=space,
        recipe=recipe.changed([assignment("monitor", objective)]),
        data=os.path.abspath(data),
        objective=objective,
        tuner=tuner,
        max_trials=max_trials,
        seed=seed,
        allow_leaks=allow_leaks,
        changed=(*space.fixed, *settings),
        digests=crops.digests(),
    )


def objective_of(rows: list[FaceRow]) -> str:
    """The AUC of videos where a video has several crops; else that of crops, which is the same."""
    return CROP_AUC if len({(row.dataset, row.video) for row in rows}) == len(rows) else VIDEO_AUC


def keep(search: Search) -> None:
    """Writes `search.json`, or checks that the folder holds this very search.

    Raises:
        ValueError: it holds another one, or something else.
        OSError: it cannot be written.
    """
    file = search.folder / "search.json"
    if file.exists():
        compare(search)
        return
    others = [one.name for one in search.folder.iterdir() if not one.name.startswith(".tfdfd-")]
    if others:
        raise ValueError(f"{search.folder} is not empty and holds no search; give a new or an empty folder.")
    write_atomically(file, json.dumps(search.settings(), indent=1, ensure_ascii=False) + "\n")


def compare(search: Search) -> None:
    """Checks that the folder holds this search.

    Raises:
        ValueError: it holds another; says what is different.
    """
    file = search.folder / "search.json"
    try:
        before = read_description(file, "search of 'tfdfd tune'")
        if "models" not in before:
            before["models"] = model_digests(Recipe.from_settings(before["recipe"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} is no search of 'tfdfd tune': {type(error).__name__}: {error}.") from error
    refuse_other(search.folder, before, search.settings(), _PLACES)


def run_trials(search: Search, oracle, tuner_id: str, run: Callable, ended: Callable[[], None] = lambda: None) -> None:
    """Runs trials until there are no more.

    Args:
        search: which one.
        oracle: that says what to try: the oracle itself, or the client of a chief.
        tuner_id: of who asks.
        run: `run(trial_id, values) -> metrics`, or None if it failed.
        ended: called after each trial.
    """
    while True:
        trial = oracle.create_trial(tuner_id)
        if trial.status == "STOPPED":
            return
        if trial.status == "IDLE":
            time.sleep(1)
            continue
        metrics = run(trial.trial_id, trial.hyperparameters.values)
        if metrics is None:
            trial.status = "FAILED"
        else:
            oracle.update_trial(trial.trial_id, metrics)
            trial.status = "COMPLETED"
        oracle.end_trial(trial)
        ended()
