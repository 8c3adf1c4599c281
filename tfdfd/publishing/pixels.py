"""Resizing and validity check of images inside a published graph.

The operations are those of Keras, so SavedModels and `tfdfd.HubLayer` behave the same under any backend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfdfd.publishing import HIGHEST_PIXEL, LOWEST_PIXEL

_LEVELS = 255
# Bits of OpenCV's bilinear coefficients (INTER_RESIZE_COEF_BITS).
_BITS = 11


def resize_images(images: Any, size: tuple[int, int]) -> Any:
    """Float images `(batch, h, w, 3)` in [0, 1] of any height and width -> `(batch, height, width, 3)`.

    Clips `(batch, frames, h, w, 3)` become `(batch, frames, height, width, 3)`.

    As `tfdfd.faces.crop.resize_crop`, which resizes bytes: pixels are rounded to 255 levels first, and the levels of
    the result are those of OpenCV. Images of the right size are unchanged. Gradients ignore the rounding.

    Args:
        images: float32.
        size: `(height, width)` of the result.
    """

    if len(images.shape) == 5:
        height, width = ops.shape(images)[2:4]
        frames = resize_images(ops.reshape(images, (-1, height, width, 3)), size)
        return ops.reshape(frames, (-1, images.shape[1], *size, 3))

    def resized() -> Any:
        return resize_levels(images, size) / _LEVELS

    sides = _sides(images, size)
    if _are_known(sides):
        return images if all(count == wanted for count, wanted in sides) else resized()
    is_right = ops.logical_and(*(ops.equal(count, wanted) for count, wanted in sides))
    return ops.reshape(ops.cond(is_right, lambda: images, resized), (-1, *size, 3))


def resize_levels(images: Any, size: tuple[int, int]) -> Any:
    """Images `(batch, h, w, 3)`, uint8 or float in [0, 1] -> whole numbers from 0 to 255, float32 `(batch, height,
    width, 3)`.

    Bilinear; by area where both sides shrink to a half or less. The bytes are OpenCV's, except that by area, where a
    side is no multiple of the result's, one in a thousand may be a level apart.
    """
    sides = _sides(images, size)
    if _are_known(sides):
        shrinks = all(count >= 2 * wanted for count, wanted in sides)
        return _by_area(images, sides) if shrinks else _bilinear(images, sides)
    shrinks = ops.logical_and(*(ops.greater_equal(count, 2 * wanted) for count, wanted in sides))
    resized = ops.cond(shrinks, lambda: _by_area(images, sides), lambda: _bilinear(images, sides))
    return ops.reshape(resized, (-1, *size, 3))


def nan_where_invalid(answers: Any, images: Any) -> Any:
    """Answers `(batch, n)`, with NaN for each image or clip that holds NaN, infinity or a pixel outside [-0.05, 1.05].

    Such pixels have another scale or are damaged, so no answer for them is a probability.
    """
    axes = tuple(range(1, len(images.shape)))
    least, most = ops.min(images, axes), ops.max(images, axes)
    # The sum, since minimum and maximum do not propagate NaN in every library. In an image without pixels the minimum
    # exceeds the maximum.
    is_valid = (least >= LOWEST_PIXEL) & (least <= most) & (most <= HIGHEST_PIXEL) & ops.isfinite(ops.sum(images, axes))
    return ops.where(is_valid[:, None], answers, np.float32("nan"))


def _sides(images: Any, size: tuple[int, int]) -> list[tuple[Any, int]]:
    """Given and wanted number of pixels of height and width; the given one has 64 bits if known only at run time."""
    counts = ops.shape(images)[1:3]
    return [
        (count if isinstance(count, int) else ops.cast(count, "int64"), wanted)
        for count, wanted in zip(counts, size, strict=True)
    ]


def _are_known(sides: Any) -> bool:
    return all(isinstance(count, int) for count, _ in sides)


def _levels(lines: Any) -> Any:
    """Pixel levels of some lines; those of the whole image would take several times its memory."""
    if keras.backend.standardize_dtype(lines.dtype) == "uint8":
        return ops.cast(lines, "float32")
    return ops.clip(_straight_through(ops.round, lines * _LEVELS), 0, _LEVELS)


def _straight_through(function: Callable[[Any], Any], values: Any) -> Any:
    """`function(values)` with the gradient of the identity; exact for values and results this close together."""
    return values + ops.stop_gradient(function(values) - values)


def _floor(values: Any) -> Any:
    return _straight_through(ops.floor, values)


def _bilinear(images: Any, sides: Any) -> Any:
    (height, wanted_height), (width, wanted_width) = sides
    top, below = _places(height, wanted_height)
    left, beside = _places(width, wanted_width)
    # Beyond the border, OpenCV gives the last column its full weight.
    is_inside = (left >= 0) & (left < ops.cast(width - 1, "int32"))
    beside = beside * ops.cast(is_inside, "float32")
    columns = [(_clipped(left + k, width), _coefficients(part)) for k, part in enumerate((1 - beside, beside))]

    def rows(k: int, share: Any) -> Any:
        lines = _levels(ops.take(images, _clipped(top + k, height), axis=1))
        across = [ops.take(lines, index, axis=2) * part[:, None] for index, part in columns]
        # OpenCV computes in integers and drops 4 bits of a row, 16 of its product with a coefficient. The product is
        # split so that float32 holds it.
        row, part = _floor((across[0] + across[1]) / 16), _coefficients(share)[:, None, None]
        coarse = ops.floor(part / 32)
        return _floor((row * coarse + _floor(row * (part - 32 * coarse) / 32)) / 2048)

    return ops.clip(_floor((rows(0, 1 - below) + rows(1, below) + 2) / 4), 0, _LEVELS)


def _places(count: Any, wanted: int) -> tuple[Any, Any]:
    """For each of `wanted` pixels, the preceding one among `count` and the offset from it, in [0, 1)."""
    position = ops.cast(((2 * _whole(wanted, count) + 1) * count - wanted) / (2 * wanted), "float32")
    before = ops.floor(position)
    return ops.cast(before, "int32"), position - before


def _clipped(places: Any, count: Any) -> Any:
    return ops.minimum(ops.maximum(places, 0), ops.cast(count - 1, "int32"))


def _coefficients(shares: Any) -> Any:
    return ops.round(shares * (1 << _BITS))


def _by_area(images: Any, sides: Any) -> Any:
    (height, wanted_height), (width, wanted_width) = sides
    means = _sums(_sums(images, 1, height, wanted_height, _levels), 2, width, wanted_width)
    means = means * ops.cast(wanted_height * wanted_width / (height * width), "float32")
    # OpenCV rounds a half up for 2 x 2 pixels, where all is whole, and to even elsewhere.
    is_half = ops.cast(
        ops.logical_and(ops.equal(height, 2 * wanted_height), ops.equal(width, 2 * wanted_width)), "float32"
    )
    return is_half * _floor(means + 0.5) + (1 - is_half) * _straight_through(ops.round, means)


def _sums(images: Any, axis: int, count: Any, wanted: int, read: Callable[[Any], Any] = lambda lines: lines) -> Any:
    """Sums along an axis of the pixels that each of `wanted` pixels covers; the first and last count in part."""
    begin = _whole(wanted, count) * count  # in parts of a pixel
    taps = (count - 1) // wanted + 2
    minimum, maximum = (np.minimum, np.maximum) if isinstance(count, int) else (ops.minimum, ops.maximum)
    pixels = (begin // wanted)[None] + _whole(taps, count)[:, None]
    covered = minimum((pixels + 1) * wanted, (begin + count)[None]) - maximum(pixels * wanted, begin[None])
    shares = ops.cast(maximum(covered, 0) / wanted, "float32")
    places = ops.cast(minimum(pixels, count - 1), "int32")

    def add(tap: Any, total: Any) -> Any:
        lines = read(ops.take(images, places[tap], axis=axis))
        return total + lines * ops.reshape(shares[tap], (-1, *[1] * (3 - axis)))

    # In sequence: all at once they would take several times a picture's memory.
    return ops.fori_loop(1, ops.cast(taps, "int32"), add, add(0, ops.zeros((), "float32")))


def _whole(count: Any, like: Any) -> Any:
    """0 to `count` - 1 in 64 bits; in NumPy if the size `like` is known before the graph runs, else in the backend."""
    return np.arange(count) if isinstance(like, int) else ops.arange(count, dtype="int64")
