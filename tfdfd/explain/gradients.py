"""Explanations from gradients of a Keras model: Grad-CAM and integrated gradients.

They differentiate the logit of P(fake), not P(fake): near 0 and 1 a sigmoid has no slope. Images are float32
`(size, size, 3)` in [0, 1]. Heat-maps are float32 `(size, size)`: above 0 towards fake, below 0 towards real.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import keras
import numpy as np
from keras import ops, tree

from tfdfd.models.counting import key_of, nodes

HEAD, FEATURES = "fake_probability", "features"
_BATCH = 9  # a divisor of all numbers of steps: another size would be compiled anew
# Steps of the path of integrated gradients: tripled, which keeps those taken, until the sum is off the difference of
# the logits by no more than this share of it, or this many logits.
STEPS, MOST_STEPS, COMPLETE = 27, 243, 0.05


def differentiated(function: Callable, compiled: bool = False) -> Callable:
    """`(*arrays) -> (values, gradients)` of a function of tensors, under Keras's backend.

    Args:
        function: of tensors, to one tensor.
        compiled: whether a graph is made of it at the first call with each shape: worth it for more than ten calls,
            which then take a quarter of the time. Torch has none here.

    Returns:
        What gives the function's values and, as a list, the gradient of their sum by each array.

    Raises:
        ValueError: the backend is none of tensorflow, jax and torch.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        def both(*tensors):
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                values = function(*tensors)
            return values, tape.gradient(values, tensors)

        both = tf.function(both) if compiled else both
    elif backend == "jax":
        import jax

        def both(*tensors):
            values, pull_back = jax.vjp(function, *tensors)
            return values, pull_back(ops.ones_like(values))

        both = jax.jit(both) if compiled else both
    elif backend == "torch":
        import torch

        def both(*tensors):
            tensors = [tensor.requires_grad_() for tensor in tensors]
            values = function(*tensors)
            return values, torch.autograd.grad(values.sum(), tensors)
    else:
        raise ValueError(
            f"gradients are taken under the Keras backends tensorflow, jax and torch; this one is {backend}. "
            "lime and occlusion need no gradients."
        )

    def on_arrays(*arrays):
        values, gradients = both(*map(ops.convert_to_tensor, arrays))
        return ops.convert_to_numpy(values), [ops.convert_to_numpy(gradient) for gradient in gradients]

    return on_arrays


def logit_gradients(model: keras.Model) -> Callable:
    """`differentiated`, compiled, of the logit by images."""
    return differentiated(lambda images: run(model, images)[-1].output, compiled=True)


@dataclass
class Step:
    """One call of one layer in a pass through a model.

    Attributes:
        name: of the layer, behind the names of the models it is nested in: `body/conv1`.
        layer: the layer or bare operation.
        output: its first output.
        sources: numbers of the steps whose outputs it takes.
    """

    name: str
    layer: object
    output: object
    sources: tuple[int, ...]


def run(model: keras.Model, images, added: dict | None = None) -> list[Step]:
    """Passes images through a functional model layer by layer, models inside models too.

    Args:
        model: of `tfdfd.models.build`.
        images: tensor `(batch, size, size, 3)`.
        added: tensors that are added to the output of steps, by number.

    Returns:
        The steps. The last one is the logit of P(fake), `(batch, 1)`: the head without its sigmoid.

    Raises:
        ValueError: the head is of an unknown kind.
    """
    steps: list[Step] = []
    head = model.get_layer(HEAD)

    def through(inner, inputs, prefix):
        # Each value with the number of the step that it comes from; None for the images.
        values = {key_of(tensor): value for tensor, value in zip(inner.inputs, inputs, strict=True)}
        for node in nodes(inner):
            known = [values[key_of(tensor)] for tensor in node.input_tensors]
            if isinstance(node.operation, keras.Model):
                outputs = through(node.operation, known, f"{prefix}{node.operation.name}/")
            else:
                given = {id(tensor): value for tensor, (value, _) in zip(node.input_tensors, known, strict=True)}
                arguments, options = node.arguments.fill_in(given)
                is_head = node.operation is head
                result = _logit(head, arguments[0]) if is_head else node.operation(*arguments, **options)
                number = len(steps)
                results = tree.flatten(result)
                if added and number in added:
                    results[0] = results[0] + added[number]
                sources = tuple(dict.fromkeys(source for _, source in known if source is not None))
                steps.append(Step(f"{prefix}{node.operation.name}", node.operation, results[0], sources))
                outputs = [(value, number) for value in results]
            values |= {key_of(tensor): value for tensor, value in zip(node.outputs, outputs, strict=True)}
        return [values[key_of(tensor)] for tensor in inner.outputs]

    through(model, [(images, None)], "")
    return steps


def logits(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Logits of P(fake), float32 `(n,)`, of images `(n, size, size, 3)`."""
    return ops.convert_to_numpy(run(model, ops.convert_to_tensor(images))[-1].output)[:, 0]


def last_maps(model: keras.Model) -> list[int]:
    """Numbers of the steps (`run`) after which a network has no places any more: one, or one a branch.

    Raises:
        ValueError: a branch has no grid of places before its head, such as a transformer's tokens.
    """
    steps = run(model, np.zeros((1, *model.input_shape[1:]), np.float32))
    shapes = [tuple(step.output.shape) for step in steps]
    has_places = [len(shape) > 2 and int(np.prod(shape[1:-1])) > 1 for shape in shapes]
    followed = set()
    last = []
    for number in reversed(range(len(steps))):
        if has_places[number] and number not in followed:
            last.insert(0, number)
        if has_places[number] or number in followed:
            followed |= set(steps[number].sources)
    wrong = [steps[number].name for number in last if len(shapes[number]) != 4]
    if wrong or not last:
        what = f"{wrong[0]} has tokens, not a grid" if wrong else "none of its layers has a grid"
        raise ValueError(
            f"gradcam needs a network with spatial maps up to its head; {model.name} has none: {what}. Use lime, "
            "occlusion or integrated-gradients."
        )
    return last


def grad_cam(model: keras.Model, image: np.ndarray, maps: Sequence[int] | None = None) -> np.ndarray:
    """Grad-CAM (Selvaraju et al., ICCV 2017) of the logit, on the last spatial maps.

    The paper's ReLU at the end is left out: below 0 are places that speak for real. Of a network of several branches
    the maps are added.

    Args:
        model: of `tfdfd.models.build`.
        image: the face.
        maps: numbers of steps of `run`; None: `last_maps`.

    Returns:
        The heat-map.

    Raises:
        ValueError: as of `last_maps`.
    """
    maps = last_maps(model) if maps is None else list(maps)
    images = ops.convert_to_tensor(image[None])
    steps = run(model, images)
    activations = [ops.convert_to_numpy(steps[number].output) for number in maps]

    def logit(*added):
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
    """Integrated gradients (Sundararajan et al., ICML 2017) of the logit, from a picture of one gray level.

    Gradients are taken in the middle of each step. Steps are tripled, up to `MOST_STEPS`, until the sum agrees with the
    difference of the logits to `COMPLETE`.

    Args:
        model: of `tfdfd.models.build`.
        image: the face.
        steps: to begin with.
        baseline: gray level of the picture that the path starts from.
        gradients: `logit_gradients(model)`, for more images than one.

    Returns:
        The contributions, float32 `(size, size, 3)`, and how far their sum is from the difference of the logits, in
        logits.
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
        # Every third, from the second, is the middle of a step before.
        shares = np.delete(_middles(steps), np.s_[1::3])


def _middles(steps):
    return ((np.arange(steps) + 0.5) / steps).astype(np.float32)


def _logit(head, features):
    if isinstance(head, keras.layers.Dense) and head.activation is keras.activations.sigmoid:
        return ops.matmul(features, head.kernel) + head.bias
    if hasattr(head, "logit"):
        return head.logit(features)
    raise ValueError(f"the head {head.name} ({type(head).__name__}) has no logit; expected a sigmoid or an SVM.")
