"""Under which terms the weights are that a run began with: what is derived from them must pass these on."""

from __future__ import annotations

from pathlib import Path

from tfdfd.models import spec
from tfdfd.training.run_folder import finished_run
from tfdfd.weights.clip import PREFIX as CLIP
from tfdfd.weights.initial import IMAGENET, SLIM
from tfdfd.weights.store import RUN, locate


def initial_weights(recipe: dict, licence: str | None = None) -> dict | None:
    """What a run began with: `{what, licence}` and what is known besides; None where its weights were random.

    Args:
        recipe: settings of the run's recipe.
        licence: of ImageNet's weights, where the run began with them.

    Raises:
        ValueError: the weights it names are not to be found, or no licence is given for ImageNet's.
    """
    if recipe["weights"] is None:
        return _members(recipe)
    weights = recipe["weights"].removeprefix(SLIM)
    if weights == "imagenet" or weights.startswith(IMAGENET):
        if not licence:
            raise ValueError(
                f"the run began with ImageNet's weights ({Path(weights).name}): say under which licence those are, as "
                "their source states it: --initial-licence Apache-2.0."
            )
        told = {"what": f"ImageNet features for keras.applications.{spec(recipe['network']).imagenet}"}
        file = weights.removeprefix(IMAGENET)
        return told | {"licence": licence} | ({"file": Path(file).name} if file != weights else {})
    if weights.startswith(CLIP):
        return {
            "what": "the image tower of CLIP ViT-B/16, its first nine blocks, frozen but for norms and biases",
            "licence": "MIT",
            "file": Path(weights.removeprefix(CLIP)).name,
        }
    folder = _run_of(weights)
    if folder:
        before = finished_run(folder)["recipe"]
        told = initial_weights(before, licence)
        return told and told | {"what": f"{told['what']}, by way of {before['name']}"}
    record, _ = locate(weights)
    told = {"what": record.handle, "licence": record.licence, "sha256": record.sha256}
    return told | ({"notice": record.card["notice"]} if "notice" in record.card else {})


def runs_behind(recipe: dict) -> dict[Path, dict]:
    """`run.json` by folder of the runs that a run is built on: its teacher, what it began with, its members. Each
    stands behind those that it is built on itself."""
    found = {}
    for model in (recipe.get("teacher"), recipe["weights"], *recipe.get("members", ())):
        folder = _run_of(model.removeprefix(SLIM)) if model else None
        if folder and folder not in found:
            run = finished_run(folder)
            found = {**found, **runs_behind(run["recipe"]), folder: run}
    return found


def _run_of(model):
    path = Path(model).resolve()
    return next((folder for folder in (path, path.parent) if (folder / RUN).is_file()), None)


def _members(recipe):
    """What networks a run was built on, with the terms of all; None where it was built on none."""
    records = [locate(member)[0] for member in recipe.get("members", ())]
    if not records:
        return None
    licences = dict.fromkeys(record.licence for record in records)
    return {"what": " and ".join(record.handle for record in records), "licence": "; ".join(licences)}
