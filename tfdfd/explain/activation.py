"""What a network looks for, without an input: activation maximization, and the kernels of its first layer (S1)."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from tfdfd.explain.gradients import FEATURES, HEAD, differentiated, run

# Of the objective f(x) - LAMBDA ||x||_P.
LAMBDA, P = 10.0, 6
NEURONS = 4
# Of the ascent; the rate is the root mean square of a step's change.
STEPS, RATE = 100, 0.01
# Where the ascent begins: noise around mid-gray.
_DARKEST, _BRIGHTEST = 0.4, 0.6


@dataclass(frozen=True)
class Maximized:
    """The input that maximizes a neuron.

    Attributes:
        neuron: number of the neuron in the last hidden layer.
        weight: its weight in the head: above 0 its activation speaks for fake, below 0 for real.
        image: float32 `(size, size, 3)` in [0, 1].
        start, end: activation of the first and of this image.
    """

    neuron: int
    weight: float
    image: np.ndarray
    start: float
    end: float


def head_weights(model: keras.Model) -> np.ndarray:
    """The weight of each neuron of the last hidden layer towards fake, float32 `(n,)`.

    Raises:
        ValueError: the head is no dense layer.
    """
    head = model.get_layer(HEAD)
    if not isinstance(head, keras.layers.Dense):
        raise ValueError(
            f"activation needs a network whose head weighs neurons; that of {model.name} is {type(head).__name__}. "
            "Use another method."
        )
    return ops.convert_to_numpy(head.kernel)[:, 0]


def choose_neurons(model: keras.Model, count: int = NEURONS) -> list[int]:
    """The neurons of the largest weights: up to `count` towards fake, then up to `count` towards real."""
    weights = head_weights(model)
    order = np.argsort(-np.abs(weights), kind="stable")
    chosen = [[int(i) for i in order if weights[i] * sign > 0][:count] for sign in (1, -1)]
    return chosen[0] + chosen[1]


def maximize(
    model: keras.Model,
    neurons: list[int] | None = None,
    *,
    steps: int = STEPS,
    rate: float = RATE,
    penalty: float = LAMBDA,
    power: int = P,
    seed: int = 0,
) -> list[Maximized]:
    """Images that maximize f(x) - λ‖x‖p of neurons of the last hidden layer, by gradient ascent from noise.

    x are the pixels as the network takes them, in [0, 1]; each step ends there. Of all steps the image of the highest
    objective is kept.

    Args:
        model: of `tfdfd.models.build`.
        neurons: their numbers; None: `choose_neurons`.
        steps: of the ascent.
        rate: root mean square of the change of a step.
        penalty: λ.
        power: p, even.
        seed: of the noise.

    Raises:
        ValueError: a neuron that is not there, or as of `head_weights`.
    """
    weights = head_weights(model)
    neurons = choose_neurons(model) if neurons is None else neurons
    wrong = [neuron for neuron in neurons if not 0 <= neuron < len(weights)]
    if wrong or not neurons:
        raise ValueError(f"{model.name} has the neurons 0 to {len(weights) - 1}; received {wrong or neurons}.")
    one = np.random.default_rng(seed).uniform(_DARKEST, _BRIGHTEST, model.input_shape[1:]).astype(np.float32)
    x = np.repeat(one[None], len(neurons), axis=0)
    chosen = np.eye(len(weights), dtype=np.float32)[neurons]

    def activation(images):
        return ops.sum(_features(model, images) * chosen, axis=1)

    gradients_of = differentiated(activation, compiled=True)
    best_objective, best, end, start = np.full(len(x), -np.inf), x.copy(), np.zeros(len(x)), None
    for step in range(1, steps + 2):
        values, (gradient,) = gradients_of(x)
        start = values if start is None else start
        norm = np.linalg.norm(x.reshape(len(x), -1).astype(np.float64), ord=power, axis=1)
        better = values - penalty * norm > best_objective
        best[better], end[better] = x[better], values[better]
        best_objective = np.where(better, values - penalty * norm, best_objective)
        if step > steps:
            break
        # d||x||_p / dx = (x / ||x||_p)^(p - 1) for x from 0.
        slope = (x / np.maximum(norm, 1e-12)[:, None, None, None]) ** (power - 1)
        gradient = gradient - np.float32(penalty) * slope.astype(np.float32)
        length = np.sqrt(np.mean(gradient**2, axis=(1, 2, 3), keepdims=True))
        x = np.clip(x + rate * gradient / np.maximum(length, 1e-12), 0, 1).astype(np.float32)
    return [
        Maximized(neuron, float(weights[neuron]), best[i], float(start[i]), float(end[i]))
        for i, neuron in enumerate(neurons)
    ]


def first_kernels(model: keras.Model) -> dict[str, np.ndarray]:
    """Kernels `(height, width, channels, filters)` of each convolution that no other comes before, by layer.

    Raises:
        ValueError: the network has no convolution.
    """
    steps = run(model, np.zeros((1, *model.input_shape[1:]), np.float32))
    behind = set()
    found = {}
    for number, step in enumerate(steps):
        kernel = getattr(step.layer, "kernel", None)
        is_convolution = kernel is not None and len(kernel.shape) == 4
        if not behind.isdisjoint(step.sources):
            behind.add(number)
        elif is_convolution:
            behind.add(number)
            found[step.name] = ops.convert_to_numpy(kernel)
    if not found:
        raise ValueError(f"{model.name} has no convolution whose kernels could be shown.")
    return found


def _features(model, images):
    name = model.get_layer(FEATURES).name
    steps = run(model, images)
    return next(step.output for step in steps if step.name == name)
