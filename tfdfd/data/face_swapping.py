"""Face swaps between photographs: fakes for validation that no network here trains on.

The face of a donor is warped onto a target by landmarks, takes its colors, and is composed by a method that
self-blending (`tfdfd.data.self_blending`) does not use. The recipe joins three sources: another person with similar
landmarks, as in the blended images of Face X-ray (Li et al., CVPR 2020, arXiv:1912.13458, section 4.1); the small
rendered face, the color transfers and the eroded and feathered mask of DeepFaceLab (Perov et al., arXiv:2005.05535,
section 3); Poisson blending, as in FSGAN (Nirkin et al., ICCV 2019, arXiv:1908.05932, section 3.4). Probabilities,
strengths and masks are ours. No generator is involved: the donor's texture is a photograph's.

A donor is someone else of similar pose, lighting and skin in the same split. Age and sex are not known; similarity in
colors and fine detail (wrinkles, beards, sharpness) stands in for them.

Images are RGB uint8 `(height, width, 3)`. Landmarks are `(5, 2)` xy pixels in MTCNN's order, as in `self_blending`.
Everything random is drawn from the `np.random.Generator` passed in.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from tfdfd.data.crops import Faces, read_pixels
from tfdfd.data.degrade import map_levels, resize_and_back, to_uint8
from tfdfd.data.landmarks import FaceLandmarks
from tfdfd.data.self_blending import check_image, face_outline
from tfdfd.text import optional_import
from tfdfd.threads import map_in_threads

if TYPE_CHECKING:
    from tfdfd.data.tables import FaceRow

KINDS = ("poisson", "mixed", "pyramid", "feathered")
# Mixed gradients show both faces through each other; few real swaps do.
KIND_SHARES = (0.3, 0.1, 0.3, 0.3)
# Range of the longer side of the faces that autoencoders generate, pixels.
RENDERED = 64, 128
_RENDERED_SHARE = 0.6
_TRANSFERS = ("reinhard", "histogram", "none")
_TRANSFER_SHARES = (0.5, 0.35, 0.15)
# Outlines of masks: the face's, or a superellipse of this exponent: an ellipse, or the box of the first swaps.
_MASKS = (None, 2, 5)
_MASK_SHARES = (0.5, 0.3, 0.2)
_FEWEST_PIXELS = 64
# Donors are drawn from this many nearest.
NEAREST = 8
# Distances (RMS) of equal weight: of Lab levels of the faces as thumbnails, of the logarithm of their detail, of
# landmarks in eye distances.
_LEVELS_SCALE, _DETAIL_SCALE, _SHAPE_SCALE = 20.0, 0.3, 0.12
# Photographs that differ less (RMS of Lab levels) are one photograph saved twice: in UTKFace's validation split, twelve
# such pairs differ by 1.8 to 7.1; the next pair, of two people, by 10.7.
_SAME_PHOTOGRAPH = 9.0
_THUMBNAIL = 20, 24


def swap_face(
    target: np.ndarray,
    points: np.ndarray,
    donor: np.ndarray,
    donor_points: np.ndarray,
    rng: np.random.Generator,
    kind: str | None = None,
) -> np.ndarray:
    """The target's photograph with the donor's face in it.

    Args:
        target: the photograph that is changed.
        points: its landmarks.
        donor: the photograph that the face comes from, of any size.
        donor_points: its landmarks.
        rng: draws mask, color transfer, size and seam.
        kind: composition method, one of `KINDS`: gradients of the donor (Poisson), the stronger gradients of both,
            Laplacian pyramids, or a narrow feathered seam; None draws one with the probabilities `KIND_SHARES`.

    Returns:
        The fake, uint8, of the target's shape.

    Raises:
        ValueError: invalid images, landmarks or kind; or the donor's face leaves its photograph, so that hardly any of
            the mask is covered.
    """
    target, points = check_image(target, points, "the target")
    donor, donor_points = check_image(donor, donor_points, "the donor")
    if kind is None:
        kind = str(rng.choice(KINDS, p=KIND_SHARES))
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
    face, covered = _warp(donor, donor_points, points, target.shape[:2], rng)
    mask = cv2.bitwise_and(_mask(target.shape[:2], points, rng), covered)
    if cv2.countNonZero(mask) < _FEWEST_PIXELS:
        raise ValueError(
            f"the donor's face covers {cv2.countNonZero(mask)} pixels of the target's; expected photographs that show "
            "the whole face"
        )
    face = _transfer_colors(face, target, mask, str(rng.choice(_TRANSFERS, p=_TRANSFER_SHARES)))
    if rng.random() < _RENDERED_SHARE:
        # An autoencoder generates the face small.
        scale = rng.uniform(*RENDERED) / max(cv2.boundingRect(mask)[2:])
        if scale < 1:
            face = resize_and_back(face, scale, up=int(rng.choice([cv2.INTER_LINEAR, cv2.INTER_CUBIC])))
    if kind == "feathered":
        eye_distance = float(np.linalg.norm(points[1] - points[0]))
        return _feather(face, target, mask, max(1, round(eye_distance * rng.uniform(0.02, 0.1))))
    if kind == "pyramid":
        return _blend_pyramids(face, target, mask, int(rng.integers(3, 6)))
    x, y, width, height = cv2.boundingRect(mask)
    method = cv2.NORMAL_CLONE if kind == "poisson" else cv2.MIXED_CLONE
    return cv2.seamlessClone(face, target, mask, (x + width // 2, y + height // 2), method)


class Donors:
    """Finds donors among the real crops of a face set.

    Crops of one video share a donor video, of which the crop nearest in landmarks is taken. A video is represented by
    its first crop.

    Args:
        faces: real crops that have landmarks; all of them may be donors.
        landmarks: landmarks of the crops, by file.

    Raises:
        ValueError: a crop cannot be read; names it.
    """

    def __init__(self, faces: Faces, landmarks: Mapping[str, FaceLandmarks]):
        self._rows = faces.rows
        self._shapes = np.stack([_shape_features(np.float32(landmarks[row.file].points)) for row in faces.rows])  # type: ignore[arg-type]
        crops: dict[tuple[str, str], Any] = {}
        for number, row in enumerate(faces.rows):
            crops.setdefault((row.dataset, row.video), []).append(number)
        self._index = {video: index for index, video in enumerate(crops)}
        self._crops = list(crops.values())
        self._first = np.array([numbers[0] for numbers in self._crops])
        features = map_in_threads(
            lambda n: _appearance(read_pixels(faces.path(n)), landmarks[faces.rows[n].file].points),
            self._first,
            os.cpu_count(),
        )
        self._colors, self._detail = (np.stack(part) for part in zip(*features, strict=True))

    def donor(self, number: int, choice: int) -> int:
        """The number of the crop whose face goes into crop `number`.

        Args:
            number: number of the crop that is changed.
            choice: rank among the nearest, from 0 for the most similar; taken modulo their count.

        Raises:
            ValueError: the split has nobody else, or only copies of the photograph; names the crop.
        """
        row = self._rows[number]
        own = self._index[row.dataset, row.video]
        colors = _distances(self._colors, own)
        distance = (
            colors / _LEVELS_SCALE
            + _distances(self._detail, own) / _DETAIL_SCALE
            + _distances(self._shapes[self._first], own) / _SHAPE_SCALE
        )
        others = np.array([_are_strangers(row, self._rows[other]) for other in self._first])
        usable = np.flatnonzero(others & (colors > _SAME_PHOTOGRAPH))
        if not len(usable):
            raise ValueError(
                f"no face of split {row.split!r} can be swapped into {row.file}: all are of its own video, sources, "
                "people or photograph; give a set with other people in each split."
            )
        order = usable[np.argsort(distance[usable], kind="stable")]
        chosen = order[choice % len(order)]
        crops = np.array(self._crops[chosen])
        return int(crops[np.argmin(np.square(self._shapes[crops] - self._shapes[number]).sum(axis=1))])


def _are_strangers(row: FaceRow, other: FaceRow) -> bool:
    return (
        other.split == row.split
        and (other.dataset, other.video) != (row.dataset, row.video)
        and not set(other.source_id) & set(row.source_id)
        and not set(other.identity) & set(row.identity)
    )


def _shape_features(points: Any) -> np.ndarray:
    """Nose and mouth where the eyes are at 0 and 1, `(6,)`: the pose of the head, and the mouth's expression."""
    x, y = points.T
    places = (x[2:] - x[0] + 1j * (y[2:] - y[0])) / (x[1] - x[0] + 1j * (y[1] - y[0]))
    return np.concatenate([places.real, places.imag])


def _distances(features: np.ndarray, own: int) -> np.ndarray:
    return np.sqrt(np.mean(np.square(features - features[own]), axis=1))


def _appearance(pixels: np.ndarray, points: Any) -> tuple[np.ndarray, np.ndarray]:
    """Lab levels of the upright thumbnail of the face, `(1440,)`, and a map of its fine detail, `(120,)`."""
    width, height = _THUMBNAIL
    points = np.float32(points)
    # Eyes half a width apart, at four times the thumbnail's size: averaging then loses no pixel.
    unit = 4 * width / 2
    eyes = points[:2].mean(axis=0)
    down = np.float32([points[0, 1] - points[1, 1], points[1, 0] - points[0, 0]])  # type: ignore[arg-type]
    to = np.float32([[2 * width - unit / 2, unit * 0.6], [2 * width + unit / 2, unit * 0.6], [2 * width, unit * 1.6]])  # type: ignore[arg-type]
    matrix = cv2.getAffineTransform(np.float32([points[0], points[1], eyes + down]), to)  # type: ignore[arg-type,call-overload]
    face = cv2.warpAffine(pixels, matrix, (4 * width, 4 * height), borderMode=cv2.BORDER_REPLICATE)
    face = cv2.cvtColor(face, cv2.COLOR_RGB2LAB).astype(np.float32)
    fine = np.abs(face[..., 0] - cv2.GaussianBlur(face[..., 0], (0, 0), 2))
    fine = cv2.resize(fine, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return cv2.resize(face, (width, height), interpolation=cv2.INTER_AREA).ravel(), np.log1p(fine).ravel()


def _warp(
    donor: np.ndarray, donor_points: np.ndarray, points: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The donor on the target's landmarks, uint8 `(h, w, 3)`, and where its photograph reaches, `(h, w)`, 0 or 255.

    Features move most of the way to the target's: some of the donor's proportions stay, as in swaps.
    """
    from_points = _anchors(donor_points)
    to_points = _anchors(points)
    similar = cv2.estimateAffinePartial2D(donor_points, points, method=cv2.LMEDS)[0]
    if similar is None:
        raise ValueError(f"landmarks {donor_points.tolist()} of the donor cannot be mapped to {points.tolist()}")
    moved = from_points @ similar[:, :2].T + similar[:, 2]
    to_points = moved + rng.uniform(0.5, 1.0) * (to_points - moved)
    x, y = _spline_maps(to_points, from_points, shape)
    face = cv2.remap(donor, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    inside = (x >= 0) & (y >= 0) & (x <= donor.shape[1] - 1) & (y <= donor.shape[0] - 1)
    covered = np.where(inside, np.uint8(255), np.uint8(0))
    return face, cv2.erode(covered, np.ones((5, 5), np.uint8), borderValue=0)


def _anchors(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points, face_outline(points)]).astype(np.float64)


def _spline_maps(
    to_points: np.ndarray, from_points: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """x and y maps for `cv2.remap`, float32 of `shape`, of the thin-plate spline through pairs of points."""
    with optional_import("faces are warped with SciPy", "train"):
        from scipy.interpolate import RBFInterpolator
    height, width = shape
    # The spline is smooth: every eighth pixel determines the others.
    rows, columns = (np.arange(0, length + 8, 8, dtype=np.float64) for length in shape)
    grid = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
    coarse = RBFInterpolator(to_points, from_points, kernel="thin_plate_spline")(grid)
    coarse = coarse.reshape(len(rows), len(columns), 2).astype(np.float32)
    u, v = np.meshgrid(np.arange(width, dtype=np.float32) / 8, np.arange(height, dtype=np.float32) / 8)
    fine = cv2.remap(coarse, u, v, cv2.INTER_LINEAR)
    return np.ascontiguousarray(fine[..., 0]), np.ascontiguousarray(fine[..., 1])


def _mask(shape: tuple[int, ...], points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Where the donor's face goes, uint8 `(height, width)`, 0 or 255."""
    exponent = _MASKS[rng.choice(len(_MASKS), p=_MASK_SHARES)]
    if exponent is None:
        outline = cv2.convexHull(face_outline(points, grow=rng.uniform(0.85, 1.0)))
    else:
        eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
        angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        around = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        around = np.sign(around) * np.abs(around) ** (2 / exponent)
        # In the face's frame, where the eyes are one apart and the mouth is at (0, 1).
        around = (0, 0.5) + around * (rng.uniform(0.75, 0.9), rng.uniform(0.85, 1.0))
        outline = eyes + around[:, :1] * (points[1] - points[0]) + around[:, 1:] * (mouth - eyes)
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [np.rint(outline).astype(np.int32).reshape(-1, 1, 2)], 255)
    mask[:2] = mask[-2:] = mask[:, :2] = mask[:, -2:] = 0
    return mask


def _transfer_colors(face: np.ndarray, target: np.ndarray, mask: np.ndarray, method: str) -> np.ndarray:
    """The face in the target's colors, measured within the mask: uint8."""
    if method == "none":
        return face
    source, wanted = (cv2.cvtColor(image, cv2.COLOR_RGB2LAB) for image in (face, target))
    transfer = _reinhard if method == "reinhard" else _match_histogram
    tables = [transfer(source[..., channel][mask > 0], wanted[..., channel][mask > 0]) for channel in range(3)]
    return cv2.cvtColor(map_levels(source, np.stack(tables, axis=-1)), cv2.COLOR_LAB2RGB)


def _reinhard(source: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """New values of the 256 levels by mean and spread (Reinhard et al., 2001)."""
    gain = np.clip(wanted.std() / max(source.std(), 1.0), 0.5, 2.0)
    return (np.arange(256) - source.mean()) * gain + wanted.mean()


def _match_histogram(source: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """New values of the 256 levels by equal cumulative shares."""
    below, wanted_below = (np.cumsum(np.bincount(levels, minlength=256)) / len(levels) for levels in (source, wanted))
    return np.interp(below, wanted_below, np.arange(256))


def _feather(face: np.ndarray, target: np.ndarray, mask: np.ndarray, radius: int) -> np.ndarray:
    """Blends with a blurred mask, eroded first by the blur's radius so that it stays within its outline."""
    size = 2 * radius + 1
    weight = cv2.erode(mask, np.ones((size, size), np.uint8), borderValue=0).astype(np.float32) / 255
    return to_uint8(_mix(face, target, cv2.GaussianBlur(weight, (size, size), 0)))


def _blend_pyramids(face: np.ndarray, target: np.ndarray, mask: np.ndarray, levels: int) -> np.ndarray:
    """Blends coarse detail over a wide seam, fine detail over a narrow one (Burt and Adelson, 1983)."""
    face, target = face.astype(np.float32), target.astype(np.float32)
    weight = mask.astype(np.float32) / 255
    bands = []
    for _ in range(levels):
        if min(weight.shape) < 4:
            break
        size = weight.shape[::-1]
        low_face, low_target, low_weight = (cv2.pyrDown(image) for image in (face, target, weight))
        face_band, target_band = face - cv2.pyrUp(low_face, dstsize=size), target - cv2.pyrUp(low_target, dstsize=size)
        bands.append(_mix(face_band, target_band, weight))
        face, target, weight = low_face, low_target, low_weight  # type: ignore[assignment]
    image = _mix(face, target, weight)
    for band in reversed(bands):
        image = band + cv2.pyrUp(image, dstsize=band.shape[1::-1])
    return to_uint8(image)


def _mix(face: np.ndarray, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return weight[..., None] * face + (1 - weight[..., None]) * target
