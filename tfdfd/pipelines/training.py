"""Batches to train on: in a new order each epoch, the same for the same seed."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfdfd.data.crops import Faces, faces_of
from tfdfd.pipelines.elements import (
    NAMES,
    augmented,
    checked_batch,
    checked_size,
    from_files,
    from_records,
    known_length,
    resized,
)
from tfdfd.pipelines.orders import shuffled, starts
from tfdfd.pipelines.records import shuffled_records
from tfdfd.pipelines.shards import is_packed, open_shards


def train_pipeline(
    faces: str | os.PathLike | Faces,
    size: int | tuple[int, int],
    batch_size: int = 32,
    *,
    split: str | None = "train",
    order: Callable = shuffled,
    seed: int = 0,
    first_epoch: int = 0,
    first_batch: int = 0,
    one_epoch: bool = False,
    augment: str | Callable | None = None,
    cache: bool = False,
    named: bool = False,
) -> tf.data.Dataset:
    """Batches of one epoch; each time it is iterated, the next epoch's.

    Positions are put in order before any file is opened; crops are then read, decoded and resized in parallel. From
    shards, which are read as streams, the order is that of the shards and of a buffer of crops not yet decoded.

    Args:
        faces: `faces.csv` or its folder, a folder with `real/` and `fake/`, `Faces`, or shards of `tfdfd pack`.
        size: what the network takes: side of a square or `(height, width)`.
        batch_size: crops in a batch. The last one may be smaller.
        split: which crops; None takes all, whatever their split.
        order: `shuffled`, `dual(...)`, `various(...)` of `tfdfd.pipelines.orders`, or `balanced`.
        seed: of the order. The same seed gives the same epochs.
        first_epoch: the epoch that the first iteration gives, to continue where a training stopped.
        first_batch: the batch of that epoch that it begins with, from 0. Crops before it are not decoded. The length
            told is that of a whole epoch, which later iterations have.
        one_epoch: every iteration gives the first one again, and the length told is its own: for Keras's `fit`, which
            may look at a batch before it begins, and counts a step too many at a sudden end.
        augment: a policy of `tfdfd.augment` by name: crops are changed in parallel, each by draws that depend on the
            seed, the epoch and its place in it alone, also where a training goes on (see `tfdfd.augment.on_crops`). Or
            what is called on each batch of images, float32 `(batch, height, width, 3)`, and returns the like: a
            function of tensors, or a Keras layer such as `tfdfd.augment` has, which is called with `training=True`.
            Batches pass it one after the other, so that what it draws is reproducible.
        cache: keep decoded crops in memory (their width x height x 3 bytes each); not for shards.
        named: give dicts, see below.

    Returns:
        A dataset of `(image, label)`: image float32 `(batch, height, width, 3)` in [0, 1], label float32 `(batch, 1)`,
        1 = fake. With `named`, of dicts with `image`, `label`, and the strings `path` (as in the table), `method`
        and `video`, `(batch,)` each.

    Raises:
        ValueError: no crops, or none of that split, or arguments that do not fit. A crop that cannot be decoded ends
            the iteration with `tf.errors.InvalidArgumentError`, which names the file; a shard damaged within, with
            `tf.errors.DataLossError` (the same `tfdfd pack` again finds it and writes it anew).
    """
    size, batch_size = checked_size(size), checked_batch(batch_size)
    if is_packed(faces):
        if order is not shuffled or cache:
            raise ValueError(
                f"{faces} holds shards, which are read as streams: no order but `shuffled` and no cache; give the "
                "folder of crops instead."
            )
        shards = open_shards(faces, split)
        count = sum(shard.examples for shard in shards)
        begun = starts(first_epoch, first_batch, -(-count // batch_size), one_epoch)
        elements = from_records(shuffled_records(shards, seed, ((epoch, at * batch_size) for epoch, at in begun)))
    else:
        faces = faces_of(faces, split)
        epoch_of = order(faces.rows, batch_size, seed)
        count = len(epoch_of(0))
        begun = starts(first_epoch, first_batch, -(-count // batch_size), one_epoch)
        elements = from_files(_positions(epoch_of, begun, batch_size), faces, cache, named)

    elements = resized(elements, size)
    if isinstance(augment, str):
        elements, augment = augmented(elements, augment, seed), None

    # Left to itself, a layer within tf.data takes it that nobody trains, and alters nothing.
    arguments = {"training": True} if hasattr(augment, "call") else {}

    def finish(batch):
        image = batch["image"]
        if augment is not None:
            image = tf.ensure_shape(tf.convert_to_tensor(augment(image, **arguments)), (None, *size, 3))
        if not named:
            return image, batch["label"]
        return {"image": image, "label": batch["label"]} | {name: batch[name] for name in NAMES}

    batches = elements.batch(batch_size).map(finish).prefetch(tf.data.AUTOTUNE)
    return known_length(batches, -(-count // batch_size), first_batch, one_epoch)


def _positions(epoch_of, begun, batch_size):
    def draw():
        epoch, batch = next(begun)
        positions = epoch_of(epoch)
        turns = np.stack([np.full(len(positions), epoch), np.arange(len(positions))], axis=1)
        return positions[batch * batch_size :], turns[batch * batch_size :]

    def epoch(_):
        positions, turns = tf.numpy_function(draw, [], [tf.int64, tf.int64])
        return tf.data.Dataset.from_tensor_slices(
            (tf.ensure_shape(positions, (None,)), tf.ensure_shape(turns, (None, 2)))
        )

    return tf.data.Dataset.from_tensors(0).flat_map(epoch)
