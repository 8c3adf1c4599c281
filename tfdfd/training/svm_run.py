"""S1's "MesoInception4 + SVM": a network is trained, then an SVM with RBF kernel takes the place of its last layer.

The SVM is fitted on the network's features of the training crops, unaltered. Its probability comes from fifths that
share no source, so it needs no other calibration.
"""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np

from tfdfd.data.pair_sets import METHOD
from tfdfd.data.splits import groups
from tfdfd.data.tables import SOURCE
from tfdfd.models import build
from tfdfd.models.svm import with_svm
from tfdfd.training.crop_set import TRAIN, CropSet
from tfdfd.training.engine import Report, fit
from tfdfd.training.errors import TrainingError, pipeline_errors
from tfdfd.training.finishing import finish
from tfdfd.training.recipe import Recipe
from tfdfd.training.run_folder import RunFolder
from tfdfd.training.svm import FOLDS, fit_svm


def run(recipe: Recipe, crops: CropSet, run: RunFolder, report: Report) -> dict:
    """Trains the network as the recipe says, then the SVM on what it makes of the training split.

    Returns:
        The result, with `svm`: `support_vectors`, `gamma` of scaled features, and how many `groups` of crops that share
        a source the probability was fitted over (None: too few).

    Raises:
        TrainingError: the network cannot be trained, or no SVM can be fitted on its features.
    """
    model = build(recipe.network, recipe.weights, (crops.size, crops.size, 3), **recipe.arguments)
    place = fit(model, recipe, crops, run, report)
    images, rows = crops.images(TRAIN)
    with pipeline_errors("features of the training crops"):
        features = keras.Model(model.input, model.get_layer("features").output).predict(images, verbose=0)
    labels, kept_together = np.array([row.label for row in rows]), _groups(rows)
    if kept_together is None:
        report.note("too few sources to keep them apart: the SVM's probability is fitted over crops, and is too sure")
    try:
        arrays = fit_svm(features, labels, seed=recipe.seed, groups=kept_together)
    except ValueError as error:
        raise TrainingError(f"the network is trained, but no SVM could be fitted on its features: {error}") from error
    svm = {
        "support_vectors": len(arrays.dual_coef),
        "gamma": float(arrays.gamma),
        "groups": None if kept_together is None else len(set(kept_together)),
    }
    told = {"epochs": place.epoch, "best_epoch": place.best_epoch + 1, "svm": svm}
    arguments = recipe.arguments | {"svm": svm["support_vectors"]}
    return finish(with_svm(model, arrays), recipe, crops, run, told, arguments)


def _groups(rows):
    """For each crop the name of what it shares sources with; None where there are too few to make fifths of."""
    # A blended fake stays with the crop that it was made of.
    names = groups([replace(row, video=row.video.removesuffix(f"#{METHOD}")) for row in rows], (SOURCE,))
    of_class = [{name for name, row in zip(names, rows, strict=True) if row.label == label} for label in (0, 1)]
    if len(set(names)) < FOLDS or min(map(len, of_class)) < 2:
        return None
    # scikit-learn sorts them, and takes no tuples.
    return ["\0".join(name) for name in names]
