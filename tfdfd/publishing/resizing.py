"""`tfdfd.faces.crop.resize_crop` in TensorFlow operations, to the same bytes where the whole is not a rounding.

OpenCV resizes bytes in fixed point. `tf.image.resize` rounds elsewhere, and is off by a level in half of the pixels.
"""

from __future__ import annotations

import tensorflow as tf

# Bits of OpenCV's bilinear coefficients (INTER_RESIZE_COEF_BITS).
_BITS = 11


def resize_crop(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """uint8 RGB `(h, w, 3)` of any height and width above 0 -> uint8 `(height, width, 3)`.

    Bilinear; by area where both sides shrink to a half or less. A picture of the right size is passed on.

    Args:
        image: the whole picture.
        size: `(height, width)` of the result.
    """
    shape = tf.shape(image)[:2]
    target = tf.constant(size)
    resized = tf.cond(
        tf.reduce_all(shape == target),
        lambda: image,
        lambda: tf.cond(
            tf.reduce_all(shape >= 2 * target), lambda: _by_area(image, size), lambda: _bilinear(image, size)
        ),
    )
    return tf.ensure_shape(resized, (*size, 3))


def _bilinear(image, size):
    height, width = tf.unstack(tf.shape(image)[:2])
    top, below = _places(height, size[0])
    left, beside = _places(width, size[1])
    # Columns count as one beyond the border: OpenCV gives the last one its full weight there.
    outside = (left < 0) | (left >= width - 1)
    beside = tf.where(outside, 0.0, beside)
    left, right = (tf.clip_by_value(column, 0, width - 1) for column in (left, left + 1))
    across = [_coefficients(part)[:, None] for part in (1 - beside, beside)]
    down = [_coefficients(part)[:, None, None] for part in (1 - below, below)]

    def row(places):
        lines = tf.cast(tf.gather(image, tf.clip_by_value(places, 0, height - 1)), tf.int32)
        return tf.gather(lines, left, axis=1) * across[0] + tf.gather(lines, right, axis=1) * across[1]

    # Shifts as OpenCV has them: 15 bits of each row, 16 of each product, and two at the end, rounded.
    parts = [_shift(_shift(row(places), 4) * part, 16) for places, part in zip((top, top + 1), down, strict=True)]
    return tf.cast(tf.clip_by_value(_shift(parts[0] + parts[1] + 2, 2), 0, 255), tf.uint8)


def _places(count, wanted):
    """For each of `wanted` pixels the one before it among `count`, and how far behind that it lies, in [0, 1)."""
    # OpenCV divides twice, in double precision, and then rounds to a float.
    scale = 1 / (tf.constant(wanted, tf.float64) / tf.cast(count, tf.float64))
    places = tf.cast((tf.range(wanted, dtype=tf.float64) + 0.5) * scale - 0.5, tf.float32)
    before = tf.floor(places)
    return tf.cast(before, tf.int32), places - before


def _coefficients(shares):
    return tf.cast(tf.round(shares * (1 << _BITS)), tf.int32)


def _shift(values, bits):
    return tf.bitwise.right_shift(values, bits)


def _by_area(image, size):
    means = tf.raw_ops.ResizeArea(images=image[None], size=tf.constant(size))[0]
    halves = tf.reduce_all(tf.shape(image)[:2] == 2 * tf.constant(size))
    # OpenCV rounds a half up for 2 x 2 pixels, where all is whole, and to even elsewhere.
    return tf.cast(tf.cond(halves, lambda: tf.floor(means + 0.5), lambda: tf.round(means)), tf.uint8)
