"""Augmentation of document S2 to the letter, on NumPy and OpenCV.

The thesis (section 4.2) names mirroring, rotation by up to 40 degrees, color jitter and random erasing; its author's
program uses torchvision's transforms with these settings: `RandomHorizontalFlip()`, `RandomRotation(40)` (nearest
pixel, black corners), `ColorJitter(0.3, 0.3, 0.3, 0.1)` (four operations in random order), `RandomErasing()` after
normalization by (x - 0.5) / 0.5, whose value of 0 is mid-gray: the gray rectangle of figure 4.3.
"""

from __future__ import annotations

import cv2
import numpy as np

DEGREES = 40.0
JITTER = 0.3
HUE = 0.1
GRAY = 0.5
AREA = (0.02, 0.33)
ASPECT = (0.3, 3.3)
_TRIES = 10
_STREAM = 0x61756763  # first word of the seeds: separates these draws from others with the same seed
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
BRIGHTNESS, CONTRAST, SATURATION, HUE_SHIFT = range(4)


class S2Policy:
    """The policy as a function of a crop, its epoch and its position in it.

    Args:
        seed: integer, at least 0.
        name: of `POLICIES`: `s2`, or `flip` (its mirroring alone, as the reference of document S4 had).
    """

    def __init__(self, seed: int = 0, name: str = "s2"):
        self._seed, self._steps = seed, POLICIES[name]

    def __call__(self, image: np.ndarray, epoch: int, position: int) -> np.ndarray:
        """Augments one crop; the input is not modified.

        Args:
            image: RGB float32 `(height, width, 3)` in [0, 1].
            epoch: from 0.
            position: of the crop in the order of that epoch, from 0.

        Returns:
            RGB float32 of the same shape in [0, 1].
        """
        rng = np.random.default_rng([_STREAM, self._seed, int(epoch), int(position)])
        for operation, draw in self._steps:
            arguments = draw(rng)
            if arguments is not None:
                image = operation(image, *arguments)
        return image


def mirror(image: np.ndarray) -> np.ndarray:
    """Flips left and right."""
    return cv2.flip(image, 1)


def rotate_nearest(image: np.ndarray, degrees: float) -> np.ndarray:
    """Rotates counterclockwise about the center without resampling: every pixel is one of the input, or black."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_NEAREST)


def jitter_colors(image: np.ndarray, order: tuple[int, ...], factors: tuple[float, float, float, float]) -> np.ndarray:
    """Brightness, contrast, saturation and hue as torchvision's `ColorJitter`, in the given order.

    Args:
        image: RGB float32 in [0, 1].
        order: of `BRIGHTNESS`, `CONTRAST`, `SATURATION`, `HUE_SHIFT`.
        factors: three multipliers, and a share of the color circle.
    """
    for operation in order:
        factor = np.float32(factors[operation])
        if operation == BRIGHTNESS:
            image = np.clip(image * factor, 0, 1)
        elif operation == CONTRAST:
            image = np.clip((image - (gray := (image @ _LUMA).mean())) * factor + gray, 0, 1)
        elif operation == SATURATION:
            gray = (image @ _LUMA)[..., None]
            image = np.clip((image - gray) * factor + gray, 0, 1)
        else:
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
            hsv[..., 0] = (hsv[..., 0] + np.float32(360) * factor) % 360
            image = np.clip(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), 0, 1)
    return image


def erase_gray(image: np.ndarray, top: float, left: float, sizes: list[tuple[float, float]]) -> np.ndarray:
    """Fills a rectangle with mid-gray.

    Args:
        image: RGB float32 in [0, 1].
        top, left: position within the room that there is, in [0, 1).
        sizes: candidates (share of the area, height by width); the first one that fits is taken, as in torchvision.
    """
    height, width = image.shape[:2]
    for area, aspect in sizes:
        rows = round(np.sqrt(area * height * width * aspect))
        columns = round(np.sqrt(area * height * width / aspect))
        if 0 < rows < height and 0 < columns < width:
            y, x = int(top * (height - rows + 1)), int(left * (width - columns + 1))
            image = image.copy()
            image[y : y + rows, x : x + columns] = GRAY
            return image
    return image


def _draw_jitter(rng):
    factors = (*rng.uniform(1 - JITTER, 1 + JITTER, 3).tolist(), float(rng.uniform(-HUE, HUE)))
    return tuple(rng.permutation(4).tolist()), factors


def _draw_rectangle(rng):
    if rng.random() >= 0.5:
        return None
    areas, aspects = rng.uniform(*AREA, _TRIES), np.exp(rng.uniform(*np.log(ASPECT), _TRIES))
    return rng.random(), rng.random(), list(zip(areas.tolist(), aspects.tolist(), strict=True))


# Operation, and what draws its arguments: None leaves the image as it is.
STEPS = (
    (mirror, lambda rng: () if rng.random() < 0.5 else None),
    (rotate_nearest, lambda rng: (float(rng.uniform(-DEGREES, DEGREES)),)),
    (jitter_colors, _draw_jitter),
    (erase_gray, _draw_rectangle),
)
POLICIES = {"s2": STEPS, "flip": STEPS[:1]}
