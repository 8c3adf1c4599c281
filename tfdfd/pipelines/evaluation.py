"""Batches to evaluate on: every crop exactly once, in order."""

from __future__ import annotations

import os

import tensorflow as tf

from tfdfd.data.crops import Faces, faces_of
from tfdfd.pipelines.elements import checked_batch, checked_size, from_files, from_records, known_length, resized
from tfdfd.pipelines.records import records_in_order
from tfdfd.pipelines.shards import is_packed, open_shards


def eval_pipeline(
    faces: str | os.PathLike | Faces,
    size: int | tuple[int, int],
    batch_size: int = 32,
    *,
    split: str | None,
    pad: bool = False,
    named: bool = False,
) -> tf.data.Dataset:
    """Batches of all crops of a split, each crop once, in the order of the table, folder or shards.

    Args:
        faces: as for `train_pipeline`.
        size: what the network takes: side of a square or `(height, width)`.
        batch_size: crops in a batch; none is dropped, so the last batch may be smaller.
        split: which crops; None takes all, whatever their split.
        pad: fill the last batch with black crops of weight 0, for devices that want all batches alike.
        named: give dicts, see below.

    Returns:
        A dataset of `(image, label)`: image float32 `(batch, height, width, 3)` in [0, 1], label float32 `(batch, 1)`,
        1 = fake. With `pad`, of `(image, label, sample_weight)`, the weight float32 `(batch,)`, 0 for filling, and
        else 1. With `named`, of dicts with `image`, `label`, the strings `path` (as in the table), `method` and
        `video`, and with `pad` `sample_weight`.

    Raises:
        ValueError: no crops, or none of that split. A crop that cannot be decoded ends the iteration with
            `tf.errors.InvalidArgumentError`, which names the file; a shard damaged within, with
            `tf.errors.DataLossError` (the same `tfdfd pack` again finds it and writes it anew).
    """
    size, batch_size = checked_size(size), checked_batch(batch_size)
    if is_packed(faces):
        shards = open_shards(faces, split)
        count = sum(shard.examples for shard in shards)
        elements = from_records(records_in_order(shards))
    else:
        faces = faces_of(faces, split)
        count = len(faces.rows)
        elements = from_files(tf.data.Dataset.range(count), faces, False, named)
    return counted_once(resized(elements, size), count, batch_size, pad, named)


def counted_once(elements: tf.data.Dataset, count: int, batch_size: int, pad: bool, named: bool) -> tf.data.Dataset:
    """Batches of `count` elements in their order, as `eval_pipeline` returns them."""
    if pad:
        elements = elements.map(lambda element: element | {"sample_weight": 1.0})
        filling = tf.data.Dataset.from_tensors(
            tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), elements.element_spec)
        )
        elements = elements.concatenate(filling.repeat(-count % batch_size))
    batches = elements.batch(batch_size, drop_remainder=pad)
    if not named:
        keys = ("image", "label", "sample_weight") if pad else ("image", "label")
        batches = batches.map(lambda batch: tuple(batch[key] for key in keys))
    return known_length(batches, -(-count // batch_size)).prefetch(tf.data.AUTOTUNE)
