"""A network for LiteRT in whole numbers of 8 bits: a quarter of the bytes, and P(fake) that is near, not equal."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np

from tfdfd.files import write_atomically
from tfdfd.pruning.equalised import equalised
from tfdfd.publishing.saved_model import write_saved_model

# How far P(fake) of the quantised network may be from the Keras model's: of any crop, and on average. Traces of
# blending are as faint as the rounding of 8 bits.
LARGEST, MEAN = 0.35, 0.07
# As many as LiteRT's guide asks for; more change the ranges of values little.
REPRESENTATIVE = 200


def quantise_int8(
    model: keras.Model, representative: np.ndarray, batches: Iterable[np.ndarray], path: str | os.PathLike
) -> dict:
    """Writes `model` as a LiteRT file whose weights and activations are int8, input and output float32 as they were.

    Ranges of values are measured on representative crops (post-training quantisation); the file is opened again and
    asked about other crops before it is kept.

    Args:
        model: of `tfdfd.models`, with weights.
        representative: crops as the network will see them, float32 in [0, 1], `(n, height, width, 3)`; of the training
            split.
        batches: of other crops, of the same form, that both are compared on.
        path: of the file, `.tflite`.

    Returns:
        `apart`, `apart_mean`: largest and mean distance of P(fake); `scores` and `expected`: P(fake) of the crops by
        the file and by the Keras model, float64 `(n,)`.

    Raises:
        ValueError: LiteRT is not installed or cannot take a layer, a number is none, or P(fake) is more than `LARGEST`
            apart for a crop or more than `MEAN` on average; nothing is written.
    """
    runtime = _runtime()
    representative = representative[:REPRESENTATIVE]
    data = _converted(equalised(model, representative), representative)
    # LiteRT takes the file's bytes, so that what is proved is what is written.
    interpreter = runtime.Interpreter(model_content=data)
    run = interpreter.get_signature_runner("serving_default")
    expected, found = [], []
    for batch in batches:
        expected.append(keras.ops.convert_to_numpy(model(batch, training=False)))
        found.append(run(image=batch)["fake_probability"])
    expected, found = (np.concatenate(several).astype(np.float64).reshape(-1) for several in (expected, found))
    apart = np.abs(expected - found)
    if not (apart.max() <= LARGEST and apart.mean() <= MEAN):  # NaN is not either
        raise ValueError(
            f"in 8 bits {model.name} scores up to {apart.max():.3f} apart, {apart.mean():.4f} on average, on "
            f"{len(found):,} crops; {LARGEST} and {MEAN} are allowed. Leave it in float32."
        )
    write_atomically(path, data)
    return {"apart": float(apart.max()), "apart_mean": float(apart.mean()), "scores": found, "expected": expected}


def _converted(model, representative):
    import tensorflow as tf

    with tempfile.TemporaryDirectory(prefix="tfdfd-") as folder:
        # Whole numbers of 8 bits hold no NaN, so that there is nothing to check.
        write_saved_model(model, Path(folder), any_size=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([crop[None]] for crop in representative)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        try:
            return converter.convert()
        except Exception as error:  # of the converter's own classes, which TensorFlow does not name
            last = str(error).strip().splitlines()[-1]
            raise ValueError(f"LiteRT cannot take {model.name} in 8 bits: {type(error).__name__}: {last}") from error


def _runtime():
    try:
        return importlib.import_module("ai_edge_litert.interpreter")
    except ImportError as error:
        raise ValueError("a network in 8 bits needs ai-edge-litert: run pip install 'tfdfd[prune]'.") from error
