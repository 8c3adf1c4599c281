"""Augmentation policies for face crops in training, on NumPy and OpenCV.

A policy is a sequence of random image operations. The result is a function of the seed, the epoch and the crop's
position in that epoch, in whichever thread or order crops are processed: a resumed run trains on the same pixels.

`s1`: blur 3x3, 9x9 or 15x15, rotation by 45, 90 or 180 degrees, scale +50 % or -50 %, as in the document "What AI has
broken can be fixed by AI". The document does not say how often: each changes half of the images.

`s2`: mirroring, rotation by up to 40 degrees either way, color jitter and random erasing, as in the thesis "DeepFake:
algorithms for fake video detection" (section 4.2). The settings are those of its author's program, which uses
torchvision: `RandomHorizontalFlip()`, `RandomRotation(40)` (nearest pixel, black corners), `ColorJitter(0.3, 0.3, 0.3,
0.1)` (four operations in random order), and `RandomErasing()` after normalization by (x - 0.5) / 0.5, whose value of 0
is mid-gray: the gray rectangle of figure 4.3.

`flip`: the mirroring of `s2` alone, as in the reference of the Celeb-DF study (document S4).

`modern`: color, blur, loss of resolution, noise, JPEG, in the order in which they happen to a picture: the kinds of
distortion in the DFDC test set (Dolhansky et al., arXiv:2006.07397, section 4).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np

from tfdfd.data.degrade import blur, compress_jpeg

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
GRAY = 0.5
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as in Pillow
_STREAM = 0x61756763  # first word of the seeds: separates these draws from others with the same seed


class CropAugmenter:
    """A policy of `POLICIES` as a function of a crop.

    Args:
        name: name of the policy.
        seed: integer, at least 0.

    Raises:
        ValueError: an unknown name or an invalid seed.
    """

    def __init__(self, name: str, seed: int = 0):
        if name not in POLICIES:
            raise ValueError(f"there is no augmentation policy {name!r}; expected one of {', '.join(POLICIES)}")
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise ValueError(f"seed must be an integer of at least 0; received: {seed!r}")
        self._steps, self._seed = POLICIES[name], seed

    def __call__(self, image: np.ndarray, epoch: int, position: int) -> np.ndarray:
        """Augments one crop; the input is not modified.

        Args:
            image: RGB float32 `(height, width, 3)` in [0, 1].
            epoch: from 0.
            position: position of the crop in the order of that epoch, from 0.

        Returns:
            RGB float32 of the same shape in [0, 1].
        """
        rng = np.random.default_rng([_STREAM, self._seed, int(epoch), int(position)])
        for operation, draw in self._steps:
            arguments = draw(rng)
            if arguments is not None:
                image = operation(image, *arguments)
        return image


class Step(NamedTuple):
    """One operation of a policy.

    Attributes:
        operation: a function of an image and the drawn arguments.
        draw: draws the arguments from a `np.random.Generator`; None leaves the image unchanged.
    """

    operation: Callable[..., np.ndarray]
    draw: Callable[[np.random.Generator], tuple | None]


def mirror(image: np.ndarray) -> np.ndarray:
    """Flips left and right."""
    return cv2.flip(image, 1)


def brighten(image: np.ndarray, delta: float) -> np.ndarray:
    """Adds `delta` to all values."""
    return _clip(image + np.float32(delta))


def change_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiplies the distance to each channel's mean."""
    mean = np.array(cv2.mean(image)[:3])
    matrix = np.column_stack([factor * np.eye(3), (1 - factor) * mean])
    return _clip(cv2.transform(image, matrix))


def saturate(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiplies the saturation (HSV)."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    np.minimum(hsv[..., 1] * np.float32(factor), 1, out=hsv[..., 1])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def shift_hue(image: np.ndarray, turn: float | np.floating) -> np.ndarray:
    """Shifts hues by a share of the color circle."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0] += np.float32(360 * (turn % 1))  # type: ignore[arg-type]  # OpenCV wraps hues above 360, but not below 0
    return _clip(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def blur_with_kernel(image: np.ndarray, size: int) -> np.ndarray:
    """Gaussian blur with an odd kernel size in pixels and the deviation that OpenCV derives from it."""
    return blur(image, 0.15 * size + 0.35, int(size))


def lose_resolution(image: np.ndarray, scale: float) -> np.ndarray:
    """Scales down with antialiasing and up again, bilinear both ways, as `keras.ops.image.resize` does."""
    height, width = image.shape[:2]
    small = _shrink_rows(image, max(round(scale * height), 1))
    small = cv2.transpose(_shrink_rows(cv2.transpose(small), max(round(scale * width), 1)))
    return _clip(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))


def add_float_noise(image: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Adds Gaussian noise, independent in every pixel and channel."""
    noise = rng.standard_normal(image.shape, np.float32)
    noise *= np.float32(deviation)
    noise += image
    return _clip(noise)


def compress(image: np.ndarray, quality: int) -> np.ndarray:
    """Encodes and decodes as JPEG at a quality from 1 to 100."""
    compressed = compress_jpeg(cv2.convertScaleAbs(image, alpha=255), int(quality)).astype(np.float32)
    return np.divide(compressed, np.float32(255), out=compressed)


def rotate(image: np.ndarray, degrees: float, zoom: float = 1.0) -> np.ndarray:
    """Rotates counterclockwise and scales about the center; uncovered pixels are black."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, zoom)
    return _clip(cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR))


def rotate_nearest(image: np.ndarray, degrees: float) -> np.ndarray:
    """Rotates counterclockwise about the center without resampling: every pixel is one of the input, or black."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_NEAREST)


def jitter_colors(image: np.ndarray, order: tuple[int, ...], factors: tuple[float, float, float, float]) -> np.ndarray:
    """Changes brightness, contrast, saturation and hue as torchvision's `ColorJitter`, in the given order.

    Args:
        image: RGB float32 in [0, 1].
        order: an order of `BRIGHTNESS`, `CONTRAST`, `SATURATION`, `HUE`.
        factors: three multipliers, and a share of the color circle, by these numbers.
    """
    for operation in order:
        factor = np.float32(factors[operation])
        if operation == BRIGHTNESS:
            image = np.clip(image * factor, 0, 1)
        elif operation == CONTRAST:
            gray = (image @ _LUMA).mean()
            image = np.clip((image - gray) * factor + gray, 0, 1)
        elif operation == SATURATION:
            gray = (image @ _LUMA)[..., None]
            image = np.clip((image - gray) * factor + gray, 0, 1)
        else:
            image = shift_hue(image, factor)
    return image


def erase_gray(image: np.ndarray, top: float, left: float, sizes: list[tuple[float, float]]) -> np.ndarray:
    """Fills a rectangle with mid-gray.

    Args:
        image: RGB float32 in [0, 1].
        top, left: position within the available room, in [0, 1).
        sizes: candidates (share of the area, height / width); the first one that fits is taken, as in torchvision.
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


def _clip(image: np.ndarray) -> np.ndarray:
    """Clips to [0, 1] in place: an array of its own would take as long to allocate as to compute."""
    return np.clip(image, 0, 1, out=image)


def _shrink_rows(image: np.ndarray, count: int) -> np.ndarray:
    """Resamples rows to `count` with triangle weights, normalized over the rows within the image."""
    side = len(image)
    step = side / count
    center = (np.arange(count) + 0.5) * step
    first = np.floor(center - step - 0.5).astype(int) + 1  # the first row whose center is within a step
    out, total = np.zeros((count, *image.shape[1:]), np.float32), np.zeros(count, np.float32)
    for number in range(int(2 * step) + 1):
        row = first + number
        weight = np.maximum(1 - np.abs(row + 0.5 - center) / step, 0) * ((row >= 0) & (row < side))
        weight = weight.astype(np.float32)
        out += weight[:, None, None] * image[np.clip(row, 0, side - 1)]
        total += weight
    return out / total[:, None, None]


def _with(probability: float, draw: Callable[[np.random.Generator], Any]) -> Callable[[np.random.Generator], Any]:
    return lambda rng: draw(rng) if rng.random() < probability else None


def _draw_jitter(rng: np.random.Generator) -> tuple:
    factors = (*rng.uniform(0.7, 1.3, 3).tolist(), float(rng.uniform(-0.1, 0.1)))
    return tuple(rng.permutation(4).tolist()), factors


def _draw_rectangle(rng: np.random.Generator) -> tuple | None:
    """Position and ten candidate sizes of a rectangle of 2 to 33 % of the area; None in half of the cases."""
    if rng.random() >= 0.5:
        return None
    areas, aspects = rng.uniform(0.02, 0.33, 10), np.exp(rng.uniform(np.log(0.3), np.log(3.3), 10))
    return rng.random(), rng.random(), list(zip(areas.tolist(), aspects.tolist(), strict=True))


def _draw_saturation(rng: np.random.Generator, strength: float) -> tuple[float]:
    value = rng.uniform(0.5 - strength / 2, 0.5 + strength / 2)
    return (value / (1 - value + 1e-7),)


def _color_jitter(strength: float, hue: float) -> tuple[Step, ...]:
    """Brightness, contrast, saturation and hue, drawn as the Keras layers of these names draw them."""
    return (
        Step(brighten, lambda rng: (rng.uniform(-strength, strength),)),
        Step(change_contrast, lambda rng: (rng.uniform(1 - strength, 1 + strength),)),
        Step(saturate, lambda rng: _draw_saturation(rng, strength)),
        Step(shift_hue, lambda rng: ((-1 if rng.random() > 0.5 else 1) * 0.5 * rng.uniform(0, hue),)),
    )


_MIRROR = Step(mirror, lambda rng: () if rng.random() <= 0.5 else None)
POLICIES: dict[str, tuple[Step, ...]] = {
    "s1": (
        Step(blur_with_kernel, _with(0.5, lambda rng: (rng.choice((3, 9, 15)),))),
        Step(rotate, _with(0.5, lambda rng: (float(rng.choice((45, 90, 180))),))),
        Step(rotate, _with(0.5, lambda rng: (0.0, float(rng.choice((0.5, 1.5)))))),
    ),
    "s2": (
        _MIRROR,
        Step(rotate_nearest, lambda rng: (float(rng.uniform(-40, 40)),)),
        Step(jitter_colors, _draw_jitter),
        Step(erase_gray, _draw_rectangle),
    ),
    "flip": (_MIRROR,),
    "modern": (
        _MIRROR,
        *_color_jitter(0.15, 0.03),
        Step(blur_with_kernel, _with(0.25, lambda rng: (rng.choice((3, 5, 7)),))),
        Step(lose_resolution, _with(0.4, lambda rng: (rng.uniform(0.4, 1.0),))),
        Step(add_float_noise, _with(0.3, lambda rng: (rng.uniform(0.0, 0.03), rng))),
        Step(compress, _with(0.7, lambda rng: (rng.integers(40, 101),))),
    ),
}
