"""`tf.data` datasets of face crops: training, evaluation, clips and self-blended pairs.

Internally, an element is a dict of `image` (uint8 of any size, or float32 of the network's), `label` (int64) and the
strings `path`, `method`, `video`; in training also of its `turn`, int64 `(epoch, position in the order of the epoch)`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from tfdfd.data.augment import CropAugmenter
from tfdfd.data.crops import Faces, decode_pixels, faces_of, read_pixels
from tfdfd.data.orders import Epochs, Order, shuffled
from tfdfd.data.pair_sets import METHOD, BlendedPairs
from tfdfd.data.tables import FAKE, REAL
from tfdfd.pipelines import is_packed, open_shards, shuffled_records
from tfdfd.process import keep_freed_memory

NAMES = ("path", "method", "video")
Size = int | tuple[int, int]
Source = str | os.PathLike | Faces
_PARALLEL = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}


def train_pipeline(
    faces: Source,
    size: Size,
    batch_size: int = 32,
    *,
    split: str | None = "train",
    order: Order = shuffled,
    seed: int = 0,
    first_epoch: int = 0,
    first_batch: int = 0,
    one_epoch: bool = False,
    augment: str | Callable | None = None,
    cache: bool = False,
    named: bool = False,
) -> tf.data.Dataset:
    """Batches of one epoch to train on; each iteration gives the next epoch's, in a new order.

    Positions are put in order before any file is opened; crops are then read, decoded and resized in parallel. Shards
    are read as streams: their order is that of the shards and of a buffer of encoded crops.

    Args:
        faces: `faces.csv` or its folder, a folder with `real/` and `fake/`, `Faces`, or shards of `tfdfd pack`.
        size: input size of the network: side of a square or `(height, width)`.
        batch_size: crops in a batch. The last one may be smaller.
        split: which crops; None takes all, whatever their split.
        order: `shuffled`, `balanced`, `dual(...)` or `various(...)` of `tfdfd.data.orders`.
        seed: seed of the order. The same seed gives the same epochs.
        first_epoch: the epoch of the first iteration, to resume a training.
        first_batch: the batch of that epoch to begin with, from 0. Crops before it are not decoded. The reported length
            is that of a whole epoch, which later iterations have.
        one_epoch: every iteration repeats the first one, and the reported length is its own: for Keras's `fit`, which
            may look at a batch before it begins, and counts a step too many at a sudden end.
        augment: name of a policy of `tfdfd.data.augment`: crops are augmented in parallel, each with draws that depend
            on the seed, the epoch and its position in it alone, also in a resumed training. Or a function of each batch
            of images, float32 `(batch, height, width, 3)`, such as a Keras layer, which is called with
            `training=True`. Batches pass it one after the other, so that its draws are reproducible.
        cache: keep decoded crops in memory (width x height x 3 bytes each); not for shards.
        named: give dicts, see below.

    Returns:
        A dataset of `(image, label)`: image float32 `(batch, height, width, 3)` in [0, 1], label float32 `(batch, 1)`,
        1 = fake. With `named`, of dicts with `image`, `label`, and the strings `path` (as in the table), `method`
        and `video`, `(batch,)` each.

    Raises:
        ValueError: no crops, or none of that split, or arguments that do not fit. A crop that cannot be decoded ends
            the iteration with `tf.errors.InvalidArgumentError`, which names the file; a damaged shard with
            `tf.errors.DataLossError` (the same `tfdfd pack` again finds it and writes it anew).
    """
    keep_freed_memory()
    size, batch_size = _check_size(size), _check_batch(batch_size)
    if is_packed(faces):
        if order is not shuffled or cache:
            raise ValueError(
                f"{faces} holds shards, which are read as streams: no order but `shuffled` and no cache; give the "
                "folder of crops instead."
            )
        shards = open_shards(faces, split)  # type: ignore[arg-type]
        count = sum(shard.examples for shard in shards)
        starts = _starts(first_epoch, first_batch, -(-count // batch_size), one_epoch)
        skips = ((epoch, batch * batch_size) for epoch, batch in starts)
        elements = _from_records(shuffled_records(shards, seed, skips))
    else:
        faces = faces_of(faces, split)
        positions_of = order(faces.rows, batch_size, seed)
        count = len(positions_of(0))
        starts = _starts(first_epoch, first_batch, -(-count // batch_size), one_epoch)
        elements = _from_files(_positions(positions_of, starts, batch_size), faces, cache, named)

    elements = _resize(elements, size)
    if isinstance(augment, str):
        elements, augment = _augment(elements, CropAugmenter(augment, seed)), None

    # Called without it, a layer within tf.data assumes inference and changes nothing.
    arguments = {"training": True} if hasattr(augment, "call") else {}

    def finish(batch: dict[str, tf.Tensor]) -> Any:
        image = batch["image"]
        if augment is not None:
            image = tf.ensure_shape(tf.convert_to_tensor(augment(image, **arguments)), (None, *size, 3))
        if not named:
            return image, batch["label"]
        return {"image": image, "label": batch["label"]} | {name: batch[name] for name in NAMES}

    batches = elements.batch(batch_size).map(finish).prefetch(tf.data.AUTOTUNE)
    return _known_length(batches, -(-count // batch_size), first_batch, one_epoch)


def eval_pipeline(
    faces: Source,
    size: Size,
    batch_size: int = 32,
    *,
    split: str | None,
    pad: bool = False,
    named: bool = False,
) -> tf.data.Dataset:
    """Batches of all crops of a split, each crop once, in the order of the table, folder or shards.

    Args:
        faces, size: see `train_pipeline`.
        batch_size: crops in a batch; none is dropped, so the last batch may be smaller.
        split: which crops; None takes all, whatever their split.
        pad: fill the last batch with black crops of weight 0, for devices that need batches of equal size.
        named: give dicts, see below.

    Returns:
        A dataset of `(image, label)`: image float32 `(batch, height, width, 3)` in [0, 1], label float32 `(batch, 1)`,
        1 = fake. With `pad`, of `(image, label, sample_weight)`, the weight float32 `(batch,)`, 0 for padding and 1
        otherwise. With `named`, of dicts with `image`, `label`, the strings `path` (as in the table), `method` and
        `video`, and with `pad` `sample_weight`.

    Raises:
        ValueError, tf.errors.InvalidArgumentError, tf.errors.DataLossError: see `train_pipeline`.
    """
    keep_freed_memory()
    size, batch_size = _check_size(size), _check_batch(batch_size)
    if is_packed(faces):
        shards = open_shards(faces, split)  # type: ignore[arg-type]
        count = sum(shard.examples for shard in shards)
        elements = _from_records(tf.data.TFRecordDataset([shard.path for shard in shards]))
    else:
        faces = faces_of(faces, split)
        count = len(faces.rows)
        elements = _from_files(tf.data.Dataset.range(count), faces, False, named)
    return _batch_once(_resize(elements, size), count, batch_size, pad, named)


def clip_pipeline(
    faces: Faces, positions: np.ndarray, size: Size, batch_size: int, first_batch: int = 0
) -> tf.data.Dataset:
    """Batches of clips, several crops of one face each, each clip once.

    Args:
        faces: the crops.
        positions: positions of each clip's crops in the rows, int `(clips, frames)`; clips come in this order.
        size: see `train_pipeline`.
        batch_size: clips in a batch. The last one may be smaller.
        first_batch: the batch to begin with, from 0. Crops before it are not decoded.

    Returns:
        A dataset of `(clip, label)`: clip float32 `(batch, frames, height, width, 3)` in [0, 1], label float32
        `(batch, 1)`, 1 = fake: that of the clip's first crop.

    Raises:
        ValueError: no clips, or no such batch. A crop that cannot be decoded ends the iteration with
            `tf.errors.InvalidArgumentError`, which names the file.
    """
    keep_freed_memory()
    size, batch_size, positions = _check_size(size), _check_batch(batch_size), np.asarray(positions, np.int64)
    if positions.ndim != 2 or 0 in positions.shape:
        raise ValueError(f"positions must be (clips, frames), neither of them 0; received {positions.shape}.")
    batches = -(-len(positions) // batch_size)
    if not 0 <= first_batch < batches:
        raise ValueError(f"first_batch must be from 0 to {batches - 1}; received {first_batch}.")
    rest = positions[first_batch * batch_size :]
    crops = _resize(_from_files(tf.data.Dataset.from_tensor_slices(rest.ravel()), faces, False, False), size)
    clips = crops.batch(rest.shape[1], drop_remainder=True).map(lambda clip: (clip["image"], clip["label"][0]))
    return _known_length(clips.batch(batch_size), batches - first_batch).prefetch(tf.data.AUTOTUNE)


def blended_pipeline(
    faces: Source | BlendedPairs,
    size: Size,
    batch_size: int = 32,
    *,
    split: str | None = "train",
    seed: int = 0,
    first_epoch: int = 0,
    first_batch: int = 0,
    one_epoch: bool = False,
    landmarks: Any = None,
) -> tf.data.Dataset:
    """Batches of one epoch of self-blended pairs; each iteration gives the next epoch's.

    An epoch has each real crop of the split once, in a new order, followed by a new fake made from it: the bytes of
    `BlendedPairs.batches`.

    Args:
        faces: as for `train_pipeline`, but no shards; or `BlendedPairs`, whose size, split and seed are used.
        size: input size of the network: side of a square, or `(height, width)`, which must be equal.
        batch_size: images in a batch, even; real and fake alternate. The last batch of an epoch may be smaller.
        split: which crops; None takes all, whatever their split.
        seed: seed of order and pairs.
        first_epoch, first_batch, one_epoch: see `train_pipeline`.
        landmarks: see `BlendedPairs`.

    Returns:
        A dataset of `(image, label)`: image float32 `(batch, size, size, 3)` in [0, 1], label float32 `(batch, 1)`,
        1 = fake.

    Raises:
        ValueError: no real crops, or arguments that do not fit. A crop that cannot be read ends the iteration with
            `tf.errors.InvalidArgumentError`, which names the file.
    """
    pairs = _pairs_of(faces, size, split, seed, landmarks)
    batches = pairs.batches_of_epoch(batch_size)
    starts = _starts(first_epoch, first_batch, batches, one_epoch)

    def load(position: tf.Tensor, turn: tf.Tensor) -> tf.Tensor:
        images = tf.numpy_function(pairs.pair, [position, turn[0]], tf.uint8)
        return tf.ensure_shape(images, (2, pairs.size, pairs.size, 3))

    def finish(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.cast(tf.reshape(images, (-1, pairs.size, pairs.size, 3)), tf.float32) / 255.0
        return image, tf.tile([[0.0], [1.0]], (tf.shape(images)[0], 1))

    elements = _positions(pairs.order, starts, batch_size // 2).map(load, **_PARALLEL)
    dataset = elements.batch(batch_size // 2).map(finish).prefetch(tf.data.AUTOTUNE)
    return _known_length(dataset, batches, first_batch, one_epoch)


def blended_eval(
    faces: Source | BlendedPairs,
    size: Size,
    batch_size: int = 32,
    *,
    split: str | None,
    seed: int = 0,
    pad: bool = False,
    named: bool = False,
    landmarks: Any = None,
) -> tf.data.Dataset:
    """Batches of one fixed pair of each real crop of a split, real then fake, in the order of the table.

    Arguments and result: see `eval_pipeline` (but no shards) and `blended_pipeline`. With `named`, a fake has the
    method `self-blended`, the `path` of the crop it was made from, and that crop's `video` followed by `#self-blended`,
    so that no video is both real and fake.
    """
    pairs = _pairs_of(faces, size, split, seed, landmarks)
    batch_size = _check_batch(batch_size)

    def names(number: int) -> tuple[np.ndarray, ...]:
        row = pairs.rows[number]
        of_both = (row.file, row.file), (row.method, METHOD), (row.video, f"{row.video}#{METHOD}")
        return tuple(np.array([os.fsencode(text) for text in texts]) for texts in of_both)

    def load(number: tf.Tensor) -> dict[str, tf.Tensor]:
        images = tf.numpy_function(partial(pairs.pair, epoch=None), [number], tf.uint8)
        image = tf.cast(tf.ensure_shape(images, (2, pairs.size, pairs.size, 3)), tf.float32) / 255.0
        element = {"image": image, "label": tf.constant([[float(REAL)], [float(FAKE)]])}
        return element | _strings(names, number, (2,)) if named else element

    elements = tf.data.Dataset.range(len(pairs)).map(load, **_PARALLEL)
    return _batch_once(elements.unbatch(), 2 * len(pairs), batch_size, pad, named)


def to_network(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """uint8 `(height, width, 3)` to float32 in [0, 1] of `size`, resized as `tfdfd detect` resizes its crops."""
    shape = tf.shape(image)[:2]
    pixels = tf.cast(image, tf.float32) / 255.0

    def resized() -> tf.Tensor:
        shrinks = tf.reduce_min(tf.cast(shape, tf.float32) / tf.constant(size, tf.float32)) >= 2
        return tf.cond(
            shrinks,
            lambda: tf.image.resize(pixels, size, method="area"),
            lambda: tf.image.resize(pixels, size, method="bilinear"),
        )

    pixels = tf.cond(tf.reduce_all(shape == tf.constant(size)), lambda: pixels, resized)
    return tf.clip_by_value(tf.ensure_shape(pixels, (*size, 3)), 0.0, 1.0)


def _check_size(size: Size) -> tuple[int, int]:
    """`(height, width)` from itself or from the side of a square."""
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ValueError(f"size must be a number of pixels or (height, width); received {size!r}.")
    return sides


def _check_batch(batch_size: int) -> int:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; received {batch_size}.")
    return batch_size


def _pairs_of(faces: Source | BlendedPairs, size: Size, split: str | None, seed: int, landmarks: Any) -> BlendedPairs:
    if isinstance(faces, BlendedPairs):
        return faces
    keep_freed_memory()
    sides = _check_size(size)
    if len(set(sides)) != 1:
        raise ValueError(f"size must be a square's, as pairs are square; received {size!r}.")
    return BlendedPairs(faces, sides[0], split=split, seed=seed, landmarks=landmarks)


def _starts(first_epoch: int, first_batch: int, batches: int, one_epoch: bool) -> Iterator[tuple[int, int]]:
    """Epoch and first batch of each iteration; the batch is 0 from the second iteration on.

    With `one_epoch`, each iteration is like the first.
    """
    if first_epoch < 0 or not 0 <= first_batch < batches:
        raise ValueError(
            f"first_epoch must be at least 0 and first_batch from 0 to {batches - 1}, an epoch having {batches} "
            f"batches; received {first_epoch} and {first_batch}. After the last batch comes the next epoch's batch 0."
        )
    if one_epoch:
        return itertools.repeat((first_epoch, first_batch))
    return itertools.chain([(first_epoch, first_batch)], zip(itertools.count(first_epoch + 1), itertools.repeat(0)))


def _positions(positions_of: Epochs, starts: Iterator[tuple[int, int]], batch_size: int) -> tf.data.Dataset:
    """Dataset of positions and turns, one epoch per iteration."""

    def draw() -> tuple[np.ndarray, np.ndarray]:
        epoch, batch = next(starts)
        positions = positions_of(epoch)
        turns = np.stack([np.full(len(positions), epoch), np.arange(len(positions))], axis=1)
        return positions[batch * batch_size :], turns[batch * batch_size :]

    def positions_and_turns(_: tf.Tensor) -> tf.data.Dataset:
        positions, turns = tf.numpy_function(draw, [], [tf.int64, tf.int64])
        return tf.data.Dataset.from_tensor_slices(
            (tf.ensure_shape(positions, (None,)), tf.ensure_shape(turns, (None, 2)))
        )

    return tf.data.Dataset.from_tensors(0).flat_map(positions_and_turns)


def _strings(names: Callable[..., Any], position: tf.Tensor, shape: tuple[int, ...]) -> dict[str, tf.Tensor]:
    strings = tf.numpy_function(names, [position], [tf.string] * len(NAMES))
    return {name: tf.ensure_shape(text, shape) for name, text in zip(NAMES, strings, strict=True)}


def _from_files(positions: tf.data.Dataset, faces: Faces, cache: bool, named: bool) -> tf.data.Dataset:
    """Elements of the crops at `positions` (int64, or pairs of one and its turn), decoded in parallel, in this order.

    Decoding is a Python call per crop: only so can an error name its file. Other threads run meanwhile.
    """
    labels = tf.constant([row.label for row in faces.rows], tf.int64)
    kept: dict[int, np.ndarray] = {}

    def pixels(position: Any) -> np.ndarray:
        image = kept.get(position.item())
        if image is None:
            image = read_pixels(faces.path(position))
            if cache:
                kept[position.item()] = image
        return image

    def names(position: int) -> tuple[bytes, ...]:
        row = faces.rows[position]
        return tuple(os.fsencode(text) for text in (row.file, row.method, row.video))

    def load(position: tf.Tensor, turn: Any = None) -> dict[str, tf.Tensor]:
        image = tf.ensure_shape(tf.numpy_function(pixels, [position], tf.uint8), (None, None, 3))
        element = {"image": image, "label": tf.gather(labels, position)}
        if named:
            element |= _strings(names, position, ())
        return element if turn is None else element | {"turn": turn}

    return positions.map(load, **_PARALLEL)


def _from_records(records: tf.data.Dataset) -> tf.data.Dataset:
    """Elements of serialized examples (or pairs of one and its turn), decoded in parallel, in this order."""
    features = {name: tf.io.FixedLenFeature((), tf.string) for name in ("image", *NAMES)}
    features["label"] = tf.io.FixedLenFeature((), tf.int64)

    def pixels(data: bytes, path: bytes) -> np.ndarray:
        return decode_pixels(data, os.fsdecode(path))

    def load(record: tf.Tensor, turn: Any = None) -> dict[str, tf.Tensor]:
        element = tf.io.parse_single_example(record, features)
        image = tf.numpy_function(pixels, [element["image"], element["path"]], tf.uint8)
        element |= {"image": tf.ensure_shape(image, (None, None, 3))}
        return element if turn is None else element | {"turn": turn}

    return records.map(load, **_PARALLEL)


def _resize(elements: tf.data.Dataset, size: Size) -> tf.data.Dataset:
    """Elements with `image` as the network takes it and `label` as float32 `(1,)`, 1 = fake."""

    def resize(element: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        label = tf.cast(element["label"], tf.float32)[None]
        return element | {"image": to_network(element["image"], size), "label": label}  # type: ignore[arg-type]

    return elements.map(resize, **_PARALLEL)


def _augment(elements: tf.data.Dataset, augmenter: CropAugmenter) -> tf.data.Dataset:
    """Elements with the resized `image` augmented for its turn; in parallel, in this order."""

    def change(element: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        image = tf.numpy_function(
            lambda image, turn: augmenter(image, *turn), [element["image"], element["turn"]], tf.float32
        )
        return element | {"image": tf.ensure_shape(image, element["image"].shape)}

    return elements.map(change, **_PARALLEL)


def _batch_once(elements: tf.data.Dataset, count: int, batch_size: int, pad: bool, named: bool) -> tf.data.Dataset:
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
    return _known_length(batches, -(-count // batch_size)).prefetch(tf.data.AUTOTUNE)


def _known_length(
    dataset: tf.data.Dataset, batches: int, first_batch: int = 0, one_epoch: bool = False
) -> tf.data.Dataset:
    """Sets the number of batches of an epoch, which flattening hides from Keras's progress bar.

    Where only the first epoch is partial, the length is still a whole epoch's; nothing may follow this call then.
    """
    # All cores work from the first batch on. TensorFlow's search for a better number, now and then, lets the end of an
    # epoch wait for its next look, which is after as long as the epoch took.
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = dataset.with_options(options)
    if one_epoch:
        batches, first_batch = batches - first_batch, 0
    if not first_batch:
        return dataset.apply(tf.data.experimental.assert_cardinality(batches))
    # An asserted length would be an error at the end of the shorter epoch.
    dataset.cardinality = lambda: tf.constant(batches, tf.int64)
    return dataset
