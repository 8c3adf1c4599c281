"""Batches of self-blended pairs: to train on real crops alone, and to evaluate on fakes that are the same each time."""

from __future__ import annotations

import os
from functools import partial

import numpy as np
import tensorflow as tf

from tfdfd.data.blended_pairs import METHOD, BlendedPairs
from tfdfd.data.crops import Faces
from tfdfd.data.tables import FAKE, REAL
from tfdfd.pipelines.elements import NAMES, checked_batch, known_length
from tfdfd.pipelines.evaluation import counted_once
from tfdfd.pipelines.orders import starts


def blended_pipeline(
    faces: str | os.PathLike | Faces | BlendedPairs,
    size: int | tuple[int, int],
    batch_size: int = 32,
    *,
    split: str | None = "train",
    seed: int = 0,
    first_epoch: int = 0,
    first_batch: int = 0,
    one_epoch: bool = False,
    landmarks=None,
) -> tf.data.Dataset:
    """Batches of one epoch; each time it is iterated, the next epoch's: the bytes of `BlendedPairs.batches`.

    An epoch has each real crop of the split once, in a new order, and beside it a fake made of it anew.

    Args:
        faces: as for `train_pipeline`, but no shards; or `BlendedPairs`, whose size, split and seed hold.
        size: what the network takes: side of a square, or `(height, width)`, which must be alike.
        batch_size: images in a batch, even; real and fake in turn. The last batch of an epoch may be smaller.
        split: which crops; None takes all, whatever their split.
        seed: of order and pairs.
        first_epoch: the epoch that the first iteration gives, to continue where a training stopped.
        first_batch: the batch of that epoch that it begins with, as for `train_pipeline`.
        one_epoch: as for `train_pipeline`.
        landmarks: as for `BlendedPairs`.

    Returns:
        A dataset of `(image, label)`: image float32 `(batch, size, size, 3)` in [0, 1], label float32 `(batch, 1)`,
        1 = fake.

    Raises:
        ValueError: no real crops, or arguments that do not fit. A crop that cannot be read ends the iteration with
            `tf.errors.InvalidArgumentError`, which names the file.
    """
    pairs = _pairs_of(faces, size, split, seed, landmarks)
    batches = pairs.batches_of_epoch(batch_size)
    begun = starts(first_epoch, first_batch, batches, one_epoch)

    def draw():
        epoch, batch = next(begun)
        crops = pairs.order(epoch)[batch * (batch_size // 2) :]
        return np.stack([crops, np.full_like(crops, epoch)], axis=1)

    def epoch(_):
        places = tf.ensure_shape(tf.numpy_function(draw, [], tf.int64), (None, 2))
        return tf.data.Dataset.from_tensor_slices(places)

    def make(place):
        made = tf.numpy_function(pairs.pair, [place[0], place[1]], tf.uint8)
        return tf.ensure_shape(made, (2, pairs.size, pairs.size, 3))

    def finish(made):
        image = tf.cast(tf.reshape(made, (-1, pairs.size, pairs.size, 3)), tf.float32) / 255.0
        return image, tf.tile([[0.0], [1.0]], (tf.shape(made)[0], 1))

    elements = tf.data.Dataset.from_tensors(0).flat_map(epoch)
    elements = elements.map(make, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = elements.batch(batch_size // 2).map(finish).prefetch(tf.data.AUTOTUNE)
    return known_length(dataset, batches, first_batch, one_epoch)


def blended_eval(
    faces: str | os.PathLike | Faces | BlendedPairs,
    size: int | tuple[int, int],
    batch_size: int = 32,
    *,
    split: str | None,
    seed: int = 0,
    pad: bool = False,
    named: bool = False,
    landmarks=None,
) -> tf.data.Dataset:
    """Batches of one fixed pair of each real crop of a split, real then fake, in the order of the table.

    Arguments and what is returned: as of `eval_pipeline` (but no shards) and `blended_pipeline`. With `named`, a fake
    has the method `self-blended`, the `path` of the crop it was made from, and that crop's `video` with
    `#self-blended` behind it, so that no video is both real and fake.
    """
    pairs = _pairs_of(faces, size, split, seed, landmarks)
    batch_size = checked_batch(batch_size)

    def names(number):
        row = pairs.rows[number]
        of_both = (row.file, row.file), (row.method, METHOD), (row.video, f"{row.video}#{METHOD}")
        return tuple(np.array([os.fsencode(text) for text in texts]) for texts in of_both)

    def load(number):
        made = tf.numpy_function(partial(pairs.pair, epoch=None), [number], tf.uint8)
        image = tf.cast(tf.ensure_shape(made, (2, pairs.size, pairs.size, 3)), tf.float32) / 255.0
        elements = {"image": image, "label": tf.constant([[float(REAL)], [float(FAKE)]])}
        if named:
            strings = tf.numpy_function(names, [number], [tf.string] * len(NAMES))
            elements |= {name: tf.ensure_shape(texts, (2,)) for name, texts in zip(NAMES, strings, strict=True)}
        return elements

    elements = tf.data.Dataset.range(len(pairs)).map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return counted_once(elements.unbatch(), 2 * len(pairs), batch_size, pad, named)


def _pairs_of(faces, size, split, seed, landmarks):
    if isinstance(faces, BlendedPairs):
        return faces
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(set(sides)) != 1:
        raise ValueError(f"size must be a square's, as pairs are square; received {size!r}.")
    return BlendedPairs(faces, sides[0], split=split, seed=seed, landmarks=landmarks)
