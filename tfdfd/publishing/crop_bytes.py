"""Encoded face crops to what a network takes, inside the graph: as `tfdfd detect` decodes and resizes them."""

from __future__ import annotations

import tensorflow as tf

from tfdfd.publishing.resizing import resize_crop

# Of one crop: 50 MB decoded. A picture's header is asked before it is decoded.
MAX_PIXELS = 4096 * 4096
# Of one call: 0.8 GB of 256 x 256 pixels as floats.
MAX_BATCH = 1024
# Pictures decoded at a time; more would only hold more memory.
_AT_ONCE = 16
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


def decode_crops(encoded: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """string `(batch,)`, each a JPEG or PNG of any size -> RGB float32 `(batch, height, width, 3)` in [0, 1].

    Grey becomes RGB, an alpha channel is dropped, 16 bits become 8. Of an animated PNG the first picture counts.

    Raises (when the graph runs):
        InvalidArgumentError: something that is neither, cut short, or of more than `MAX_PIXELS` pixels; more than
            `MAX_BATCH` pictures.
    """
    few = tf.debugging.Assert(
        tf.size(encoded) <= MAX_BATCH, [f"image_bytes holds more than {MAX_BATCH} pictures; send fewer a call"]
    )
    with tf.control_dependencies([few]):
        encoded = tf.identity(encoded)
    pixels = tf.map_fn(
        lambda data: resize_crop(_decode(data), size),
        encoded,
        fn_output_signature=tf.TensorSpec((*size, 3), tf.uint8),
        parallel_iterations=_AT_ONCE,
    )
    return tf.cast(pixels, tf.float32) / 255.0


def _decode(data):
    # By its first bytes alone: TensorFlow's decoders of one format take the others, too.
    return tf.cond(
        tf.strings.substr(data, 0, len(_JPEG)) == _JPEG,
        lambda: _decode_jpeg(data),
        lambda: _decode_png(data),
    )


def _decode_jpeg(data):
    shape = tf.image.extract_jpeg_shape(data)
    with tf.control_dependencies([_small_enough(shape[0], shape[1])]):
        data = tf.identity(data)
    # TensorFlow's default is the fast transform, which is off by up to 15 of 255.
    return tf.image.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")


def _decode_png(data):
    # Width and height are the first of the header, which is the first of all chunks.
    known = tf.strings.substr(data, 0, len(_PNG)) == _PNG
    known = tf.debugging.Assert(
        known & (tf.strings.length(data) > 24) & (tf.strings.substr(data, 12, 4) == b"IHDR"),
        ["image_bytes holds something that is neither a JPEG nor a PNG"],
    )
    with tf.control_dependencies([known]):
        data = tf.identity(data)
    sides = tf.io.decode_raw(tf.strings.substr(data, 16, 8), tf.int32, little_endian=False)
    with tf.control_dependencies([_small_enough(sides[1], sides[0])]):
        data = tf.identity(data)
    return tf.image.decode_png(data, channels=3)


def _small_enough(height, width):
    height, width = tf.cast(height, tf.int64), tf.cast(width, tf.int64)
    return tf.debugging.Assert(
        (height > 0) & (width > 0) & (height * width <= MAX_PIXELS),
        [f"image_bytes holds a picture of more than {MAX_PIXELS} pixels, or of none"],
    )
