"""A recurrent detector over the frames of a clip: the wish of S0 (section 4.2), the classic CNN and RNN."""

from __future__ import annotations

from pathlib import Path

import keras
from keras import layers, ops

from tfdfd.models import CLIPS, build
from tfdfd.models.blocks import copy_body, fake_probability
from tfdfd.weights.loading import load_weights
from tfdfd.weights.records import WeightRecord

CELLS = {"lstm": layers.LSTM, "gru": layers.GRU}


def temporal(frame_network, frames=16, cell="lstm", units=64, dropout=0.2, freeze_frames=True, name=CLIPS):
    """The `features` of a frame network over a clip, into a recurrent layer, into one score.

    For its training see `training_stages`.

    Args:
        frame_network: a built network of `tfdfd.models` (trained, as a rule), copied, not changed.
        frames: frames of a clip, at least 2.
        cell: `"lstm"` or `"gru"`.
        units: width of the recurrent layer.
        dropout: share of its output dropped before the classifier, in [0, 1).
        freeze_frames: whether the copy of the frame network is frozen; its norms then keep their statistics.
        name: name of the model.

    Returns:
        A model of clips, RGB float32 in [0, 1], `(batch, frames, height, width, 3)`, in the order of time, to P(fake)
        `(batch, 1)`. Its layers `features` and `fake_probability` are `(batch, units)` and `(batch, 1)`.

    Raises:
        ValueError: the network has no features, or an argument is none of its values.
    """
    if cell not in CELLS:
        raise ValueError(f"cell must be one of {', '.join(CELLS)}; received {cell!r}.")
    if frames < 2:
        raise ValueError(f"a clip has at least 2 frames; received frames={frames!r}.")
    per_frame = copy_body(frame_network, "frame_network")
    per_frame.trainable = not freeze_frames
    shape = frame_network.input_shape[1:]
    clip = keras.Input((frames, *shape), name="clip")
    # One batch of all frames: a loop over time (TimeDistributed) would put the network into the graph once a frame.
    x = per_frame(ops.reshape(clip, (-1, *shape)))  # (batch * frames, n)
    x = ops.reshape(x, (-1, frames, x.shape[-1]))  # (batch, frames, n)
    x = CELLS[cell](units, name="features")(x)  # (batch, units)
    return keras.Model(clip, fake_probability(x, dropout), name=name)


def training_stages(model):
    """The recipe: first what is new, then everything, at a hundredth of the rate.

    Yields `(name, learning rate)`, with the frame network frozen and then not; compile and fit at each::

        for stage, rate in training_stages(model):
            model.compile(keras.optimizers.Adam(rate), "binary_crossentropy")
            model.fit(clips, ...)
    """
    frame_network = model.get_layer("frame_network")
    for stage, trainable, rate in (("head", False, 1e-3), ("everything", True, 1e-5)):
        frame_network.trainable = trainable
        yield stage, rate


def load_temporal(record: WeightRecord, path: Path) -> keras.Model:
    """The network of clips that a run of the procedure `temporal` has made.

    Takes what `tfdfd.weights.store.locate(RUN)` gives::

        model = load_temporal(*locate("runs/temporal"))

    Raises:
        ValueError: the weights are of a network of single faces, or do not fit.
    """
    if record.model != CLIPS:
        raise ValueError(f"{path} holds weights of {record.model}, which takes single faces: use tfdfd.models.load.")
    arguments = dict(record.arguments)
    try:
        network, of_network = arguments.pop("frame_network"), arguments.pop("frame_arguments")
    except KeyError as error:
        raise ValueError(f"the model card of {path} does not say which network its frames go through.") from error
    model = temporal(build(network, None, record.input_shape, **of_network), **arguments)
    load_weights(model, record, path)
    return model
