"""Batches of clips: several crops of one face each, in the order of time."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfdfd.data.crops import Faces
from tfdfd.pipelines.elements import checked_batch, checked_size, from_files, known_length, resized


def clip_pipeline(
    faces: Faces, positions: np.ndarray, size: int | tuple[int, int], batch_size: int, first_batch: int = 0
) -> tf.data.Dataset:
    """Batches of clips, once through.

    Args:
        faces: the crops.
        positions: of each clip's crops in the rows, int `(clips, frames)`, clips in the order in which they come.
        size: what the network takes: side of a square or `(height, width)`.
        batch_size: clips in a batch. The last one may be smaller.
        first_batch: the batch that it begins with, from 0. Crops before it are not decoded.

    Returns:
        A dataset of `(clip, label)`: clip float32 `(batch, frames, height, width, 3)` in [0, 1], label float32
        `(batch, 1)`, 1 = fake: that of the clip's first crop.

    Raises:
        ValueError: no clips, or no such batch. A crop that cannot be decoded ends the iteration with
            `tf.errors.InvalidArgumentError`, which names the file.
    """
    size, batch_size, positions = checked_size(size), checked_batch(batch_size), np.asarray(positions, np.int64)
    if positions.ndim != 2 or 0 in positions.shape:
        raise ValueError(f"positions must be (clips, frames), neither of them 0; received {positions.shape}.")
    batches = -(-len(positions) // batch_size)
    if not 0 <= first_batch < batches:
        raise ValueError(f"first_batch must be from 0 to {batches - 1}; received {first_batch}.")
    rest = positions[first_batch * batch_size :]
    crops = resized(from_files(tf.data.Dataset.from_tensor_slices(rest.ravel()), faces, False, False), size)
    clips = crops.batch(rest.shape[1], drop_remainder=True).map(lambda clip: (clip["image"], clip["label"][0]))
    return known_length(clips.batch(batch_size), batches - first_batch).prefetch(tf.data.AUTOTUNE)
