"""Numbers of a network with weights and input of known seeds, the same under every Keras backend.

    python -m tests.seeded NAME... [--store]

prints them as JSON, or keeps them in `tests/tables/outputs.json`, which the tests compare with. To be stored anew only
when a network is changed on purpose.
"""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path

import numpy as np

STORED = Path(__file__).parent / "tables" / "outputs.json"
# Not square, so that height and width cannot be confused; each side above the largest smallest size.
SHAPE = (96, 112, 3)


def seeded(name: str):
    """The network with weights that depend on nothing but their names and shapes."""
    from tfdfd.models import build
    from tfdfd.weights.saving import named_weights

    model = build(name, input_shape=SHAPE)
    fill(named_weights(model).items())
    # Features grow to millions in the deepest networks; the head takes them in units of their deviation.
    head = model.get_layer("fake_probability")
    kernel, bias = head.get_weights()
    head.set_weights([(kernel - kernel.mean()) / features_and_scores(model)[0].std(), bias])
    return model


def fill(named_weights) -> None:
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


def features_and_scores(model):
    """Of two seeded images, as float64."""
    import keras

    images = np.random.default_rng(11).random((2, *SHAPE), dtype=np.float32)
    both = keras.Model(model.input, [model.get_layer("features").output, model.output])
    return [keras.ops.convert_to_numpy(value).astype(np.float64) for value in both(images, training=False)]


def numbers(model) -> dict:
    """The scores, and the features: mean, deviation, and six of them in units of it."""
    features, scores = features_and_scores(model)
    mean, deviation = features.mean(), features.std()
    places = np.linspace(0, features.shape[1] - 1, 6).astype(int)
    return {
        "mean": mean,
        "deviation": deviation,
        "features": ((features[1, places] - mean) / deviation).tolist(),
        "scores": scores[:, 0].tolist(),
    }


def main(names) -> int:
    store = "--store" in names
    found = {name: numbers(seeded(name)) for name in names if name != "--store"}
    if store:
        known = json.loads(STORED.read_text("utf-8")) if STORED.exists() else {}
        STORED.write_text(json.dumps(known | found, indent=1) + "\n", encoding="utf-8")
    else:
        print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
