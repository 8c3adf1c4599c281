"""Scores of the default network when another finder's boxes are given to it.

    python -m benchmarks.peers.scores RESULTS.json [--cache FOLDER]

RESULTS.json and the cached frames are those of `python -m benchmarks.peers`. The boxes of each finder are moved and
scaled to MTCNN's convention (medians over the faces that both find), and each frame's widest face is scored. A clip's
score is the mean over its frames, or that of MTCNN's boxes where the finder has none, so that what changes is the box.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks.common import print_table
from benchmarks.detectors import iou
from benchmarks.peers.__main__ import BASELINE, FEW, frames_folder, is_fake
from benchmarks.peers.adapters import FACES, PEERS
from tfdfd.files import user_cache
from tfdfd.metrics.intervals import auc_difference, auc_variance

# Intersection over union from which two finders mean the same face.
SAME = 0.3


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--cache", type=Path, default=user_cache() / "peers")
    arguments = parser.parse_args(argv)
    results = json.loads(arguments.results.read_text())
    finders = {name: result["clips"] for name, result in results.items()
               if PEERS[name].finds == FACES and "clips" in result}  # fmt: skip
    base = finders[BASELINE[FACES]]
    clips = [clip for clip in base if all("boxes" in found.get(clip, {}) for found in finders.values())]
    network, side = open_default()
    frames = {clip: read(frames_folder(Path(clip), FEW, arguments.cache)) for clip in clips}
    labels = [is_fake(clip) for clip in clips]
    own = [widest(base[clip]["boxes"]) for clip in clips]
    scores, rows = {}, []
    for name in sorted(finders, key=lambda name: name != BASELINE[FACES]):
        found = [widest(finders[name][clip]["boxes"]) for clip in clips]
        fit, found = fitted(found, own)
        lost = sum(mine is None and theirs is not None for clip in zip(found, own, strict=True)
                   for mine, theirs in zip(*clip, strict=True))  # fmt: skip
        given = [[mine or theirs for mine, theirs in zip(*clip, strict=True)] for clip in zip(found, own, strict=True)]
        scores[name] = score(network, side, [frames[clip] for clip in clips], given)
        auc = auc_variance(labels, scores[name])
        change = auc_difference(labels, scores[name], scores[BASELINE[FACES]])
        low, high = change.interval
        moved = np.abs(np.subtract(scores[name], scores[BASELINE[FACES]]))
        rows.append((name, lost, ", ".join(f"{value:.2f}" for value in fit), f"{auc.auc:.3f}",
                     f"{change.difference:+.3f} [{low:+.3f}, {high:+.3f}]", f"{moved.mean():.3f}"))  # fmt: skip
    print(f"{len(clips)} clips, {FEW} frames each\n")
    print_table(
        ("boxes of", "frames lost", "moved by x, y; width, height by", "AUC", "change", "scores change by"), rows
    )
    return 0


def open_default():
    """The default network as a function of crops, and the side of its crops."""
    from tfdfd.models import spec
    from tfdfd.runtime.networks import Scorer, open_network
    from tfdfd.weights import DEFAULT_MODEL
    from tfdfd.weights.store import locate

    record, weights = locate(DEFAULT_MODEL)
    return Scorer(open_network(record, weights)[0]), (record.input_shape or spec(record.model).input_shape)[0]


def read(folder: Path) -> list[np.ndarray]:
    import cv2

    return [cv2.imread(str(file), cv2.IMREAD_COLOR_RGB) for file in sorted(folder.iterdir())]


def widest(frames: list) -> list:
    """The widest box of each frame, or None."""
    return [max(boxes, key=lambda box: box[2], default=None) for boxes in frames]


def fitted(found: list, own: list) -> tuple[np.ndarray, list]:
    """The medians `(x, y, width, height)` by which boxes become `own`, and the boxes so changed.

    Centers move by a share of the box's size; sizes are multiplied.
    """
    flat = [(mine, theirs) for clip in zip(found, own, strict=True) for mine, theirs in zip(*clip, strict=True)]
    both = [pair for pair in flat if None not in pair and iou(*pair) >= SAME]
    if not both:
        return np.array([0.0, 0.0, 1.0, 1.0]), found
    mine, theirs = np.array([pair[0] for pair in both]), np.array([pair[1] for pair in both])
    center = (theirs[:, :2] + theirs[:, 2:] / 2 - mine[:, :2] - mine[:, 2:] / 2) / mine[:, 2:]
    fit = np.median(np.hstack([center, theirs[:, 2:] / mine[:, 2:]]), axis=0)

    def changed(box):
        if box is None:
            return None
        x, y, width, height = box
        middle = x + width * (0.5 + fit[0]), y + height * (0.5 + fit[1])
        width, height = width * fit[2], height * fit[3]
        return middle[0] - width / 2, middle[1] - height / 2, width, height

    return fit, [[changed(box) for box in boxes] for boxes in found]


def score(network, side: int, frames: list, boxes: list) -> list[float]:
    """The mean score of each clip; 0.5 without a face."""
    from tfdfd.faces.crop import crop_face

    means = []
    for images, found in zip(frames, boxes, strict=True):
        crops = [crop_face(image, box, side) for image, box in zip(images, found, strict=True) if box is not None]
        means.append(float(np.mean(network(np.stack(crops)))) if crops else 0.5)
    return means


if __name__ == "__main__":
    raise SystemExit(main())
