"""The named policies by NumPy and OpenCV, one crop at a time: for pipelines that augment where they decode.

The layers of a policy are the one place that says what is changed, how often and how strongly; here is how OpenCV does
what they do, with draws from the same distributions. Only crops that are to be changed are computed, and JPEG is a
file in memory. What comes out is a function of the seed, the epoch and the crop's place in it, whichever thread makes
it and in whichever order: a training that was stopped goes on with the pixels it would have seen.
"""

from __future__ import annotations

import cv2
import numpy as np
from keras import layers

from tfdfd.augment.degrade import RandomBlur, RandomNoise, RandomResize
from tfdfd.augment.geometry import RandomScale, RandomTurn
from tfdfd.augment.jpeg import RandomJpeg
from tfdfd.augment.policies import policy

_SEED = 0x61756763  # first word of the seeds: whatever else draws from a run's seed draws apart


class OnCrops:
    """A named policy as a function of a crop.

    Args:
        name: of the policy, see `tfdfd.augment.policy`.
        seed: whole number from 0.

    Raises:
        ValueError: another name or seed.
    """

    def __init__(self, name: str, seed: int = 0):
        self._steps = [(_STEPS[type(layer)], layer) for layer in policy(name, seed).layers]
        self._seed = seed

    def __call__(self, image: np.ndarray, epoch: int, place: int) -> np.ndarray:
        """The crop as it is trained on: RGB float32 `(height, width, 3)` in [0, 1] to the same; the input is kept.

        Args:
            image: the crop.
            epoch: number of the epoch, from 0.
            place: of the crop in the order of that epoch, from 0.
        """
        rng = np.random.default_rng([_SEED, self._seed, int(epoch), int(place)])
        for (draw, change), layer in self._steps:
            drawn = draw(layer, rng)
            if drawn is not None:
                image = change(image, *drawn)
        return image


# What is drawn for a layer: the arguments of its change, or None where the image is left as it is.


def _often(draw):
    return lambda layer, rng: draw(layer, rng) if rng.random() < layer.probability else None


def _range(values, rng):
    return float(rng.uniform(*values))


def _draw_mirror(layer, rng):
    return () if rng.random() <= 0.5 else None


def _draw_contrast(layer, rng):
    lower, upper = layer.factor
    return (_range((1 - lower, 1 + upper), rng),)


def _draw_saturation(layer, rng):
    factor = _range(layer.factor, rng)
    return (factor / (1 - factor + 1e-7),)


def _draw_hue(layer, rng):
    sign = -1 if rng.random() > 0.5 else 1
    return (sign * 0.5 * _range(layer.factor, rng),)


def _draw_erasing(layer, rng):
    """Left, right, top and bottom as shares of the sides, and what draws the noise."""
    if rng.random() >= _range(layer.factor, rng):
        return None
    edges = []
    for _ in range(2):
        length = np.sqrt(_range(layer.scale, rng))
        start = rng.random() * (1 - length)
        edges += [start, start + length]
    return *edges, rng


# What is done with it.


def mirrored(image):
    return cv2.flip(image, 1)


def brightened(image, delta):
    return np.clip(image + np.float32(delta), 0, 1)


def contrasted(image, factor):
    mean = np.array(cv2.mean(image)[:3])
    matrix = np.column_stack([factor * np.eye(3), (1 - factor) * mean])
    return np.clip(cv2.transform(image, matrix), 0, 1)


def saturated(image, factor):
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 1] = np.minimum(hsv[..., 1] * np.float32(factor), 1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def recoloured(image, turn):
    """Hues moved by a share of the whole circle."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0] += np.float32(360 * (turn % 1))  # beyond the circle, but not before it, OpenCV goes round
    return np.clip(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), 0, 1)


def blurred(image, size):
    return cv2.GaussianBlur(image, (int(size), int(size)), 0.15 * size + 0.35)


def resized(image, scale):
    """Down and up again, bilinear, averaging on the way down as `RandomResize` does, which OpenCV alone has not."""
    height, width = image.shape[:2]
    small = _averaged(image, max(round(scale * height), 1))
    small = cv2.transpose(_averaged(cv2.transpose(small), max(round(scale * width), 1)))
    return np.clip(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), 0, 1)


def noisy(image, deviation, rng):
    noise = rng.standard_normal(image.shape, np.float32)
    noise *= np.float32(deviation)
    noise += image
    return np.clip(noise, 0, 1, out=noise)


def compressed(image, quality):
    levels = cv2.cvtColor(np.rint(image * 255).astype(np.uint8), cv2.COLOR_RGB2BGR)
    written, data = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    if not written:
        raise ValueError(f"image {image.shape} could not be written as JPEG of quality {quality}")
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB).astype(np.float32) / np.float32(255)


def turned(image, degrees):
    return _about_centre(image, degrees, 1.0)


def scaled(image, factor):
    return _about_centre(image, 0.0, float(factor))


def erased(image, left, right, top, bottom, rng):
    """Noise between shares of the sides."""
    height, width = image.shape[:2]
    rows, columns = np.arange(height), np.arange(width)
    rows = rows[(rows >= top * height) & (rows < bottom * height)]
    columns = columns[(columns >= left * width) & (columns < right * width)]
    if not len(rows) or not len(columns):
        return image
    image = image.copy()
    part = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    part[...] = np.clip(rng.standard_normal(part.shape, np.float32), 0, 1)
    return image


def _averaged(image, small):
    """Rows of an image brought to so many by triangles, each weighed over those that lie within the image."""
    side = len(image)
    step = side / small
    centre = (np.arange(small) + 0.5) * step
    first = np.floor(centre - step - 0.5).astype(int) + 1  # the first row whose centre is within a step
    out, total = np.zeros((small, *image.shape[1:]), np.float32), np.zeros(small, np.float32)
    for number in range(int(2 * step) + 1):
        row = first + number
        weight = np.maximum(1 - np.abs(row + 0.5 - centre) / step, 0) * ((row >= 0) & (row < side))
        weight = weight.astype(np.float32)
        out += weight[:, None, None] * image[np.clip(row, 0, side - 1)]
        total += weight
    return out / total[:, None, None]


def _about_centre(image, degrees, factor):
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, factor)
    return np.clip(cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR), 0, 1)


_STEPS = {
    layers.RandomFlip: (_draw_mirror, mirrored),
    layers.RandomBrightness: (lambda layer, rng: (_range(layer.factor, rng),), brightened),
    layers.RandomContrast: (_draw_contrast, contrasted),
    layers.RandomSaturation: (_draw_saturation, saturated),
    layers.RandomHue: (_draw_hue, recoloured),
    layers.RandomRotation: (lambda layer, rng: (360 * _range(layer.factor, rng),), turned),
    layers.RandomErasing: (_draw_erasing, erased),
    RandomBlur: (_often(lambda layer, rng: (rng.choice(layer.sizes),)), blurred),
    RandomResize: (_often(lambda layer, rng: (_range(layer.scale, rng),)), resized),
    RandomNoise: (_often(lambda layer, rng: (_range(layer.deviation, rng), rng)), noisy),
    RandomJpeg: (_often(lambda layer, rng: (rng.integers(layer.quality[0], layer.quality[1] + 1),)), compressed),
    RandomTurn: (_often(lambda layer, rng: (float(rng.choice(layer.angles)),)), turned),
    RandomScale: (_often(lambda layer, rng: (float(rng.choice(layer.factors)),)), scaled),
}
