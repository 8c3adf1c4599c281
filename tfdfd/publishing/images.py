"""Images inside a published graph: decoding of JPEG and PNG crops as `tfdfd detect` does, resizing, validity check.

Resizing and the check are operations of Keras, so SavedModels and `tfdfd.HubLayer` behave the same under any backend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfdfd.publishing import HIGHEST_PIXEL, LOWEST_PIXEL, MAX_PIXELS

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
    side is not a multiple of the result's, one in a thousand may be a level apart.
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


# Pictures per call: 0.8 GB of 256 x 256 pixels as floats.
MAX_BATCH = 1024
# Pictures decoded in parallel; more would only take more memory.
_AT_ONCE = 16
# Bytes of a file that are read before it is decoded.
_HEAD = 24
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


def decode_crops(encoded: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """string `(batch,)`, each a JPEG or PNG of any size -> RGB float32 `(batch, height, width, 3)` in [0, 1].

    Gray becomes RGB, an alpha channel is dropped, 16 bits become 8, and EXIF orientation is applied. Of an animated PNG
    the first picture is used.

    Raises (when the graph runs):
        InvalidArgumentError: a picture is neither JPEG nor PNG, truncated, in CMYK, or has more than `MAX_PIXELS`
            pixels; or there are more than `MAX_BATCH` pictures.
    """
    few = tf.debugging.Assert(
        tf.size(encoded) <= MAX_BATCH, [f"image_bytes holds more than {MAX_BATCH} pictures; send fewer a call"]
    )
    with tf.control_dependencies([few]):
        encoded = tf.identity(encoded)
    pixels = tf.map_fn(
        lambda data: _resized(_decode(data), size),
        encoded,
        fn_output_signature=tf.TensorSpec((*size, 3), tf.uint8),
        parallel_iterations=_AT_ONCE,
    )
    return tf.cast(pixels, tf.float32) / 255.0


def _resized(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    is_right = tf.reduce_all(tf.shape(image)[:2] == tf.constant(size))
    resized = tf.cond(is_right, lambda: image, lambda: tf.cast(resize_levels(image[None], size)[0], tf.uint8))
    return tf.ensure_shape(resized, (*size, 3))


def _decode(data: tf.Tensor) -> tf.Tensor:
    # The first bytes decide: TensorFlow's decoder of one format accepts the others, too.
    head = tf.strings.join([tf.strings.substr(data, 0, _HEAD), "\0" * _HEAD])
    is_jpeg = tf.strings.substr(head, 0, len(_JPEG)) == _JPEG
    return tf.cond(is_jpeg, lambda: _decode_jpeg(data), lambda: _decode_png(data, head))


def _decode_jpeg(data: tf.Tensor) -> tf.Tensor:
    height, width, channels = tf.unstack(tf.image.extract_jpeg_shape(data))
    # OpenCV and TensorFlow convert CMYK to different colors.
    rgb = tf.debugging.Assert(channels <= 3, ["image_bytes holds a CMYK picture; expected RGB or gray"])
    with tf.control_dependencies([rgb, _small_enough(height, width)]):
        data = tf.identity(data)
    # TensorFlow's default, the fast transform, is off by up to 15 of 255.
    return upright(tf.image.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"), data, b"Exif\0\0")


def _decode_png(data: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    # The header is the first chunk: its length and name, then width and height.
    known = tf.debugging.Assert(
        (tf.strings.substr(head, 0, len(_PNG)) == _PNG) & (tf.strings.substr(head, 12, 4) == b"IHDR"),
        ["image_bytes holds something that is neither a JPEG nor a PNG"],
    )
    with tf.control_dependencies([known]):
        sides = tf.io.decode_raw(tf.strings.substr(head, 16, 8), tf.int32, little_endian=False)
    with tf.control_dependencies([_small_enough(sides[1], sides[0])]):
        data = tf.identity(data)
    return upright(tf.image.decode_png(data, channels=3), data, b"eXIf")


def _small_enough(height: tf.Tensor, width: tf.Tensor) -> Any:
    # Checked in the header, before the picture is decoded.
    height, width = tf.cast(height, tf.int64), tf.cast(width, tf.int64)
    return tf.debugging.Assert(
        (height > 0) & (width > 0) & (height * width <= MAX_PIXELS),
        [f"image_bytes holds a picture of more than {MAX_PIXELS} pixels, or of none"],
    )


# Cameras write EXIF before the picture, so only the beginning of a file is searched.
_EXIF_HEAD = 1 << 16
_ORIENTATION = 0x0112
_LITTLE = ord("I")


def upright(image: tf.Tensor, data: tf.Tensor, mark: bytes) -> tf.Tensor:
    """Applies the EXIF orientation in a picture's file; without EXIF the picture is unchanged.

    Args:
        image: uint8 `(h, w, 3)`.
        data: string, the file.
        mark: bytes that precede the EXIF in this file format.
    """
    head = tf.strings.substr(data, 0, _EXIF_HEAD)
    escaped = "".join(rf"\x{byte:02x}" for byte in mark)
    # \C matches any byte; a file is not text.
    has_exif = tf.strings.regex_full_match(head, rf"\C*{escaped}(II\*\x00|MM\x00\*)\C*")
    return tf.cond(has_exif, lambda: _turned(image, _orientation(head, mark)), lambda: image)


def _orientation(head: tf.Tensor, mark: bytes) -> tf.Tensor:
    """EXIF orientation, 1 to 8; 1 (upright) if it is absent or invalid."""
    content = tf.cast(tf.io.decode_raw(head, tf.uint8), tf.int32)
    count = tf.size(content) - len(mark)
    found = tf.reduce_all([content[i : count + i] == byte for i, byte in enumerate(mark)], axis=0)
    begin = tf.cast(tf.where(found)[0, 0], tf.int32) + len(mark)
    exif = tf.concat([content[begin:], tf.zeros(16, tf.int32)], 0)
    little = exif[0] == _LITTLE

    def number(parts: tf.Tensor) -> tf.Tensor:
        """Of the bytes along the last axis."""
        parts = tf.cond(little, lambda: tf.reverse(parts, [-1]), lambda: parts)
        return tf.reduce_sum(parts * [1 << 8 * i for i in reversed(range(parts.shape[-1]))], axis=-1)

    end = tf.size(exif) - 2
    table = tf.clip_by_value(number(tf.ensure_shape(exif[4:8], [4])), 0, end)
    entries = tf.minimum(number(tf.ensure_shape(exif[table : table + 2], [2])), (end - table) // 12)
    rows = tf.reshape(exif[table + 2 : table + 2 + 12 * entries], [entries, 12])
    values = tf.where(number(rows[:, :2]) == _ORIENTATION, number(rows[:, 8:10]), 1)
    value = tf.reduce_max(tf.concat([values, [1]], 0))
    return tf.where(value <= 8, value, 1)


def _turned(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    image = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    for axis, orientations in ((0, (3, 4, 7, 8)), (1, (2, 3, 6, 7))):
        is_mirrored = tf.reduce_any(orientation == tf.constant(orientations))
        image = tf.cond(
            is_mirrored,
            lambda image=image, axis=axis: tf.reverse(image, [axis]),
            lambda image=image: image,
        )
    return image
