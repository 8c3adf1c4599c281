"""Knowledge distillation: a student learns from labels and imitates a teacher's last feature maps and its answer.

Answers: Hinton et al., "Distilling the knowledge in a neural network", arXiv:1503.02531, here without a temperature,
since a single logit leaves nothing to soften. Feature maps: Romero et al., "FitNets", arXiv:1412.6550, section 2.2. The
regressor is a 1x1 convolution here, since both maps come from the same faces and differ in their grids only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from tfdfd.models.counting import node_of

LABELS, HINT, ANSWER = "labels_loss", "hint_loss", "answer_loss"
_POOLS = (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)
_LEAST_POWER = 1e-12


class Distilled(keras.Model):
    """The model that is trained instead of a student that has a teacher.

    The loss is the loss of the labels plus `weight` times the sum of two terms: the mean squared difference between the
    teacher's last feature maps, scaled to a mean square of 1 per batch, and a 1x1 convolution of the student's, on the
    smaller of both grids; and the cross-entropy of the student's P(fake) against the teacher's. The convolution is
    trained with the student and belongs to neither network. All three terms are float32 whatever the precision of the
    networks, and are logged as `LABELS`, `HINT` and `ANSWER`, without `weight`.

    The model takes the student's input, float32 `(batch, height, width, 3)` in [0, 1], and returns P(fake)
    `(batch, 1)`, hint and answer, both scalars.

    Args:
        student: a network of `tfdfd.models`; training this model changes its weights.
        teacher: a trained network of any input size; faces are resized for it. It is frozen, and runs in inference
            mode.
        weight: weight of the two imitation terms against 1 of the labels; above 0.

    Attributes:
        projection: the convolution from the student's maps to the teacher's.

    Raises:
        ValueError: a network has no feature maps of its own at its end, as with two streams, or `weight` is not above
            0.
    """

    def __init__(self, student: keras.Model, teacher: keras.Model, weight: float = 1.0):
        # float32: the model passes images on unchanged, and the networks cast them as they need.
        super().__init__(name=f"{student.name}_distilled", dtype="float32")
        if not weight > 0:
            raise ValueError(f"the weight of imitating must be above 0; received {weight!r}.")
        self.student, self.teacher = _with_maps(student), _with_maps(teacher)
        self.teacher.trainable = False
        self.weight = weight
        ours, theirs = (model.outputs[1].shape for model in (self.student, self.teacher))
        self._grid = tuple(map(min, ours[1:3], theirs[1:3]))
        self.projection = layers.Conv2D(theirs[3], 1, dtype="float32", name="projection")
        self.projection.build((None, *self._grid, ours[3]))
        self._means = {name: keras.metrics.Mean(name) for name in (LABELS, HINT, ANSWER)}
        self.built = True

    @property
    def own_variables(self) -> list[keras.Variable]:
        """All variables but the teacher's, which never change: the state that resuming needs."""
        teachers = {id(variable) for variable in self.teacher.variables}
        return [variable for variable in self.variables if id(variable) not in teachers]

    def call(self, image: Any, training: bool | None = None) -> tuple:
        probability, maps = self.student(image, training=training)
        resized = _resized(image, self.teacher.inputs[0].shape[1:3])
        taught, hints = map(ops.stop_gradient, self.teacher(resized, training=False))
        maps, hints = (_resized(ops.cast(values, "float32"), self._grid) for values in (maps, hints))
        hints = hints / ops.sqrt(ops.mean(ops.square(hints)) + _LEAST_POWER)
        hint = ops.mean(ops.square(self.projection(maps) - hints))
        answer = ops.mean(keras.losses.binary_crossentropy(ops.cast(taught, "float32"), probability))
        return probability, hint, answer

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        probability, hint, answer = y_pred
        labels = super().compute_loss(x, y, probability, sample_weight, training)
        for mean, value in zip(self._means.values(), (labels, hint, answer), strict=True):
            mean.update_state(value, sample_weight=ops.shape(probability)[0])
        return labels + self.weight * (hint + answer)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Updates metrics with P(fake), which is passed alone or as this model's output."""
        probability = y_pred[0] if isinstance(y_pred, tuple) else y_pred
        return super().compute_metrics(x, y, probability, sample_weight)


def last_maps(model: keras.Model) -> keras.KerasTensor:
    """Returns the last feature maps of a network, symbolic `(batch, height, width, channels)`.

    They are the input of its global pooling, or else the last maps of more than one cell before the layer `features`.

    Raises:
        ValueError: there are none, or several in parallel.
    """
    if "features" not in {layer.name for layer in model.layers}:
        raise ValueError(f"{model.name} has no layer 'features', as the networks of tfdfd.models have.")
    node = node_of(model.get_layer("features").output)
    while len(node.input_tensors) == 1:
        (tensor,) = node.input_tensors
        if isinstance(node.operation, _POOLS) or (len(tensor.shape) == 4 and tuple(tensor.shape[1:3]) != (1, 1)):
            return tensor
        node = node_of(tensor)
    raise ValueError(
        f"{model.name} has no last feature maps to imitate: its features come from {node.operation.name}, not from "
        "maps of one image. Use networks with one stream, such as mobilenet_v1."
    )


def _with_maps(model: keras.Model) -> keras.Model:
    return keras.Model(model.inputs, [model.output, last_maps(model)], name=model.name)


def _resized(images: Any, size: Sequence[int]) -> Any:
    """Resizes bilinearly, averaging where it shrinks."""
    if tuple(images.shape[1:3]) == tuple(size):
        return images
    return ops.image.resize(images, tuple(size), "bilinear", antialias=True)
