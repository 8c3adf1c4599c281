"""Provenance of a run for its model card: the terms of its initial weights, its commands, and its description."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

from tfdfd.models import spec
from tfdfd.recipes import list_recipes
from tfdfd.training.recipe import BLENDED, Recipe
from tfdfd.training.run_folder import finished_run, versions
from tfdfd.weights.clip import PREFIX as CLIP
from tfdfd.weights.initial import IMAGENET, SLIM
from tfdfd.weights.store import BEGUN_WITH, RUN, TRAINED, inherit, locate
from tools.packed.settings import Settings, start_of

# The second set of the packs, as commands name it.
PHOTOGRAPH_SET = "utk/faces.csv"
# The folders of a path, or of one after "imagenet:", but not of a URL. Weights of a run keep its folder's name.
_FOLDERS = re.compile(rf"(^|(?<=:))(/(?!/)|\.{{1,2}}/).*/(?=(?!{re.escape(TRAINED)}$)[^/]+(/{re.escape(TRAINED)})?$)")


def initial_weights(recipe: dict, licence: str | None = None) -> dict | None:
    """The weights that a run began with, `{what, licence}` and more if known; None if they were random.

    Args:
        recipe: settings of the run's recipe.
        licence: licence of the ImageNet weights, if the run began with them.

    Raises:
        ValueError: the weights cannot be found, or no licence is given for ImageNet weights.
    """
    if recipe["weights"] is None:
        records = [locate(member)[0] for member in recipe.get("members", ())]
        if not records:
            return None
        licences = dict.fromkeys(record.licence for record in records)
        return {"what": " and ".join(record.handle for record in records), "licence": "; ".join(licences)}
    weights = recipe["weights"].removeprefix(SLIM)
    if weights == "imagenet" or weights.startswith(IMAGENET):
        if not licence:
            raise ValueError(
                f"the run began with ImageNet weights ({Path(weights).name}): state their licence, as given by their "
                "source: --initial-licence Apache-2.0."
            )
        known = {"what": f"ImageNet features for keras.applications.{spec(recipe['network']).imagenet}"}
        file = weights.removeprefix(IMAGENET)
        return known | {"licence": licence} | ({"file": Path(file).name} if file != weights else {})
    if weights.startswith(CLIP):
        return {
            "what": "the image tower of CLIP ViT-B/16, its first nine blocks, frozen but for norms and biases",
            "licence": "MIT",
            "file": Path(weights.removeprefix(CLIP)).name,
        }
    folder = _run_of(weights)
    if folder:
        before = finished_run(folder)["recipe"]
        known = initial_weights(before, licence)
        return known and known | {"what": f"{known['what']}, by way of {before['name']}"}
    record, _ = locate(weights)
    known = {"what": record.handle, "licence": record.licence, "sha256": record.sha256}
    if "notice" in record.card:
        known["notice"] = record.card["notice"]
    # The handle may be that of the new weights, whose card then is the only one that tells where these came from.
    ancestors = inherit(BEGUN_WITH, record)[1:]
    return known | ({"built_on": ancestors} if ancestors else {})


def runs_behind(recipe: dict) -> dict[Path, dict]:
    """`run.json` by folder of the runs that a run builds on: teacher, initial weights and members, in build order."""
    runs: dict[Path, dict] = {}
    for model in (recipe.get("teacher"), recipe["weights"], *recipe.get("members", ())):
        folder = _run_of(model.removeprefix(SLIM)) if model else None
        if folder and folder not in runs:
            run = finished_run(folder)
            runs = {**runs, **runs_behind(run["recipe"]), folder: run}
    return runs


def run_description(run: dict, photographs: str, faces: str, command: str, initial: dict | None) -> dict:
    """What a card states of the training: data, licence note, recipe, commands and versions.

    Args:
        run: `run.json`.
        photographs: description of the set that the run was trained on.
        faces: name of that set's table.
        command: the command that makes the card.
        initial: result of `initial_weights`.
    """
    # Settings that did not exist when the run was made have their defaults.
    recipe, result = Recipe.from_settings(run["recipe"]).settings(), run["result"]
    counts = "; ".join(
        f"{split}: " + ", ".join(f"{count:,} {method}" for method, count in methods.items())
        for split, methods in run["data"]["crops"].items()
    )
    begins = f"begun with {initial['what']} ({initial['licence']})" if initial else "begun with random weights"
    blended = f", self-blended: {recipe['fakes']} fakes, as a {recipe['medium']}" if recipe["data"] == BLENDED else ""
    teacher = f"; imitates {without_folders(recipe['teacher'])} as well" if recipe["teacher"] else ""
    training = {
        "epochs": result.get("epochs"),
        "best_epoch": result.get("best_epoch"),
        "short_of_its_best": ended_short(result),
        "backend": run["backend"],
        "versions": run["versions"],
    }
    packed = run.get("packed")
    if packed and "settings" in packed:
        counts, blended = f"of the labeled set: {counts}", ", real deepfakes and faces blended with the face mesh"
        training |= {"steps": packed["settings"]["steps"], "machine": packed.get("machine")}
        commands = packed_commands(packed, faces)
    else:
        trained = packed["recipe"] if packed else recipe
        commands = [train_command(each["recipe"], faces, path.name) for path, each in runs_behind(trained).items()]
        commands.append(train_command(trained, faces, "TRAINED_RUN" if packed else "RUN"))
    if packed:
        commands.append(finish_command(packed, recipe["size"], faces))
    averaged = packed.get("average") if packed else None
    if averaged:
        teacher += f"; weights averaged, {averaged['share']:g} to {1 - averaged['share']:g}, with those of "
        teacher += f"{averaged['model']} (sha256 {averaged['sha256']})"
    return {
        "licence_note": f"The weights are derived from the training data; they were {begins}.",
        "training_data": f"{photographs}{blended} ({counts}); {begins}{teacher}",
        "training": training,
        "recipe": without_folders(recipe),
        "seed": recipe["seed"],
        "commands": [*commands, command],
        "date": datetime.date.today().isoformat(),
        "versions": versions(),
    } | ({"pruning": run["pruning"]} if run.get("pruning") else {})


def ended_short(result: dict) -> bool:
    """Whether the last epoch of a run was its best: longer training might improve it."""
    return result.get("best_epoch") is not None and result["best_epoch"] == result["epochs"]


def train_command(recipe: dict, faces: str, run: str = "RUN") -> str:
    """The `tfdfd train` command for a recipe's settings."""
    known = list_recipes().get(recipe["name"])
    defaults = known.settings() if known else {}
    changed = []
    for key, value in without_folders(recipe).items():
        if key == "arguments":
            other = defaults.get("arguments", {})
            changed += [f"arguments.{name}={each}" for name, each in value.items() if other.get(name) != each]
        elif key not in ("name", "source", "expected", "network") and defaults.get(key) != value:
            text = ",".join(value) if isinstance(value, list) else str(value).lower() if value is None else str(value)
            changed.append(f"{key}={text}")
    return " ".join([f"tfdfd train {recipe['name']} --data {faces} -o {run}", *(f"--set {each}" for each in changed)])


def packed_commands(packed: dict, faces: str) -> list[str]:
    """The commands of a packed training before `finish_command`."""
    trainings = [*packed.get("before", ()), packed["settings"]]
    # Each begins with the run before it, by that folder's name.
    runs = [start_of(after["weights"]).name for after in trainings[1:]] + ["TRAINED_RUN"]
    commands = [_packed_command(settings, run) for settings, run in zip(trainings, runs, strict=True)]
    if packed.get("teacher"):
        commands[-1] += f" --teacher {packed['teacher']}"
    return [f"python -m tools.packed.pack {faces} {PHOTOGRAPH_SET} -o PACK.npz --mesh mediapipe-0.10.14.whl", *commands]


def _packed_command(settings, run):
    words, defaults = [], Settings(settings["network"]).plain()
    for name, value in settings.items():
        if name == "arguments":
            words += [f"--set arguments.{key}={each}" for key, each in value.items()]
        elif name != "network" and value != defaults.get(name):
            value = without_folders(value)
            words.append(f"--set {name}={','.join(value) if isinstance(value, list) else value}")
    return " ".join([f"python -m tools.train_packed PACK.npz {settings['network']} -o {run}", *words])


def finish_command(packed: dict, size: int | None, faces: str) -> str:
    """The command of `tools.packed.finish`."""
    words = [f"python -m tools.packed.finish TRAINED_RUN --faces {faces} --also {PHOTOGRAPH_SET}"]
    if size:
        words.append(f"--size {size}")
    if packed.get("average"):
        words.append(f"--average {packed['average']['model']} {packed['average']['share']:g}")
    return " ".join([*words, f"--domains validation.json --dtype {packed.get('dtype', 'float32')} -o RUN"])


def without_folders(value):
    """Settings without the folders of the machine on which they were used."""
    if isinstance(value, dict):
        return {key: without_folders(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_folders(each) for each in value]
    return _FOLDERS.sub("", value) if isinstance(value, str) else value


def _run_of(model):
    path = Path(model).resolve()
    return next((folder for folder in (path, path.parent) if (folder / RUN).is_file()), None)
