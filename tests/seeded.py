"""Seeded networks and scores, whose numbers are recorded in `tests/records` by `python -m tools.record`.

    python -m tests.seeded NAME...

prints the numbers of networks as JSON, under any Keras backend.
"""

from __future__ import annotations

import json
import math
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras

NETWORKS, METRICS = (Path(__file__).parent / "records" / name for name in ("networks.json", "metrics.json"))
TOLERANCES = {"mean": (1e-3, 0), "deviation": (1e-3, 0), "features": (0, 2e-3), "scores": (0, 1e-3)}
# Not square, so that height and width cannot be confused; each side above every network's minimum.
SHAPE = (96, 112, 3)


def recorded(file: Path = NETWORKS) -> dict[str, Any]:
    """The records of networks or metrics by name."""
    return json.loads(file.read_text("utf-8"))


def agrees(value: Any, record: Any, tolerance: tuple[float, float] = (1e-9, 0)) -> bool:
    """Whether a measured record equals a stored one; floats within a relative or an absolute tolerance.

    `TOLERANCES` has those of a network's outputs, which vary a little between Keras backends and processors.
    """
    if isinstance(record, dict):
        return value.keys() == record.keys() and all(
            agrees(value[key], record[key], TOLERANCES.get(key, tolerance)) for key in record
        )
    if isinstance(record, list):
        return len(value) == len(record) and all(
            agrees(one, other, tolerance) for one, other in zip(value, record, strict=True)
        )
    if isinstance(record, float):
        return math.isclose(value, record, rel_tol=tolerance[0], abs_tol=tolerance[1])
    return value == record


def labels_and_scores() -> tuple[np.ndarray, np.ndarray]:
    """Seeded labels (0 or 1) and P(fake) of 400 examples, 150 of them fake."""
    draw = np.random.default_rng(17)
    labels = draw.permutation(np.arange(400) < 150).astype(int)
    return labels, np.clip(draw.normal(0.4 + 0.25 * labels, 0.2), 0, 1)


def metric_values(labels: np.ndarray, scores: np.ndarray) -> dict[str, float | None]:
    """Every metric by name, at the threshold 0.5; None where it is undefined."""
    from tfdfd.metrics import METRICS as REGISTRY
    from tfdfd.metrics.report import compute_metrics

    values = compute_metrics(labels.tolist(), scores.tolist(), threshold=0.5, resamples=0)
    return {name: values[name]["value"] for name in REGISTRY}


def seeded(name: str) -> keras.Model:
    """The network with weights that depend only on their names and shapes."""
    from tfdfd.models import build
    from tfdfd.weights.saving import named_weights

    model = build(name, input_shape=SHAPE)
    fill(named_weights(model).items())
    # Features grow to millions in the deepest networks; the head takes them in units of their standard deviation.
    head = model.get_layer("fake_probability")
    kernel, bias = head.get_weights()
    head.set_weights([(kernel - kernel.mean()) / features_and_scores(model)[0].std(), bias])
    return model


def fill(named_weights: Iterable[tuple[str, Any]]) -> None:
    """Seeded values into `(name, variable)` pairs, of a size at which signals neither vanish nor overflow."""
    for name, weight in named_weights:
        draw = np.random.default_rng(zlib.crc32(name.encode()))
        shape, kind = tuple(weight.shape), name.rsplit("/", 1)[1]
        if kind == "moving_variance":
            values = draw.uniform(0.5, 1.5, shape)
        elif kind == "gamma":
            values = draw.uniform(0.8, 1.2, shape)
        elif len(shape) == 1:
            values = draw.normal(0, 0.1, shape)
        else:
            # A depthwise kernel is (height, width, channels, 1): its inputs are its area.
            inputs = np.prod(shape[:2]) if len(shape) == 4 and shape[3] == 1 else np.prod(shape[:-1])
            values = draw.normal(0, np.sqrt(1.5 / inputs), shape)
        weight.assign(values.astype(np.float32))


def features_and_scores(model: keras.Model) -> list[np.ndarray]:
    """Features and scores of two seeded images, as float64."""
    import keras

    images = np.random.default_rng(11).random((2, *SHAPE), dtype=np.float32)
    both = keras.Model(model.input, [model.get_layer("features").output, model.output])
    return [keras.ops.convert_to_numpy(value).astype(np.float64) for value in both(images, training=False)]


def numbers(model: keras.Model) -> dict[str, Any]:
    """The scores, and of the features the mean, the standard deviation, and six values in units of it."""
    features, scores = features_and_scores(model)
    mean, deviation = float(features.mean()), float(features.std())
    columns = np.linspace(0, features.shape[1] - 1, 6).astype(int)
    return {
        "mean": mean,
        "deviation": deviation,
        "features": ((features[1, columns] - mean) / deviation).tolist(),
        "scores": scores[:, 0].tolist(),
    }


def main(names: list[str]) -> None:
    print(json.dumps({name: numbers(seeded(name)) for name in names}))


if __name__ == "__main__":
    main(sys.argv[1:])
