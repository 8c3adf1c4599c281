"""Whether a model is judged on what it was trained on."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tfdfd.data.tables import FaceRow
from tfdfd.evaluation.judged_set import JudgedSet
from tfdfd.evaluation.scoring import OpenedModel
from tfdfd.training.training_fingerprints import CROP, FILE, fingerprints_of, read_fingerprints
from tfdfd.weights.store import digest

TRAIN = "train"
_EXAMPLES = 3


def overlap(model: OpenedModel, sets: Sequence[JudgedSet]) -> dict:
    """What the sets share with the data of the model's run.

    Returns:
        A dict for JSON: `checked`; `why_not` where it could not be; `shared`: for each part of the run's data (`train`,
        `val`) and kind (`source`, `identity`, `video`, `file`) the number of crops that share such a thing, and of one
        kind some `examples`.

    Raises:
        ValueError: the run's list of what it has seen is damaged.
    """
    if model.run is None:
        why = f"{model.record.handle} is no run of 'tfdfd train', and says of its training data in words only"
        return {"checked": False, "why_not": why, "shared": {}}
    seen = read_fingerprints(model.run)
    if seen is None:
        return {"checked": False, "why_not": f"the run {model.run} has no {FILE}", "shared": {}}
    shared = {}
    for part, marks in seen.items():
        found = defaultdict(list)
        for one in sets:
            for row in one.sources:
                for kind in {kind for kind, mark in _marks(one, row) if mark in marks}:
                    found[kind].append(row.file)
        if found:
            shared[part] = {
                kind: {"crops": len(files), "examples": files[:_EXAMPLES]} for kind, files in sorted(found.items())
            }
    return {"checked": True, "shared": shared}


def refuse_overlap(found: dict, allow: bool = False) -> None:
    """Raises `ValueError` where crops share something with the training split, unless `allow`."""
    if TRAIN in found["shared"] and not allow:
        told = _told(found["shared"][TRAIN])
        raise ValueError(
            f"the model was trained on what it would be judged on: {told}. Give the split that it has not seen, "
            "another set, or --allow-leaks."
        )


def overlap_warnings(found: dict) -> list[dict[str, str]]:
    """What a reader must know of it: `trained_on`, `chosen_on`, or `not_checked` where a run cannot tell."""
    warnings = []
    for part, kinds in found["shared"].items():
        told = _told(kinds)
        if part == TRAIN:
            code, message = "trained_on", f"THE MODEL WAS TRAINED ON PART OF THIS SET: {told}."
        else:
            code = "chosen_on"
            message = f"best epoch, threshold and calibration were chosen on part of this set ({part}): {told}."
        warnings.append({"code": code, "where": "data", "message": message})
    if not found["checked"] and FILE in found["why_not"]:
        message = f"whether the model was trained on this set could not be checked: {found['why_not']}."
        warnings.append({"code": "not_checked", "where": "data", "message": message})
    return warnings


def _marks(one: JudgedSet, row: FaceRow):
    marks = fingerprints_of(row, one.root or one.where)
    if row.sha256 or one.root is None:
        return marks
    # A plain folder has no digests in a table.
    path = Path(os.path.join(one.root, row.file))
    return marks + ([(CROP, digest(path))] if path.is_file() else [])


def _told(kinds):
    return "; ".join(
        f"{told['crops']:,} crops share a {kind} with it, such as {told['examples'][0]}" for kind, told in kinds.items()
    )
