"""S2's ensemble (section 7.3): the trained bodies of Reseption V1 and V2, frozen, under dense layers that train."""

from __future__ import annotations

from tfdfd.models import build
from tfdfd.training.crop_set import CropSet
from tfdfd.training.engine import Report, fit
from tfdfd.training.finishing import finish
from tfdfd.training.members import members_of
from tfdfd.training.recipe import Recipe
from tfdfd.training.run_folder import RunFolder

ENSEMBLE, MEMBERS = "reseption_ensemble", ("reseption_v1", "reseption_v2")


def run(recipe: Recipe, crops: CropSet, run: RunFolder, report: Report) -> dict:
    """Trains the dense layers on the recipe's two members.

    Returns:
        The result, with handle and digest of the `members`.

    Raises:
        ValueError: another network, or members that are missing, others, or of another size.
        TrainingError: it cannot go on; the last saved state stays.
    """
    if recipe.network != ENSEMBLE:
        raise ValueError(f"the ensemble procedure trains {ENSEMBLE}; received network={recipe.network}.")
    v1, v2 = members_of(recipe, crops.size, MEMBERS)
    model = build(ENSEMBLE, v1=v1.network, v2=v2.network, **recipe.arguments)
    place = fit(model, recipe, crops, run, report)
    members = {member.name: member.told for member in (v1, v2)}
    told = {"epochs": place.epoch, "best_epoch": place.best_epoch + 1, "members": members}
    return finish(model, recipe, crops, run, told)
