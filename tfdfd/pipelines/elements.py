"""What pipelines have in common: crops at given positions or in shards as elements, and elements as batches.

An element is a dict of `image` (uint8 of any size, or float32 of the network's), `label` (int64) and the strings
`path`, `method`, `video`; in training also of its `turn`, int64 `(epoch, place in the order of the epoch)`.
"""

from __future__ import annotations

import os

import tensorflow as tf

from tfdfd.data.crops import Faces
from tfdfd.data.s2_policy import POLICIES, S2Policy
from tfdfd.pipelines.decoding import decode_crop, read_crop, to_network

NAMES = ("path", "method", "video")


def checked_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """`(height, width)` from itself or from the side of a square."""
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ValueError(f"size must be a number of pixels or (height, width); received {size!r}.")
    return sides


def checked_batch(batch_size: int) -> int:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; received {batch_size}.")
    return batch_size


def from_files(positions: tf.data.Dataset, faces: Faces, cache: bool, named: bool) -> tf.data.Dataset:
    """Crops at `positions` (int64, or pairs of one and its turn), decoded in parallel, in this order.

    Decoding is called from Python, one call a crop: only so can an error name its file. TensorFlow lets other threads
    run meanwhile.
    """
    labels = tf.constant([row.label for row in faces.rows], tf.int64)
    kept = {}

    def pixels(position):
        image = kept.get(position.item())
        if image is None:
            image = read_crop(faces.path(position))
            if cache:
                kept[position.item()] = image
        return image

    def names(position):
        row = faces.rows[position]
        return tuple(os.fsencode(text) for text in (row.file, row.method, row.video))

    def load(position, turn=None):
        image = tf.ensure_shape(tf.numpy_function(pixels, [position], tf.uint8), (None, None, 3))
        element = {"image": image, "label": tf.gather(labels, position)}
        if named:
            strings = tf.numpy_function(names, [position], [tf.string] * len(NAMES))
            element |= {name: tf.ensure_shape(text, ()) for name, text in zip(NAMES, strings, strict=True)}
        return element if turn is None else element | {"turn": turn}

    return positions.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def from_records(records: tf.data.Dataset) -> tf.data.Dataset:
    """Serialised examples of shards (or pairs of one and its turn) as elements, decoded in parallel, in this order."""
    features = {name: tf.io.FixedLenFeature((), tf.string) for name in ("image", *NAMES)}
    features["label"] = tf.io.FixedLenFeature((), tf.int64)

    def pixels(data, path):
        return decode_crop(data, os.fsdecode(path))

    def load(record, turn=None):
        element = tf.io.parse_single_example(record, features)
        image = tf.numpy_function(pixels, [element["image"], element["path"]], tf.uint8)
        element |= {"image": tf.ensure_shape(image, (None, None, 3))}
        return element if turn is None else element | {"turn": turn}

    return records.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def resized(elements: tf.data.Dataset, size: tuple[int, int]) -> tf.data.Dataset:
    """The same with `image` as the network takes it and `label` as float32 `(1,)`, 1 = fake."""

    def resize(element):
        label = tf.cast(element["label"], tf.float32)[None]
        return element | {"image": to_network(element["image"], size), "label": label}

    return elements.map(resize, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def augmented(elements: tf.data.Dataset, name: str, seed: int) -> tf.data.Dataset:
    """The same with `image`, already resized, as a named policy makes it for its turn; in parallel, in this order."""
    if name in POLICIES:
        augment = S2Policy(seed, name)
    else:
        from tfdfd.augment.on_crops import OnCrops  # brings Keras with it, which nothing else here needs

        augment = OnCrops(name, seed)

    def changed(image, turn):
        return augment(image, *turn)

    def change(element):
        image = tf.numpy_function(changed, [element["image"], element["turn"]], tf.float32)
        return element | {"image": tf.ensure_shape(image, element["image"].shape)}

    return elements.map(change, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def known_length(
    dataset: tf.data.Dataset, batches: int, first_batch: int = 0, one_epoch: bool = False
) -> tf.data.Dataset:
    """Tells how many batches an epoch has, which flattening hides from Keras's progress bar.

    Where only the first epoch is a part of one, the length told is still a whole epoch's; to be called last then.
    """
    if one_epoch:
        batches, first_batch = batches - first_batch, 0
    if not first_batch:
        return dataset.apply(tf.data.experimental.assert_cardinality(batches))
    # An asserted length would be an error at the end of the shorter epoch.
    dataset.cardinality = lambda: tf.constant(batches, tf.int64)
    return dataset
