"""Calibration of a trained network: thresholds, an inconclusive band, and the model card.

Everything is chosen on validation. A temperature or Platt's sigmoid is folded into the last layer, so that the network
returns calibrated P(fake) wherever it runs, and no separate calibration is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfdfd.data.tables import REAL
from tfdfd.metrics import CalibrationError, TooFewError, auc, calibration, confusion, no_better_than_majority
from tfdfd.metrics.calibration import BALANCED, BOUND, genuine_tails, inconclusive_band, operating_points
from tfdfd.models import spec
from tfdfd.training.crop_set import ClipSet, CropSet, score, videos_of
from tfdfd.training.recipe import BLENDED, Recipe
from tfdfd.training.run_folder import WEIGHTS, RunFolder, versions
from tfdfd.weights.loading import HEAD
from tfdfd.weights.saving import save_weights
from tfdfd.weights.store import NOT_STATED, inherited_terms

LIMITS = ("Not forensic proof.", "The figures are of the split that epoch and threshold were chosen on.")


def finish(
    model: keras.Model,
    recipe: Recipe,
    crops: CropSet | ClipSet,
    run: RunFolder,
    facts: dict,
    arguments: dict | None = None,
    card: dict | None = None,
) -> dict:
    """Calibrates the network, chooses thresholds, writes weights and card, and records the result in `run.json`.

    Args:
        model: the trained network.
        recipe: the recipe it was trained by.
        crops: the data set; everything is chosen on its validation split.
        run: the run folder.
        facts: further entries of the result, such as `best_epoch`.
        arguments: arguments of the builder if they are not the recipe's.
        card: entries that replace those of the model card, such as `model` and `handle` of a model that is built on
            the recipe's network.

    Returns:
        The result: `facts`, metrics on validation (`val_...`), `threshold`, and `warnings`.
    """
    warnings: list[str] = []
    fitted = _calibrate(model, recipe, crops, warnings)
    rows, scores = score(model, crops)
    labels, video_scores = videos_of(rows, scores)
    points = operating_points(labels, video_scores)
    threshold = points[BALANCED]["threshold"]
    counts = confusion(labels, video_scores, threshold)
    if no_better_than_majority(counts):
        warnings.append(
            f"on validation the network is not shown to be better than calling everything "
            f"{'fake' if counts.n_fake >= counts.n_real else 'real'}: accuracy {counts.accuracy:.3f}, and that has "
            f"{counts.majority:.3f} (McNemar's test, 5 %)."
        )
    result = facts | {
        "val_crops": len(rows),
        "val_videos": len(labels),
        "val_auc": auc([row.label for row in rows], scores),
        "val_video_auc": auc(labels, video_scores),
        "threshold": threshold,
        "val_balanced_accuracy": counts.balanced_accuracy,
        "val_accuracy": counts.accuracy,
        "val_majority": counts.majority,
        "operating_points": points,
        "warnings": warnings,
    }
    band = _band(labels, video_scores, threshold, warnings)
    save_weights(model, run.path / WEIGHTS)
    tails = _tails(labels, video_scores, warnings)
    run.write_card(_card(recipe, crops, result, fitted, band, arguments, run.built_on) | tails | (card or {}))
    run.finish(result)
    return result


def fold(model: keras.Model, slope: float, offset: float) -> None:
    """Folds sigmoid(slope * logit + offset) into the network's last layer."""
    head = model.get_layer(HEAD)
    kernel, bias = head.get_weights()
    head.set_weights([kernel * slope, bias * slope + offset])


def _calibrate(
    model: keras.Model, recipe: Recipe, crops: CropSet | ClipSet, warnings: list[str]
) -> dict[str, Any] | None:
    """Fits on validation and folds; returns the fitted values for the card, or None."""
    if recipe.calibration == "none" or not isinstance(model.get_layer(HEAD), keras.layers.Dense):
        return None
    rows, scores = score(model, crops)
    try:
        fitted = calibration.fit(recipe.calibration, [row.label for row in rows], scores, "validation crops")
    except CalibrationError as error:
        warnings.append(f"not calibrated: {error}")
        return None
    values = calibration.to_dict(fitted)
    slope = values.get("slope", 1 / values.get("temperature", 1.0))
    fold(model, slope, values.get("offset", 0.0))
    return values


def _band(labels: np.ndarray, scores: np.ndarray, threshold: float, warnings: list[str]) -> tuple[float, float] | None:
    try:
        return inconclusive_band(labels, scores, threshold)
    except TooFewError as error:
        warnings.append(f"no inconclusive band: {error}")
        return None


def _tails(labels: np.ndarray, scores: np.ndarray, warnings: list[str]) -> dict[str, Any]:
    try:
        real = [score for label, score in zip(labels, scores, strict=True) if label == REAL]
        return {"genuine_tails": genuine_tails({"validation": real})}
    except TooFewError as error:
        warnings.append(f"no threshold for several faces is measured: {error}")
        return {}


def _card(
    recipe: Recipe,
    crops: CropSet | ClipSet,
    result: dict[str, Any],
    fitted: dict[str, Any] | None,
    band: Sequence[float] | None,
    arguments: dict[str, Any] | None,
    built_on: list,
) -> dict[str, Any]:
    size = crops.size
    data = crops.digests()
    known: dict[str, Any] = {"arguments": recipe.arguments if arguments is None else arguments}
    if (size, size) != spec(recipe.network).input_shape[:2]:
        known["input_shape"] = [size, size, 3]
    # Freezing affects training only; the weights do not depend on it.
    known["arguments"] = {key: value for key, value in known["arguments"].items() if key != "freeze"}
    how = "self-blended fakes of the real crops" if recipe.data == BLENDED else "labelled crops"
    terms = inherited_terms(
        f"{NOT_STATED}: that of the training data", f"{data['folder']} ({how}): {data['crops']}", built_on
    )
    return known | {
        "handle": f"tfdfd/{recipe.network}.{recipe.name}",
        "model": recipe.network,
        **terms,
        "polarity": "fake=1",
        "threshold": result["threshold"],
        "inconclusive_band": band and list(band),
        "inconclusive_rule": f"on validation videos: outside of it, at most {BOUND:.0%} of the real are called fake, "
        f"and at most {BOUND:.0%} of the fake real",
        "operating_points": result["operating_points"],
        "calibration": fitted and fitted | {"where": "in the last layer's weights"},
        "recipe": recipe.settings(),
        "protocol": f"validation split of {data['folder']}: {result['val_videos']} videos, {result['val_crops']} "
        "crops, a video's score the mean of its crops; epoch, calibration and thresholds chosen here",
        "scores": {name: value for name, value in result.items() if name.startswith("val_")},
        "limits": list(LIMITS),
        "warnings": result["warnings"],
        "versions": versions(),
    }
