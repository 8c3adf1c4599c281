"""Contact sheets of self-blended pairs, to inspect what a network trains on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tfdfd.data.crops import TABLE, crop_alike, faces_of
from tfdfd.data.degrade import degrade_pair
from tfdfd.data.pair_sets import MARGIN
from tfdfd.data.self_blending import self_blend
from tfdfd.data.tables import REAL
from tfdfd.faces import Face, FaceDetector
from tfdfd.media import Limits, MediaError
from tfdfd.media.decode import Frame, read_media
from tfdfd.media.inputs import list_inputs

COLUMNS = ("real", "blended", "mask", "difference x4")
AMPLIFIED = 4
ROWS = 8  # pairs in a column of the sheet; further ones are placed beside them
_LARGEST_SIDE = 1024  # of a photograph in pixels; more is lost on a crop of this size
_GAP, _HEADING = 2, 22


@dataclass
class PreviewPair:
    """A real picture and the fake made from it.

    Attributes:
        path: path of the photograph.
        real: RGB uint8 `(size, size, 3)`.
        fake: the same.
        mask: float32 `(size, size)` in [0, 1]: weight of the altered face in the fake.
    """

    path: str
    real: np.ndarray
    fake: np.ndarray
    mask: np.ndarray


@dataclass
class Refusal:
    """A photograph that no pair can be made from, and the reason."""

    path: str
    message: str


def genuine_images(paths: Iterable[str | os.PathLike]) -> list[str]:
    """Images among files and folders; of a `faces.csv`, or a folder with one, only its real crops.

    Raises:
        ValueError: there is none.
    """
    images, refused = [], []
    for path in paths:
        if Path(path, TABLE).is_file() or (os.fspath(path).lower().endswith(".csv") and os.path.isfile(path)):
            faces = faces_of(path)
            images += [faces.path(number) for number, row in enumerate(faces.rows) if row.label == REAL]
        else:
            items = list_inputs([path]).items
            images += [item.path for item in items if item.kind == "image" and not item.error]
            refused += [f" {item.path}: {item.error.message}." for item in items if item.error]
    if not images:
        named = ", ".join(map(str, paths))
        raise ValueError(
            f"no genuine image in {named}; give photographs, or a folder of them or of `tfdfd extract`."
            f"{''.join(refused[:3])}"
        )
    return images


def preview_pairs(
    images: list[str], count: int, seed: int, size: int, detector: FaceDetector
) -> Iterator[PreviewPair | Refusal]:
    """`count` pairs from images in random order, and a `Refusal` for each image that was skipped.

    If there are fewer images than `count`, those with a face are used again, with other draws.

    Args:
        images: names of files.
        count: number of pairs, at least 1.
        seed: the same seed gives the same pairs.
        size: side of the crops in pixels.
        detector: one that detects landmarks.

    Raises:
        ValueError: `count` or `size` is less than 1.
    """
    if min(count, size) < 1:
        raise ValueError(f"count and size must be at least 1; received {count} and {size}.")
    order = [images[number] for number in np.random.default_rng(seed).permutation(len(images))]
    made = 0
    while made < count and order:
        usable = []
        for path in order:
            try:
                pixels, face = _best_face(path, detector)
                pair = _pair(path, pixels, face, np.random.default_rng([seed, made]), size)
            except (MediaError, ValueError) as error:
                yield Refusal(path, str(error))
                continue
            usable.append(path)
            yield pair
            made += 1
            if made == count:
                return
        order = usable


def contact_sheet(pairs: list[PreviewPair], rows: int = ROWS) -> np.ndarray:
    """Pairs as rows of real, blended, mask and difference, RGB uint8; more than `rows` of them stand side by side."""
    if not pairs:
        raise ValueError("a contact sheet needs at least one pair; received none.")
    blocks = [pairs[start : start + rows] for start in range(0, len(pairs), rows)]
    size = len(pairs[0].mask)
    step, width = size + _GAP, len(COLUMNS) * (size + _GAP)
    height = _HEADING + len(blocks[0]) * step
    sheet = np.full((height, len(blocks) * (width + 4 * _GAP) - 5 * _GAP, 3), 255, np.uint8)
    for number, block in enumerate(blocks):
        left = number * (width + 4 * _GAP)
        for column, title in enumerate(COLUMNS):
            sheet[:_HEADING, left + column * step :][:, :size] = _heading(title, size)
        for row, pair in enumerate(block):
            top = _HEADING + row * step
            mask = np.rint(255 * pair.mask).astype(np.uint8)[..., None].repeat(3, axis=2)
            # The multiplication saturates at white.
            difference = cv2.multiply(cv2.absdiff(pair.real, pair.fake), (AMPLIFIED,) * 3)  # type: ignore[call-overload]
            for column, picture in enumerate((pair.real, pair.fake, mask, difference)):
                sheet[top : top + size, left + column * step :][:, :size] = picture
    return sheet[: height - _GAP]


def as_png(image: np.ndarray) -> bytes:
    """An RGB uint8 image as a PNG file."""
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()


def _heading(title: str, width: int) -> np.ndarray:
    strip = np.full((_HEADING, width, 3), 255, np.uint8)
    return cv2.putText(strip, title, (0, _HEADING - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)


def _pair(path: str, pixels: np.ndarray, face: Face, rng: np.random.Generator, size: int) -> PreviewPair:
    real, fake, mask = self_blend(pixels, face.landmarks, rng)  # type: ignore[arg-type]
    real, fake = degrade_pair(real, fake, rng)
    return PreviewPair(path, *crop_alike((real, fake, mask), face.box, rng, MARGIN, size=size))


def _best_face(path: str, detector: FaceDetector) -> tuple[np.ndarray, Face]:
    """The photograph, at most 1024 pixels long, and its face with the highest detector score."""
    pixels = next(part.pixels for part in read_media(path, 1, Limits()) if isinstance(part, Frame))
    factor = _LARGEST_SIDE / max(pixels.shape)
    if factor < 1:
        pixels = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    faces = [face for face in detector.detect([pixels], [min(factor, 1.0)])[0] if face.landmarks is not None]
    if not faces:
        raise MediaError("no_face", "no face was found")
    return pixels, faces[0]
