"""Recurrent detector of clips: the features of a frame network into an LSTM or GRU (proposed in S0, section 4.2)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import keras
from keras import layers, ops

from tfdfd.models import CLIP_FRAMES, CLIPS, build, check_clip_frames
from tfdfd.models.blocks import copy_body, fake_probability

CELLS = {"lstm": layers.LSTM, "gru": layers.GRU}


def temporal(
    frame_network: keras.Model,
    frames: int = CLIP_FRAMES,
    cell: str = "lstm",
    units: int = 64,
    dropout: float = 0.2,
    freeze_frames: bool = True,
    name: str = CLIPS,
) -> keras.Model:
    """A recurrent layer over the `features` of a clip's frames, and one score; see `training_stages` for training.

    Args:
        frame_network: a built (usually trained) network of `tfdfd.models`, which is copied, not changed.
        frames: frames per clip, from 2 to 256.
        cell: `"lstm"` or `"gru"`.
        units: width of the recurrent layer.
        dropout: share of its output dropped before the classifier, in [0, 1).
        freeze_frames: whether to freeze the copy of the frame network; its norms then keep their statistics.
        name: name of the model.

    Returns:
        A model that takes clips, RGB float32 in [0, 1], `(batch, frames, height, width, 3)`, frames in order of time,
        and returns P(fake), `(batch, 1)`. Its layer `features` is `(batch, units)`.

    Raises:
        ValueError: `frame_network` has no layer `features`, or `cell` or `frames` has another value.
    """
    if cell not in CELLS:
        raise ValueError(f"cell must be one of {', '.join(CELLS)}; received {cell!r}.")
    check_clip_frames(frames)
    per_frame = copy_body(frame_network, "frame_network")
    per_frame.trainable = not freeze_frames
    shape = frame_network.input_shape[1:]
    clip = keras.Input((frames, *shape), name="image")
    # All frames in one batch: TimeDistributed would add the network to the graph once per frame.
    x = per_frame(ops.reshape(clip, (-1, *shape)))  # (batch * frames, n)
    x = ops.reshape(x, (-1, frames, x.shape[-1]))  # (batch, frames, n)
    # Unrolled, since LiteRT, ONNX and OpenVINO do not convert the loop.
    x = CELLS[cell](units, unroll=True, name="features")(x)  # (batch, units)
    return keras.Model(clip, fake_probability(x, dropout), name=name)


def training_stages(model: keras.Model) -> Iterator[tuple[str, float]]:
    """The stages of training: first the new layers, then everything at a hundredth of the learning rate.

    Yields `(name, learning rate)` with the frame network frozen, then unfrozen. Compile and fit at each stage::

        for stage, rate in training_stages(model):
            model.compile(keras.optimizers.Adam(rate), "binary_crossentropy")
            model.fit(clips, ...)
    """
    frame_network = model.get_layer("frame_network")
    for stage, trainable, rate in (("head", False, 1e-3), ("everything", True, 1e-5)):
        frame_network.trainable = trainable
        yield stage, rate


def build_temporal(
    input_shape: tuple[int, int, int] | None,
    frame_network: str,
    frame_arguments: dict[str, Any] | None = None,
    **arguments: Any,
) -> keras.Model:
    """Builds a clip network from the facts in its model card, with random weights.

    Args:
        input_shape: `(height, width, 3)` of a frame; None for the published size of the frame network.
        frame_network: name of the frame network in `tfdfd.models`.
        frame_arguments: arguments of its builder that differ from its defaults.
        **arguments: arguments of `temporal`.

    Raises:
        ValueError: as `temporal` and `tfdfd.models.build`; or an argument is unknown.
    """
    accepted = [name for name in inspect.signature(temporal).parameters if name != "frame_network"]
    for argument in arguments:
        if argument not in accepted:
            raise ValueError(f"{CLIPS} takes the arguments {', '.join(accepted)}; received {argument!r}.")
    return temporal(build(frame_network, None, input_shape, **(frame_arguments or {})), **arguments)
