"""Recurrent detector of clips: the features of a frame network into an LSTM or GRU (proposed in S0, section 4.2)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import keras
from keras import layers, ops

from tfdfd.models import CLIPS, build
from tfdfd.models.blocks import copy_body, fake_probability
from tfdfd.weights.loading import load_weights
from tfdfd.weights.records import WeightRecord

CELLS = {"lstm": layers.LSTM, "gru": layers.GRU}


def temporal(
    frame_network: keras.Model,
    frames: int = 16,
    cell: str = "lstm",
    units: int = 64,
    dropout: float = 0.2,
    freeze_frames: bool = True,
    name: str = CLIPS,
) -> keras.Model:
    """A recurrent layer over the `features` of a clip's frames, and one score; see `training_stages` for training.

    Args:
        frame_network: a built (usually trained) network of `tfdfd.models`, which is copied, not changed.
        frames: frames per clip, at least 2.
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
    if frames < 2:
        raise ValueError(f"a clip has at least 2 frames; received frames={frames!r}.")
    per_frame = copy_body(frame_network, "frame_network")
    per_frame.trainable = not freeze_frames
    shape = frame_network.input_shape[1:]
    clip = keras.Input((frames, *shape), name="clip")
    # All frames in one batch: TimeDistributed would add the network to the graph once per frame.
    x = per_frame(ops.reshape(clip, (-1, *shape)))  # (batch * frames, n)
    x = ops.reshape(x, (-1, frames, x.shape[-1]))  # (batch, frames, n)
    x = CELLS[cell](units, name="features")(x)  # (batch, units)
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


def load_temporal(record: WeightRecord, path: Path) -> keras.Model:
    """Loads the clip network of a run of the procedure `temporal`.

    Takes the result of `tfdfd.weights.store.locate(RUN)`::

        model = load_temporal(*locate("runs/temporal"))

    Raises:
        ValueError: the weights are of a network that takes single faces, or do not fit.
    """
    if record.model != CLIPS:
        raise ValueError(f"{path} holds weights of {record.model}, which takes single faces: use tfdfd.models.load.")
    arguments = dict(record.arguments)
    try:
        network, frame_arguments = arguments.pop("frame_network"), arguments.pop("frame_arguments")
    except KeyError as error:
        raise ValueError(
            f"the model card of {path} lacks frame_network or frame_arguments, the network of its frames."
        ) from error
    model = temporal(build(network, None, record.input_shape, **frame_arguments), **arguments)
    load_weights(model, record, path)
    return model
