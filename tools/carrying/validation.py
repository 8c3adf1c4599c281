"""Whether the thresholds that a run chose on validation do there, with its weights made compact, what they did."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from tfdfd.files import write_atomically
from tfdfd.metrics.confusion import confusion
from tfdfd.metrics.metrics import auc
from tfdfd.models import load
from tfdfd.training.crop_set import CropSet, score, videos_of
from tfdfd.training.recipe import Recipe
from tools.carrying.scoring import Judged

# Of the shares of real and of fake ones that are called fake; more, and the weights are others.
MOST = 0.01
_RATES = ("fpr", "tpr")


def validated(network: Judged, run: dict, faces: str, cache: Path, limit: int | None = None) -> dict:
    """The operating points of a run, each with what its threshold does on validation with these weights.

    Args:
        network: the run's weights as they are carried.
        run: its `run.json`.
        faces: the set that it was trained on.
        cache: folder where scores are kept.
        limit: at most so many crops, which then cannot be compared with the run's figures.

    Returns:
        `{set, level, n_real, n_fake, auc, operating_points, largest_change}`; `largest_change` of a share, or None.

    Raises:
        ValueError: the set is not the run's, or a share has changed by more than 0.01.
    """
    recipe = Recipe.from_settings(run["recipe"])
    key = hashlib.sha256(json.dumps([run["recipe"], run["data"], limit]).encode()).hexdigest()[:16]
    file = cache / "validation" / network.record.sha256[:16] / f"{key}.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(_scored(network, recipe, run, faces, limit)) + "\n")
    kept = json.loads(file.read_text("utf-8"))
    return _told(kept, run["result"], limit)


def _scored(network, recipe, run, faces, limit):
    crops = CropSet(faces, replace(recipe, limit=limit or recipe.limit), network.size)
    found, trained_on = crops.digests()["rows_sha256"], run["data"]["rows_sha256"]
    if limit is None and found != trained_on:
        raise ValueError(
            f"{faces} is not the set that the run was trained on: the digest of its rows is {found}, that of the run's "
            f"{trained_on}. Give the set that 'tfdfd train' was given."
        )
    model = load(network.record, network.path)
    model.jit_compile = False
    labels, scores = videos_of(*score(model, crops))
    return {"labels": labels.tolist(), "scores": np.asarray(scores, float).tolist()}


def _told(kept, result, limit):
    labels, scores = kept["labels"], kept["scores"]
    points, changes = {}, []
    for name, before in result["operating_points"].items():
        if before["threshold"] is None:
            points[name] = before
            continue
        found = confusion(labels, scores, before["threshold"])
        points[name] = {"threshold": round(before["threshold"], 6)}
        points[name] |= {rate: round(getattr(found, rate), 4) for rate in _RATES}
        changes += [abs(getattr(found, rate) - before[rate]) for rate in _RATES]
    largest = None if limit else round(max(changes), 4)
    if largest is not None and largest > MOST:
        raise ValueError(
            f"with the carried weights a share at an operating point changes by {largest} on validation; at most "
            f"{MOST} may be. Carry them as float32, or look for what else differs from the run."
        )
    return {
        "set": "validation split (epoch, calibration and thresholds chosen here)",
        "level": "image" if result["val_videos"] == result["val_crops"] else "video, mean of its crops",
        "n_real": labels.count(0),
        "n_fake": labels.count(1),
        "auc": round(auc(labels, scores), 4),
        "auc_of_the_run": round(result["val_video_auc"], 4),
        "operating_points": points,
        "largest_change": largest,
    }
