"""Pictures turned upright by EXIF, in TensorFlow operations, as OpenCV turns them for `tfdfd detect`."""

from __future__ import annotations

import tensorflow as tf

# Cameras write EXIF before the picture; no further is looked.
_HEAD = 1 << 16
_ORIENTATION = 0x0112
_LITTLE = ord("I")


def upright(image: tf.Tensor, data: tf.Tensor, mark: bytes) -> tf.Tensor:
    """Turns or mirrors a decoded picture as the EXIF in its file says; without any it is passed on.

    Args:
        image: uint8 `(h, w, 3)`.
        data: string, the file.
        mark: what stands before the EXIF in files of this kind.
    """
    head = tf.strings.substr(data, 0, _HEAD)
    # \C is any byte: a file is no text.
    has_exif = tf.strings.regex_full_match(head, rf"\C*{_escaped(mark)}(II\*\x00|MM\x00\*)\C*")
    return tf.cond(has_exif, lambda: _turned(image, _orientation(head, mark)), lambda: image)


def _escaped(mark):
    return "".join(rf"\x{byte:02x}" for byte in mark)


def _orientation(head, mark):
    """1 to 8 as in EXIF; 1, upright, where nothing of use is said."""
    content = tf.cast(tf.io.decode_raw(head, tf.uint8), tf.int32)
    count = tf.size(content) - len(mark)
    found = tf.reduce_all([content[i : count + i] == byte for i, byte in enumerate(mark)], axis=0)
    begin = tf.cast(tf.where(found)[0, 0], tf.int32) + len(mark)
    exif = tf.concat([content[begin:], tf.zeros(16, tf.int32)], 0)
    little = exif[0] == _LITTLE

    def number(parts):
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


def _turned(image, orientation):
    image = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    for axis, orientations in ((0, (3, 4, 7, 8)), (1, (2, 3, 6, 7))):
        is_mirrored = tf.reduce_any(orientation == tf.constant(orientations))
        image = tf.cond(
            is_mirrored,
            lambda image=image, axis=axis: tf.reverse(image, [axis]),
            lambda image=image: image,
        )
    return image
