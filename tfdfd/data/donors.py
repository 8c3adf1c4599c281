"""Whose face is swapped into whose photograph: someone else's of similar pose, light and skin, of the same split.

Age and sex are not known; the likeness in colours and in fine detail (wrinkles, beards, sharpness) stands for them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from tfdfd.data.crop_pixels import read_pixels
from tfdfd.data.crops import Faces
from tfdfd.data.landmarks import FaceLandmarks

# Donors are drawn from so many nearest.
NEAREST = 8
# Differences (RMS) that count as one: of Lab levels of the faces as thumbnails, of the logarithm of their detail, of
# landmarks in distances of the eyes.
_LEVELS, _DETAIL, _PLACES = 20.0, 0.3, 0.12
# Photographs that differ less (RMS of Lab levels) are one, saved twice: of UTKFace's validation split, twelve pairs of
# one photograph each differ by 1.8 to 7.1; the next pair, of two people, by 10.7.
_SAME_PHOTOGRAPH = 9.0
_THUMBNAIL = 20, 24


class Donors:
    """Finds donors among the real crops of a face set.

    Crops of one video share a donor video, whose crop nearest in landmarks is taken. A video stands for its first crop.

    Args:
        faces: real crops that have landmarks; all of them may be donors.
        landmarks: of the crops, by file.

    Raises:
        ValueError: a crop cannot be read; names it.
    """

    def __init__(self, faces: Faces, landmarks: Mapping[str, FaceLandmarks]):
        self._rows = faces.rows
        self._shapes = np.stack([_shape(np.float32(landmarks[row.file].points)) for row in faces.rows])
        crops = {}
        for number, row in enumerate(faces.rows):
            crops.setdefault((row.dataset, row.video), []).append(number)
        self._place = {video: place for place, video in enumerate(crops)}
        self._crops = list(crops.values())
        self._first = np.array([numbers[0] for numbers in self._crops])
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            looks = pool.map(
                lambda number: _look(read_pixels(faces.path(number)), landmarks[faces.rows[number].file].points),
                self._first,
            )
            self._looks, self._detail = (np.stack(part) for part in zip(*looks, strict=True))

    def donor(self, number: int, choice: int) -> int:
        """The number of the crop whose face goes into crop `number`.

        Args:
            number: of the crop that is changed.
            choice: which of the nearest is taken, from 0, the most like; where there are fewer, counting begins anew.

        Raises:
            ValueError: the split has nobody else, or copies of the photograph only; names the crop.
        """
        row = self._rows[number]
        own = self._place[row.dataset, row.video]
        levels = _apart(self._looks, own)
        apart = (
            levels / _LEVELS + _apart(self._detail, own) / _DETAIL + _apart(self._shapes[self._first], own) / _PLACES
        )
        others = np.array([self._someone_else(row, self._rows[other]) for other in self._first])
        usable = np.flatnonzero(others & (levels > _SAME_PHOTOGRAPH))
        if not len(usable):
            raise ValueError(
                f"no face of split {row.split!r} can be swapped into {row.file}: all are of its own video, sources, "
                "people or photograph; give a set with other people in each split."
            )
        order = usable[np.argsort(apart[usable], kind="stable")]
        chosen = order[choice % len(order)]
        crops = np.array(self._crops[chosen])
        return int(crops[np.argmin(np.square(self._shapes[crops] - self._shapes[number]).sum(axis=1))])

    @staticmethod
    def _someone_else(row, other):
        return (
            other.split == row.split
            and (other.dataset, other.video) != (row.dataset, row.video)
            and not set(other.source_id) & set(row.source_id)
            and not set(other.identity) & set(row.identity)
        )


def _shape(points):
    """Nose and mouth where the eyes are at 0 and 1, `(6,)`: how the head is turned, and the mouth's expression."""
    x, y = points.T
    places = (x[2:] - x[0] + 1j * (y[2:] - y[0])) / (x[1] - x[0] + 1j * (y[1] - y[0]))
    return np.concatenate([places.real, places.imag])


def _apart(features, own):
    return np.sqrt(np.mean(np.square(features - features[own]), axis=1))


def _look(pixels, points):
    """The face upright and small, in levels of Lab, `(1440,)`, and where it has how much fine detail, `(120,)`."""
    width, height = _THUMBNAIL
    points = np.float32(points)
    # The eyes half a distance from the middle, four thumbnails' pixels to one: averaged, no pixel is lost.
    unit = 4 * width / 2
    eyes = points[:2].mean(axis=0)
    down = np.float32([points[0, 1] - points[1, 1], points[1, 0] - points[0, 0]])
    to = np.float32([[2 * width - unit / 2, unit * 0.6], [2 * width + unit / 2, unit * 0.6], [2 * width, unit * 1.6]])
    matrix = cv2.getAffineTransform(np.float32([points[0], points[1], eyes + down]), to)
    face = cv2.warpAffine(pixels, matrix, (4 * width, 4 * height), borderMode=cv2.BORDER_REPLICATE)
    face = cv2.cvtColor(face, cv2.COLOR_RGB2LAB).astype(np.float32)
    fine = np.abs(face[..., 0] - cv2.GaussianBlur(face[..., 0], (0, 0), 2))
    fine = cv2.resize(fine, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return cv2.resize(face, (width, height), interpolation=cv2.INTER_AREA).ravel(), np.log1p(fine).ravel()
