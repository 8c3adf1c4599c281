"""From the bytes of a crop to what a network takes."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfdfd.data.crop_pixels import printable, read_bytes

_JPEG = b"\xff\xd8"


def read_crop(path: str) -> np.ndarray:
    """Reads and decodes one file: RGB uint8 `(height, width, 3)`.

    Raises:
        ValueError: it cannot be read or decoded; names the file.
    """
    return decode_crop(read_bytes(path), path)


def decode_crop(data: bytes, name: str) -> np.ndarray:
    """Decodes a PNG or JPEG: RGB uint8 `(height, width, 3)`, to the same pixels as OpenCV does for `tfdfd detect`.

    Raises:
        ValueError: the bytes are neither, or are cut short; names `name`.
    """
    try:
        if data[:2] == _JPEG:
            # TensorFlow's default is the fast transform, which is off by up to 15 of 255.
            return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
        return tf.io.decode_png(data, channels=3).numpy()
    except tf.errors.OpError as error:
        raise ValueError(
            f"{printable(name)} ({len(data):,} bytes) cannot be decoded as PNG or JPEG: {error.message}"
        ) from error


def to_network(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """uint8 `(height, width, 3)` to float32 in [0, 1] of `size`, resized as `tfdfd detect` resizes its crops."""
    shape = tf.shape(image)[:2]
    pixels = tf.cast(image, tf.float32) / 255.0

    def resized():
        shrinks = tf.reduce_min(tf.cast(shape, tf.float32) / tf.constant(size, tf.float32)) >= 2
        return tf.cond(
            shrinks,
            lambda: tf.image.resize(pixels, size, method="area"),
            lambda: tf.image.resize(pixels, size, method="bilinear"),
        )

    pixels = tf.cond(tf.reduce_all(shape == tf.constant(size)), lambda: pixels, resized)
    return tf.clip_by_value(tf.ensure_shape(pixels, (*size, 3)), 0.0, 1.0)
