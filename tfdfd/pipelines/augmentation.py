"""Keras layer of the augmentation policies."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfdfd.data.augment import CropAugmenter


@keras.saving.register_keras_serializable(package="tfdfd")
class Augmentation(keras.layers.Layer):
    """A policy of `tfdfd.data.augment` as a layer; changes images with `training=True` only.

    Images are computed on the host by `CropAugmenter`: each training call counts as an epoch, and an image's position
    is its index in the batch. The same seed gives the same sequence. In `tf.data`, parallel calls of `map` come in no
    fixed order: leave out `num_parallel_calls` where a run must be reproducible.

    Args:
        policy: one of `tfdfd.data.augment.POLICIES`.
        seed: integer, at least 0; None draws another sequence in each run.
        **kwargs: of a Keras layer; the dtype is always float32.

    Input and output: float32 `([batch,] height, width, 3)`, RGB in [0, 1].

    Raises:
        ValueError: an unknown policy, an invalid seed or another shape.
    """

    def __init__(self, policy: str, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs | {"dtype": "float32"})
        self.policy, self.seed = policy, seed
        self._augment = CropAugmenter(policy, int(np.random.SeedSequence().entropy) if seed is None else seed)  # type: ignore[arg-type]
        self._calls = itertools.count()
        self.supports_jit = False

    def call(self, image: Any, training: bool = False) -> Any:
        self.compute_output_shape(image.shape)
        image = ops.cast(image, "float32")
        if not training:
            return image
        if keras.backend.backend() != "tensorflow":
            return ops.convert_to_tensor(self._change(ops.convert_to_numpy(image)))
        import tensorflow as tf

        return tf.ensure_shape(tf.numpy_function(self._change, [image], tf.float32), image.shape)

    def _change(self, images: np.ndarray) -> np.ndarray:
        batch, number = images.reshape(-1, *images.shape[-3:]), next(self._calls)
        return np.stack([self._augment(image, number, place) for place, image in enumerate(batch)]).reshape(
            images.shape
        )

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        if len(input_shape) not in (3, 4) or input_shape[-1] != 3:
            raise ValueError(
                f"{self.name} takes images of shape ([batch,] height, width, 3); received: {tuple(input_shape)}."
            )
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"policy": self.policy, "seed": self.seed}
