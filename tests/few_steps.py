"""A small network after a few training steps with each optimizer, in one run and in two, under any Keras backend.

    python -m tests.few_steps

prints the weights as JSON.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.seeded import fill

if TYPE_CHECKING:
    import keras

EPOCHS = 6
# Name: precision, whether weights depend on a backend's random numbers, arguments of `make_optimizer`.
CASES: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "adam": ("float32", False, {"name": "adam"}),
    "sgdm": ("float32", False, {"name": "sgdm", "loss_scale": True}),
    "radam": ("float32", False, {"name": "radam"}),
    "radam, scaled and recorded": ("float32", False, {"name": "radam", "loss_scale": True, "gradient_flow": True}),
    "everything": (
        "mixed_float16",
        True,
        {"name": "radam", "loss_scale": True, "gradient_noise": 0.01, "gradient_flow": True, "ema": 0.9, "seed": 3},
    ),
}


def small_model(case: str) -> keras.Model:
    """A compiled network from 6 numbers to one, with seeded weights."""
    import keras

    from tfdfd.training.optimizers import DividedEvery, make_optimizer
    from tfdfd.weights.saving import named_weights

    precision, _, arguments = CASES[case]
    image = keras.Input((6,))
    # The gradients of a bias before the norm would be rounding errors only.
    x = keras.layers.Dense(5, use_bias=False, name="first", dtype=precision)(image)
    x = keras.layers.BatchNormalization(name="norm", dtype=precision)(x)
    x = keras.layers.Activation("relu", name="relu", dtype=precision)(x)
    model = keras.Model(image, keras.layers.Dense(1, "sigmoid", name="last", dtype="float32")(x))
    fill(named_weights(model).items())
    rate = DividedEvery(0.05, every=10)
    jit = keras.backend.backend() == "jax"  # as in training
    model.compile(make_optimizer(learning_rate=rate, **arguments), loss="binary_crossentropy", jit_compile=jit)
    model.optimizer.build(model.trainable_variables)
    return model


def train(model: keras.Model, first: int, last: int) -> None:
    """Trains epochs `first` to `last - 1`, of four steps each, on the same data."""
    draw = np.random.default_rng(5)
    inputs = draw.normal(size=(32, 6)).astype("float32")
    labels = (inputs[:, :1] + inputs[:, 1:2] * inputs[:, 2:3] > 0).astype("float32")
    model.fit(inputs, labels, batch_size=8, shuffle=False, initial_epoch=first, epochs=last, verbose=0)


def variables(model: keras.Model) -> list[keras.Variable]:
    """Everything that a training step depends on."""
    return [*model.variables, *model.optimizer.variables]


def values(model: keras.Model) -> list[np.ndarray]:
    return [np.asarray(variable) for variable in variables(model)]


def whole_and_in_parts(case: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Final `variables` of one run, and of a run that moves them to a new model halfway."""
    whole = small_model(case)
    train(whole, 0, EPOCHS)
    first, second = small_model(case), small_model(case)
    train(first, 0, EPOCHS // 2)
    for variable, value in zip(variables(second), values(first), strict=True):
        variable.assign(value)
    train(second, EPOCHS // 2, EPOCHS)
    return values(whole), values(second)


def main() -> None:
    results = {}
    for case in CASES:
        whole, parts = whole_and_in_parts(case)
        results[case] = [[value.tolist() for value in whole], [value.tolist() for value in parts]]
    print(json.dumps(results))


if __name__ == "__main__":
    main()
