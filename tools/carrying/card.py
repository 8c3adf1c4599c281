"""The model card of carried weights: what the run knew, what was judged, and what nobody should read into it."""

from __future__ import annotations

import datetime
import re

from tfdfd.recipes import list_recipes
from tfdfd.training.recipe import BLENDED, Recipe
from tfdfd.training.run_folder import versions
from tfdfd.weights.store import TRAINED
from tools.carrying.terms import runs_behind
from tools.packed.settings import Settings

SCHEMA = 1
# The second set of the packs, as commands name it.
PHOTOGRAPH_SET = "utk/faces.csv"
# Of a path, or of one behind "imagenet:"; not of an address. Weights of a run are named with its folder.
_FOLDERS = re.compile(rf"(^|(?<=:))(/(?!/)|\.{{1,2}}/).*/(?=(?!{re.escape(TRAINED)}$)[^/]+(/{re.escape(TRAINED)})?$)")
# What of the run's own card holds for the carried weights.
_KEPT = (
    "model", "arguments", "input_shape", "polarity", "threshold", "inconclusive_band", "inconclusive_rule",
    "genuine_tails", "operating_points", "calibration",
)  # fmt: skip
_LIMITS = (
    "A score is a hint for a person who looks further, not forensic proof.",
    "It looks for blending: faces generated as a whole, lip-syncing without a seam and retouching by hand are outside "
    "what it was trained for.",
    "Small, blurred or strongly compressed faces lose the traces it looks for (see robustness); filters, beauty "
    "retouching and local light on a genuine face may look like them.",
    "UTKFace is unevenly spread over age, gender and skin colour; scores by group were not measured.",
)
PROTOCOL = (
    "Photographs are split by file, look-alikes together; UTKFace names no identities, so one person in different "
    "pictures may be in several parts. Epoch, calibration, thresholds and the inconclusive band come from validation;"
    " test split, crops and clips were scored afterwards, with the weights as they are carried. Blended sets: one "
    "real crop and one self-blended fake of each photograph, both degraded alike. Crops as they are stored are scaled"
    " to the network's size; pictures and clips are scored by tfdfd.Detector (MTCNN, crops of 1.3 times the box, 32 "
    "frames). mean_auc is over test split, pictures and clips: what is stored as crops there is cut about twice as "
    "wide as networks are fed, which was seen only after a network had been scored on it. Intervals: 95 % percentile "
    "bootstrap, 2,000 draws, seed 0, over photographs with their fakes, or over the videos that crops and pictures "
    "are of (clips of one original together); none where a class is of one video. Weights beside these were scored in"
    " the same run on the same images, each at its own threshold."
)


def begun_card(run_card: dict, handle: str, file: dict, freeze: str | None = None) -> dict:
    """The card that carried weights are scored with, before anything is known of them.

    Args:
        run_card: `weights.json` of the run.
        handle: of the carried weights.
        file: what is known of theirs: `file` (its name), `sha256`, `bytes`, `parameters`, `pixels`.
        freeze: what the builder was told to freeze, so that fine-tuning trains what training did; None: nothing said.
    """
    kept = {name: run_card[name] for name in _KEPT if run_card.get(name) is not None}
    kept["threshold"] = round(kept["threshold"], 6)
    if "inconclusive_band" in kept:
        kept["inconclusive_band"] = [round(end, 6) for end in kept["inconclusive_band"]]
    kept["operating_points"] = {name: _point(point) for name, point in kept["operating_points"].items()}
    # What of the builder's arguments says which weights are trainable is not in the run's card.
    if freeze is not None:
        kept["arguments"] = {**kept.get("arguments", {}), "freeze": freeze}
    known = {name: run_card[name] for name in ("licence", "training_data")}
    return {"card": SCHEMA, "handle": handle, **kept, **file, **known}


def _point(point):
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in point.items()}


def finished_card(
    begun: dict,
    run: dict,
    judged: dict,
    *,
    weights: str,
    faces: str,
    photographs: str,
    licence: str,
    initial: dict | None,
    command: str,
    limit: int | None = None,
) -> dict:
    """The whole card, for JSON.

    Args:
        begun: of `begun_card`.
        run: `run.json` of the run.
        judged: what was found, by key of the card.
        weights: form in which the weights are written.
        faces: name of the set that the run was trained on.
        photographs: what that set is.
        licence: of the weights.
        initial: of `tools.carrying.terms.initial_weights`.
        command: by which this was made.
        limit: of crops; None: all were judged.
    """
    # Settings that the recipe did not have yet when the run was made have their defaults.
    recipe, result = Recipe.from_settings(run["recipe"]).settings(), run["result"]
    counts = "; ".join(
        f"{split}: " + ", ".join(f"{count:,} {method}" for method, count in methods.items())
        for split, methods in run["data"]["crops"].items()
    )
    begins = f"begun with {initial['what']} ({initial['licence']})" if initial else "begun with random weights"
    blended = f", self-blended: {recipe['fakes']} fakes, as a {recipe['medium']}" if recipe["data"] == BLENDED else ""
    teacher = f"; imitates {plain_paths(recipe['teacher'])} as well" if recipe["teacher"] else ""
    packed = run.get("packed")
    if packed:
        counts, blended = f"of the labeled set: {counts}", ", real deepfakes and faces blended with the face mesh"
    told = begun | {
        "licence": licence,
        "licence_note": f"The weights are derived from the training data; they were {begins}.",
        "training_data": f"{photographs}{blended} ({counts}); {begins}{teacher}",
        "weights_form": weights,
        "protocol": PROTOCOL,
        **judged,
        "training": {
            "epochs": result.get("epochs"),
            "best_epoch": result.get("best_epoch"),
            "short_of_its_best": ended_short(result),
            "backend": run["backend"],
            "versions": run["versions"],
        }
        | ({"steps": packed["settings"]["steps"], "machine": packed.get("machine")} if packed else {}),
        "limits": [*_LIMITS, *_found_limits(judged, result)],
        "recipe": plain_paths(recipe),
        "seed": recipe["seed"],
        "commands": [*packed_commands(packed, faces), command]
        if packed
        else [
            *(train_command(each["recipe"], faces, folder.name) for folder, each in runs_behind(recipe).items()),
            train_command(recipe, faces),
            command,
        ],
        "date": datetime.date.today().isoformat(),
        "versions": versions(),
    }
    if initial:
        told["initial_weights"] = initial
    if run.get("pruning"):
        told["pruning"] = run["pruning"]
    if limit:
        told["limit"] = limit
    return told


def ended_short(result: dict) -> bool:
    """Whether the last epoch of a run was its best: with more of them it might have become better."""
    return result.get("best_epoch") is not None and result["best_epoch"] == result["epochs"]


def train_command(recipe: dict, faces: str, run: str = "RUN") -> str:
    """The `tfdfd train` that a recipe's settings are of."""
    known = list_recipes().get(recipe["name"])
    before = known.settings() if known else {}
    changed = []
    for key, value in plain_paths(recipe).items():
        if key == "arguments":
            other = before.get("arguments", {})
            changed += [f"arguments.{name}={each}" for name, each in value.items() if other.get(name) != each]
        elif key not in ("name", "source", "expected", "network") and before.get(key) != value:
            text = ",".join(value) if isinstance(value, list) else str(value).lower() if value is None else str(value)
            changed.append(f"{key}={text}")
    return " ".join([f"tfdfd train {recipe['name']} --data {faces} -o {run}", *(f"--set {each}" for each in changed)])


def packed_commands(packed: dict, faces: str) -> list[str]:
    """The commands that a packed training is of."""
    settings = packed["settings"]
    defaults = Settings(settings["network"]).plain()
    changed = []
    for name, value in settings.items():
        if name == "arguments":
            changed += [f"arguments.{key}={each}" for key, each in value.items()]
        elif name != "network" and value != defaults.get(name):
            changed.append(f"{name}={plain_paths(value)}")
    sets = f"{faces} {PHOTOGRAPH_SET}"
    teacher = f" --teacher {packed['teacher']}" if packed.get("teacher") else ""
    return [
        f"python -m tools.packed.pack {sets} -o PACK.npz --mesh mediapipe-0.10.14.whl",
        " ".join(
            [f"python -m tools.train_packed PACK.npz {settings['network']} -o PACKED_RUN{teacher}"]
            + [f"--set {each}" for each in changed]
        ),
        f"python -m tools.packed.finish PACKED_RUN --faces {faces} --also {PHOTOGRAPH_SET} --domains validation.json "
        f"--dtype {packed.get('dtype', 'float32')} -o RUN",
    ]


def plain_paths(told):
    """Settings without the folders of the machine that they were used on."""
    if isinstance(told, dict):
        return {key: plain_paths(value) for key, value in told.items()}
    if isinstance(told, list):
        return [plain_paths(value) for value in told]
    return _FOLDERS.sub("", told) if isinstance(told, str) else told


def _found_limits(judged: dict, result: dict) -> list[str]:
    """What the figures themselves forbid to believe."""
    own = [row for row in judged["scores"] if row["weights"] == "these"]
    told = []
    for row in own:
        interval = row["auc_ci95"]
        if row["auc"] is not None and "blended" not in row["set"]:
            shown = f" {interval}" if interval else ""
            told.append(
                f"On {row['set']} ({row['n_real']} real, {row['n_fake']} fake) its AUC is {row['auc']}{shown}, where "
                "0.5 is chance" + ("." if min(row["n_real"], row["n_fake"]) >= 100 else "; too few to say more.")
            )
    for row in own:
        if "test split" in row["set"] and row["fpr_at_threshold"] is not None:
            told.append(
                f"At its threshold {row['fpr_at_threshold']:.0%} of the genuine photographs of the test split are "
                f"called fake, and {1 - row['tpr_at_threshold']:.0%} of the fakes are missed, not counting the "
                "inconclusive band."
            )
    if ended_short(result):
        told.append(
            f"Training ended after {result['epochs']} epochs, of which the last was the best on validation: longer, it "
            "might have become better."
        )
    return told
