"""Encoded face crops to what a network takes, inside the graph: as `tfdfd detect` decodes and resizes them."""

from __future__ import annotations

import tensorflow as tf

from tfdfd.publishing import MAX_PIXELS
from tfdfd.publishing.pixels import resize_levels
from tfdfd.publishing.upright import upright

# Of one call: 0.8 GB of 256 x 256 pixels as floats.
MAX_BATCH = 1024
# Pictures decoded at a time; more would only hold more memory.
_AT_ONCE = 16
# As much of a file as is looked at before it is decoded.
_HEAD = 24
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


def decode_crops(encoded: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """string `(batch,)`, each a JPEG or PNG of any size -> RGB float32 `(batch, height, width, 3)` in [0, 1].

    Grey becomes RGB, an alpha channel is dropped, 16 bits become 8, and what EXIF says is turned is turned upright. Of
    an animated PNG the first picture counts.

    Raises (when the graph runs):
        InvalidArgumentError: something that is neither, is cut short, in CMYK, or of more than `MAX_PIXELS` pixels;
            more than `MAX_BATCH` pictures.
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


def _resized(image, size):
    is_right = tf.reduce_all(tf.shape(image)[:2] == tf.constant(size))
    resized = tf.cond(is_right, lambda: image, lambda: tf.cast(resize_levels(image[None], size)[0], tf.uint8))
    return tf.ensure_shape(resized, (*size, 3))


def _decode(data):
    # By its first bytes alone: TensorFlow's decoders of one format take the others, too.
    head = tf.strings.join([tf.strings.substr(data, 0, _HEAD), "\0" * _HEAD])
    is_jpeg = tf.strings.substr(head, 0, len(_JPEG)) == _JPEG
    return tf.cond(is_jpeg, lambda: _decode_jpeg(data), lambda: _decode_png(data, head))


def _decode_jpeg(data):
    height, width, channels = tf.unstack(tf.image.extract_jpeg_shape(data))
    # OpenCV and TensorFlow turn CMYK into other colours.
    rgb = tf.debugging.Assert(channels <= 3, ["image_bytes holds a CMYK picture; expected RGB or grey"])
    with tf.control_dependencies([rgb, _small_enough(height, width)]):
        data = tf.identity(data)
    # TensorFlow's default is the fast transform, which is off by up to 15 of 255.
    return upright(tf.image.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"), data, b"Exif\0\0")


def _decode_png(data, head):
    # The header is the first of all chunks: its length and name, then width and height.
    known = tf.debugging.Assert(
        (tf.strings.substr(head, 0, len(_PNG)) == _PNG) & (tf.strings.substr(head, 12, 4) == b"IHDR"),
        ["image_bytes holds something that is neither a JPEG nor a PNG"],
    )
    with tf.control_dependencies([known]):
        sides = tf.io.decode_raw(tf.strings.substr(head, 16, 8), tf.int32, little_endian=False)
    with tf.control_dependencies([_small_enough(sides[1], sides[0])]):
        data = tf.identity(data)
    return upright(tf.image.decode_png(data, channels=3), data, b"eXIf")


def _small_enough(height, width):
    # A picture's header is asked before it is decoded.
    height, width = tf.cast(height, tf.int64), tf.cast(width, tf.int64)
    return tf.debugging.Assert(
        (height > 0) & (width > 0) & (height * width <= MAX_PIXELS),
        [f"image_bytes holds a picture of more than {MAX_PIXELS} pixels, or of none"],
    )
