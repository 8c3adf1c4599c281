"""Decoding of JPEG and PNG face crops inside the graph, equal to the decoding of `tfdfd detect`."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfdfd.publishing import MAX_PIXELS
from tfdfd.publishing.pixels import resize_levels

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
    # \C matches any byte; a file is not text.
    has_exif = tf.strings.regex_full_match(head, rf"\C*{_escaped(mark)}(II\*\x00|MM\x00\*)\C*")
    return tf.cond(has_exif, lambda: _turned(image, _orientation(head, mark)), lambda: image)


def _escaped(mark: bytes) -> str:
    return "".join(rf"\x{byte:02x}" for byte in mark)


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
