"""Predict requests to arrays and outputs to responses, with the statuses that TensorFlow Serving answers."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from tfdfd.serve.errors import FAILED_PRECONDITION, INVALID_ARGUMENT, ServingError, quoted
from tfdfd.serve.loaded_model import DEFAULT_SIGNATURE, LoadedModel, Signature
from tfdfd.serve.tensors import check, check_picture_size, check_pixels, size_in_bytes, to_array, to_proto


def signature_of(model: LoadedModel, name: str) -> Signature:
    """The signature of that name; an empty one is the default.

    Raises:
        ServingError: there is none.
    """
    found = model.signatures.get(name or DEFAULT_SIGNATURE)
    if found is None:
        raise ServingError(
            FAILED_PRECONDITION,
            f'Serving signature key "{quoted(name or DEFAULT_SIGNATURE)}" not found; the model has '
            f"{', '.join(sorted(model.signatures))}.",
        )
    return found


def check_inputs(request: PredictRequest, signature: Signature, max_rows: int) -> int:
    """How many bytes the request's arrays take, of which nothing is made yet.

    Raises:
        ServingError: names, types, shapes or numbers of rows that the signature does not take, or unknown outputs.
    """
    given, expected = set(request.inputs), set(signature.inputs)
    if given != expected:
        raise ServingError(
            INVALID_ARGUMENT,
            f"input size does not match signature: {len(given)}!={len(expected)} len({_names(given, expected)}) != "
            f"len({_names(expected, expected)}). Sent extra: {_names(given - expected)}. "
            f"Missing but required: {_names(expected - given, expected)}.",
        )
    for name in request.output_filter:
        if name not in signature.outputs:
            raise ServingError(
                INVALID_ARGUMENT,
                f"output tensor alias not found in signature: {quoted(name)} Outputs expected to be in the set "
                f"{_names(signature.outputs, signature.outputs)}.",
            )
    if len(set(request.output_filter)) != len(request.output_filter):
        raise ServingError(INVALID_ARGUMENT, "duplicate output tensor alias in output_filter.")
    size = 0
    for name, info in signature.inputs.items():
        tensor = request.inputs[name]
        shape = [dim.size for dim in tensor.tensor_shape.dim]
        check(name, tensor.dtype, shape, info)
        if name in signature.pictures:
            check_picture_size(name, shape)
        if signature.takes_batches and shape[0] > max_rows:
            raise ServingError(
                INVALID_ARGUMENT, f"Task size {shape[0]} is larger than maximum input batch size {max_rows}"
            )
        size += size_in_bytes(tensor) if math.prod(shape) else 0
    return size


def arrays_of(request: PredictRequest, signature: Signature) -> dict[str, np.ndarray]:
    """The arrays of a checked request, in the order of the signature's inputs.

    Raises:
        ServingError: not as many values as the shape has, or pixels that are none.
    """
    arrays = {name: to_array(name, request.inputs[name]) for name in signature.inputs}
    for name in signature.pictures:
        check_pixels(name, arrays[name])
    return arrays


def fill_response(
    response: PredictResponse, outputs: dict[str, np.ndarray], wanted: Iterable[str] = ()
) -> PredictResponse:
    """Puts the outputs into a response: those that the request names, or all."""
    for name in list(wanted) or outputs:
        response.outputs[name].CopyFrom(to_proto(outputs[name]))
    return response


def _names(names, own=()):
    return "{" + ",".join(name if name in own else quoted(name) for name in sorted(names)) + "}"
