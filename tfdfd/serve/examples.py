"""Classify and Regress: requests of `tf.Example`s, for signatures that take them."""

from __future__ import annotations

import numpy as np
from tensorflow.core.framework.types_pb2 import DataType
from tensorflow_serving.apis.classification_pb2 import ClassificationResult
from tensorflow_serving.apis.input_pb2 import Input
from tensorflow_serving.apis.regression_pb2 import RegressionResult

from tfdfd.serve.errors import INVALID_ARGUMENT, ServingError
from tfdfd.serve.loaded_model import Signature

# TensorFlow's names of a signature's tensors.
INPUTS, CLASSES, SCORES, OUTPUTS = "inputs", "classes", "scores", "outputs"


def examples_of(given: Input) -> np.ndarray:
    """Serialized examples, object array `(n,)`; what all share is put into each.

    Raises:
        ServingError: there are none.
    """
    kind = given.WhichOneof("kind")
    if kind == "example_list_with_context":
        context = given.example_list_with_context.context
        examples = []
        for example in given.example_list_with_context.examples:
            merged = type(example)()
            merged.CopyFrom(context)
            merged.MergeFrom(example)
            examples.append(merged)
    else:
        examples = given.example_list.examples
    if not len(examples):
        raise ServingError(INVALID_ARGUMENT, "Input is empty.")
    array = np.empty(len(examples), object)
    array[:] = [example.SerializeToString() for example in examples]
    return array


def check_classifies(signature: Signature) -> None:
    """Raises `ServingError` unless Classify can ask this signature."""
    _check_input(signature, "classification")
    if not {CLASSES, SCORES} & set(signature.outputs):
        raise ServingError(
            INVALID_ARGUMENT,
            f'Expected classification signature outputs to contain at least one of "{CLASSES}" or "{SCORES}". '
            f"Signature was: {', '.join(signature.outputs)}; ask it with Predict.",
        )


def check_regresses(signature: Signature) -> None:
    """Raises `ServingError` unless Regress can ask this signature."""
    _check_input(signature, "regression")
    if OUTPUTS not in signature.outputs:
        raise ServingError(
            INVALID_ARGUMENT,
            f'No regression outputs found in SignatureDef: expected "{OUTPUTS}"; it has '
            f"{', '.join(signature.outputs)}; ask it with Predict.",
        )


def classes_of(outputs: dict[str, np.ndarray]) -> ClassificationResult:
    """Labels and scores of each example, from arrays `(n, classes)`."""
    result = ClassificationResult()
    labels, scores = outputs.get(CLASSES), outputs.get(SCORES)
    for row in range(len(labels if scores is None else scores)):
        classes = result.classifications.add().classes
        for column in range((labels if scores is None else scores).shape[1]):
            one = classes.add()
            if labels is not None:
                one.label = labels[row, column].decode("utf-8", "replace")
            if scores is not None:
                one.score = scores[row, column]
    return result


def values_of(outputs: dict[str, np.ndarray]) -> RegressionResult:
    """The value of each example, from an array `(n,)` or `(n, 1)`.

    Raises:
        ServingError: another shape.
    """
    values = outputs[OUTPUTS]
    if values.ndim not in (1, 2) or values.shape[1:] not in ((), (1,)):
        raise ServingError(
            INVALID_ARGUMENT,
            f"expected an output of shape [n] or [n, 1]; the model gave {values.shape}",
        )
    result = RegressionResult()
    for value in values.ravel().tolist():
        result.regressions.add().value = value
    return result


def _check_input(signature, kind):
    if list(signature.inputs) != [INPUTS] or signature.inputs[INPUTS].dtype != DataType.DT_STRING:
        raise ServingError(
            INVALID_ARGUMENT,
            f'No {kind} inputs found in SignatureDef: expected one input "{INPUTS}" of DT_STRING; it has '
            f"{', '.join(signature.inputs)}; ask it with Predict.",
        )
