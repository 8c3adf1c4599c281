"""Grad-CAM, integrated gradients, activation maximization and first-layer kernels of a Keras model.

Gradients are of the logit of P(fake), because the sigmoid is flat near 0 and 1. Images are float32 `(size, size, 3)` in
[0, 1]. Heat maps are float32 `(size, size)`: positive toward fake, negative toward real.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import keras
import numpy as np
from keras import ops, tree

from tfdfd.models.counting import key_of, nodes

HEAD, FEATURES = "fake_probability", "features"
_BATCH = 9  # divides all numbers of steps; another size would be compiled again
# Steps of the path of integrated gradients: tripled, which keeps the steps taken, until the error of the sum is at most
# this share of the difference of the logits, or this many logits.
STEPS, MOST_STEPS, COMPLETE = 27, 243, 0.05
# Activation maximization: the objective f(x) - LAMBDA ||x||_P.
LAMBDA, P = 10.0, 6
NEURONS = 4
# The rate is the root mean square change of a step.
ASCENT_STEPS, RATE = 100, 0.01
# The ascent starts from noise around mid-gray.
_DARKEST, _BRIGHTEST = 0.4, 0.6


def differentiated(function: Callable, compiled: bool = False) -> Callable:
    """Differentiates a function of tensors under Keras's backend.

    Args:
        function: maps tensors to one tensor.
        compiled: compile a graph at the first call with each shape: worth it for more than ten calls, which then take a
            quarter of the time. Not supported for torch.

    Returns:
        `(*arrays) -> (values, gradients)`: the function's values and, as a list, the gradient of their sum with respect
        to each array.

    Raises:
        ValueError: the backend is not tensorflow, jax or torch.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        def both(*tensors: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                values = function(*tensors)
            return values, tape.gradient(values, tensors)

        both = tf.function(both) if compiled else both
    elif backend == "jax":
        import jax

        def both(*tensors: Any) -> Any:
            values, pull_back = jax.vjp(function, *tensors)
            return values, pull_back(ops.ones_like(values))

        both = jax.jit(both) if compiled else both
    elif backend == "torch":
        import torch

        def both(*tensors: Any) -> Any:
            tensors = [tensor.requires_grad_() for tensor in tensors]  # type: ignore[assignment]
            values = function(*tensors)
            return values, torch.autograd.grad(values.sum(), tensors)
    else:
        raise ValueError(
            f"gradients need the Keras backend tensorflow, jax or torch; this one is {backend}. lime and occlusion "
            "do not."
        )

    def on_arrays(*arrays: Any) -> Any:
        values, gradients = both(*map(ops.convert_to_tensor, arrays))
        return ops.convert_to_numpy(values), [ops.convert_to_numpy(gradient) for gradient in gradients]

    return on_arrays


def logit_gradients(model: keras.Model) -> Callable:
    """Compiled gradients of the logit with respect to images; see `differentiated`."""
    return differentiated(lambda images: run(model, images)[-1].output, compiled=True)


@dataclass
class Step:
    """One call of one layer in a forward pass.

    Attributes:
        name: name of the layer, prefixed by the models it is nested in: `body/conv1`.
        layer: the layer or operation.
        output: its first output.
        sources: indices of the steps whose outputs it takes.
    """

    name: str
    layer: Any
    output: Any
    sources: tuple[int, ...]


def run(model: keras.Model, images: Any, added: dict | None = None) -> list[Step]:
    """Runs a functional model layer by layer, nested models included.

    Args:
        model: a network from `tfdfd.models.build`.
        images: tensor `(batch, size, size, 3)`.
        added: tensors to add to the outputs of steps, by index.

    Returns:
        The steps. The last one is the logit of P(fake), `(batch, 1)`: the head without its sigmoid.

    Raises:
        ValueError: the head has no logit.
    """
    steps: list[Step] = []
    head = model.get_layer(HEAD)
    _run_inner(model, [(images, None)], "", steps, head, added or {})
    return steps


def _run_inner(inner: keras.Model, inputs: Any, prefix: str, steps: list[Step], head: Any, added: dict) -> list:
    """Appends the steps of a model, and returns its outputs, each with the index of its step; None for the images.

    Not a closure of `run`: a recursive one is a cycle that keeps all activations until the next garbage collection.
    """
    values = {key_of(tensor): value for tensor, value in zip(inner.inputs, inputs, strict=True)}
    for node in nodes(inner):
        known = [values[key_of(tensor)] for tensor in node.input_tensors]
        if isinstance(node.operation, keras.Model):
            outputs = _run_inner(node.operation, known, f"{prefix}{node.operation.name}/", steps, head, added)
        else:
            given = {id(tensor): value for tensor, (value, _) in zip(node.input_tensors, known, strict=True)}
            arguments, options = node.arguments.fill_in(given)
            is_head = node.operation is head
            result = _logit(head, arguments[0]) if is_head else node.operation(*arguments, **options)
            number = len(steps)
            results = tree.flatten(result)
            if number in added:
                results[0] = results[0] + added[number]
            sources = tuple(dict.fromkeys(source for _, source in known if source is not None))
            steps.append(Step(f"{prefix}{node.operation.name}", node.operation, results[0], sources))
            outputs = [(value, number) for value in results]
        values |= {key_of(tensor): value for tensor, value in zip(node.outputs, outputs, strict=True)}
    return [values[key_of(tensor)] for tensor in inner.outputs]


def logits(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Logits of P(fake), float32 `(n,)`, of images `(n, size, size, 3)`."""
    return ops.convert_to_numpy(run(model, ops.convert_to_tensor(images))[-1].output)[:, 0]


def last_maps(model: keras.Model) -> list[int]:
    """Indices of the last steps (`run`) with a spatial grid: one, or one per branch.

    Raises:
        ValueError: a branch has no spatial grid before its head, such as a transformer's tokens.
    """
    steps = run(model, np.zeros((1, *model.input_shape[1:]), np.float32))
    shapes = [tuple(step.output.shape) for step in steps]
    is_spatial = [len(shape) > 2 and int(np.prod(shape[1:-1])) > 1 for shape in shapes]
    followed = set()
    last: list[int] = []
    for number in reversed(range(len(steps))):
        if is_spatial[number] and number not in followed:
            last.insert(0, number)
        if is_spatial[number] or number in followed:
            followed |= set(steps[number].sources)
    wrong = [steps[number].name for number in last if len(shapes[number]) != 4]
    if wrong or not last:
        what = f"{wrong[0]} has tokens, not a grid" if wrong else "none of its layers has a spatial grid"
        raise ValueError(
            f"gradcam needs a network with spatial maps up to its head; {model.name} has none: {what}. Use lime, "
            "occlusion or integrated-gradients."
        )
    return last


def grad_cam(model: keras.Model, image: np.ndarray, maps: Sequence[int] | None = None) -> np.ndarray:
    """Grad-CAM (Selvaraju et al., ICCV 2017) of the logit, on the last spatial maps.

    The final ReLU of the paper is omitted: negative values point toward real. The maps of several branches are added.

    Args:
        model: a network from `tfdfd.models.build`.
        image: the face.
        maps: indices of steps of `run`; None: `last_maps`.

    Returns:
        The heat map.

    Raises:
        ValueError: see `last_maps`.
    """
    maps = last_maps(model) if maps is None else list(maps)
    images = ops.convert_to_tensor(image[None])
    steps = run(model, images)
    activations = [ops.convert_to_numpy(steps[number].output) for number in maps]

    def logit(*added: Any) -> Any:
        return run(model, images, dict(zip(maps, added, strict=True)))[-1].output

    _, gradients = differentiated(logit)(*map(np.zeros_like, activations))
    heat = np.zeros(image.shape[:2], np.float32)
    for activation, gradient in zip(activations, gradients, strict=True):
        weights = gradient[0].mean(axis=(0, 1))
        heat += cv2.resize(activation[0] @ weights, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return heat


def integrated_gradients(
    model: keras.Model,
    image: np.ndarray,
    *,
    steps: int = STEPS,
    baseline: float = 0.0,
    gradients: Callable | None = None,
) -> tuple[np.ndarray, float]:
    """Integrated gradients (Sundararajan et al., ICML 2017) of the logit, from a uniformly gray picture.

    Gradients are taken at the midpoint of each step. The number of steps is tripled, up to `MOST_STEPS`, until the sum
    agrees with the difference of the logits within `COMPLETE`.

    Args:
        model: a network from `tfdfd.models.build`.
        image: the face.
        steps: initial number of steps.
        baseline: gray level of the start of the path.
        gradients: `logit_gradients(model)`, to reuse for several images.

    Returns:
        The attributions, float32 `(size, size, 3)`, and the error of their sum in logits.
    """
    gradients = gradients or logit_gradients(model)
    start = np.full_like(image, baseline)
    path = image - start
    before, after = logits(model, np.stack([start, image]))
    total, shares = np.zeros(image.shape, np.float64), _middles(steps)
    while True:
        for i in range(0, len(shares), _BATCH):
            pictures = start + shares[i : i + _BATCH, None, None, None] * path
            _, (gradient,) = gradients(pictures)
            total += gradient.sum(axis=0)
        contributions = path * total / steps
        error = abs(float(contributions.sum()) - float(after - before))
        if error <= COMPLETE * max(abs(after - before), 1) or 3 * steps > MOST_STEPS:
            return contributions.astype(np.float32), error
        steps *= 3
        # Every third midpoint, from the second on, was a midpoint before.
        shares = np.delete(_middles(steps), np.s_[1::3])


@dataclass(frozen=True)
class Maximized:
    """The input that maximizes a neuron.

    Attributes:
        neuron: index of the neuron in the last hidden layer.
        weight: its weight in the head: positive toward fake, negative toward real.
        image: float32 `(size, size, 3)` in [0, 1].
        start, end: its activation for the initial and for this image.
    """

    neuron: int
    weight: float
    image: np.ndarray
    start: float
    end: float


def head_weights(model: keras.Model) -> np.ndarray:
    """Weights of the neurons of the last hidden layer in the head, float32 `(n,)`.

    Raises:
        ValueError: the head is not a dense layer.
    """
    head = model.get_layer(HEAD)
    if not isinstance(head, keras.layers.Dense):
        raise ValueError(
            f"activation needs a network with a dense head; the head of {model.name} is {type(head).__name__}. Use "
            "another method."
        )
    return ops.convert_to_numpy(head.kernel)[:, 0]


def choose_neurons(model: keras.Model, count: int = NEURONS) -> list[int]:
    """The neurons with the largest weights: up to `count` toward fake, then up to `count` toward real."""
    weights = head_weights(model)
    order = np.argsort(-np.abs(weights), kind="stable")
    chosen = [[int(i) for i in order if weights[i] * sign > 0][:count] for sign in (1, -1)]
    return chosen[0] + chosen[1]


def maximize(
    model: keras.Model,
    neurons: list[int] | None = None,
    *,
    steps: int = ASCENT_STEPS,
    rate: float = RATE,
    penalty: float = LAMBDA,
    power: int = P,
    seed: int = 0,
) -> list[Maximized]:
    """Images that maximize f(x) - λ‖x‖p for neurons of the last hidden layer, by gradient ascent from noise (S1).

    x are the pixels in [0, 1], to which every step is clipped. The image with the highest objective of all steps is
    kept.

    Args:
        model: a network from `tfdfd.models.build`.
        neurons: their indices; None: `choose_neurons`.
        steps: steps of the ascent.
        rate: root mean square change of a step.
        penalty: λ.
        power: p, even.
        seed: seed of the noise.

    Raises:
        ValueError: a neuron does not exist; or see `head_weights`.
    """
    weights = head_weights(model)
    neurons = choose_neurons(model) if neurons is None else neurons
    wrong = [neuron for neuron in neurons if not 0 <= neuron < len(weights)]
    if wrong or not neurons:
        raise ValueError(f"{model.name} has the neurons 0 to {len(weights) - 1}; received {wrong or neurons}.")
    one = np.random.default_rng(seed).uniform(_DARKEST, _BRIGHTEST, model.input_shape[1:]).astype(np.float32)
    x = np.repeat(one[None], len(neurons), axis=0)
    chosen = np.eye(len(weights), dtype=np.float32)[neurons]

    def activation(images: Any) -> Any:
        return ops.sum(_features(model, images) * chosen, axis=1)

    gradients_of = differentiated(activation, compiled=True)
    best_objective, best, end = np.full(len(x), -np.inf), x.copy(), np.zeros(len(x))
    start: Any = None
    for step in range(1, steps + 2):
        values, (gradient,) = gradients_of(x)
        start = values if start is None else start
        norm = np.linalg.norm(x.reshape(len(x), -1).astype(np.float64), ord=power, axis=1)
        better = values - penalty * norm > best_objective
        best[better], end[better] = x[better], values[better]
        best_objective = np.where(better, values - penalty * norm, best_objective)
        if step > steps:
            break
        # d||x||_p / dx = (x / ||x||_p)^(p - 1) for nonnegative x.
        slope = (x / np.maximum(norm, 1e-12)[:, None, None, None]) ** (power - 1)
        gradient = gradient - np.float32(penalty) * slope.astype(np.float32)
        length = np.sqrt(np.mean(gradient**2, axis=(1, 2, 3), keepdims=True))
        x = np.clip(x + rate * gradient / np.maximum(length, 1e-12), 0, 1).astype(np.float32)
    return [
        Maximized(neuron, float(weights[neuron]), best[i], float(start[i]), float(end[i]))
        for i, neuron in enumerate(neurons)
    ]


def first_kernels(model: keras.Model) -> dict[str, np.ndarray]:
    """Kernels `(height, width, channels, filters)` of the convolutions that no other precedes, by layer (S1).

    Raises:
        ValueError: the network has no convolution.
    """
    steps = run(model, np.zeros((1, *model.input_shape[1:]), np.float32))
    behind: set[int] = set()
    kernels = {}
    for number, step in enumerate(steps):
        kernel = getattr(step.layer, "kernel", None)
        is_convolution = kernel is not None and len(kernel.shape) == 4
        if not behind.isdisjoint(step.sources):
            behind.add(number)
        elif is_convolution:
            behind.add(number)
            kernels[step.name] = ops.convert_to_numpy(kernel)
    if not kernels:
        raise ValueError(f"{model.name} has no convolution.")
    return kernels


def _features(model: keras.Model, images: Any) -> Any:
    name = model.get_layer(FEATURES).name
    steps = run(model, images)
    return next(step.output for step in steps if step.name == name)


def _middles(steps: int) -> np.ndarray:
    return ((np.arange(steps) + 0.5) / steps).astype(np.float32)


def _logit(head: Any, features: Any) -> Any:
    if isinstance(head, keras.layers.Dense) and head.activation is keras.activations.sigmoid:
        return ops.matmul(features, head.kernel) + head.bias
    if hasattr(head, "logit"):
        return head.logit(features)
    raise ValueError(f"the head {head.name} ({type(head).__name__}) has no logit; expected a sigmoid or an SVM.")
