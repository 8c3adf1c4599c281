"""Small pictures of the crops that a model was most wrong about, for a person to look at."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np

from tfdfd.data.crops import read_pixels
from tfdfd.data.pair_sets import METHOD
from tfdfd.evaluation.judged_set import JudgedSet

SIDE = 128
# Pixels of a crop by data set, file and method; None where it is not to be had.
Pictures = Callable[[str, str, str], np.ndarray | None]


def pictures_of(sets: Sequence[JudgedSet]) -> Pictures:
    """Crops of sets that are open, self-blended fakes included."""
    places = {name: one for one in sets for name in one.told()["names"]}

    def picture(dataset, file, method):
        try:
            return places[dataset].pixels(file, method)
        except (KeyError, ValueError):  # of a set scored elsewhere; or unreadable by now
            return None

    return picture


def pictures_told(sets: Iterable[dict]) -> Pictures:
    """Crops of sets that a table of scores tells of, where they still lie there."""
    roots = {name: one.get("root") for one in sets for name in one.get("names", ())}

    def picture(dataset, file, method):
        root = roots.get(dataset)
        if root is None or method == METHOD:
            return None
        try:
            return read_pixels(os.path.join(root, file))
        except ValueError:
            return None

    return picture


def thumbnails(hardest: Iterable[dict], pictures: Pictures) -> list[list[bytes]]:
    """For each video of `tfdfd.metrics.judge.hardest`, JPEGs of its files, at most 128 pixels a side."""
    return [
        [
            _jpeg(pixels)
            for file in one["files"]
            if (pixels := pictures(one["dataset"], file, one["method"])) is not None
        ]
        for one in hardest
    ]


def _jpeg(pixels):
    shrink = SIDE / max(pixels.shape[:2])
    if shrink < 1:
        height, width = (max(1, round(side * shrink)) for side in pixels.shape[:2])
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
