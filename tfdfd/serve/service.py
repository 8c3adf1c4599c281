"""Request handling of the server, independent of gRPC and REST: TensorFlow Serving's messages in and out."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from tensorflow.core.framework.types_pb2 import DataType
from tensorflow.core.protobuf.error_codes_pb2 import Code
from tensorflow_serving.apis.classification_pb2 import (
    ClassificationRequest,
    ClassificationResponse,
    ClassificationResult,
)
from tensorflow_serving.apis.get_model_metadata_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    SignatureDefMap,
)
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, GetModelStatusResponse
from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest, MultiInferenceResponse
from tensorflow_serving.apis.input_pb2 import Input
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest, ReloadConfigResponse
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.regression_pb2 import RegressionRequest, RegressionResponse, RegressionResult

from tfdfd.serve import (
    FAILED_PRECONDITION,
    INVALID_ARGUMENT,
    PERMISSION_DENIED,
    UNIMPLEMENTED,
    ServingError,
    quoted,
)
from tfdfd.serve.batching import Batcher
from tfdfd.serve.decoding import Decoders
from tfdfd.serve.loaded_model import DEFAULT_SIGNATURE, IMAGE, Signature
from tfdfd.serve.model_configs import configs_from
from tfdfd.serve.model_manager import ModelManager, Version
from tfdfd.serve.tensors import arrays_of, check_inputs, fill_response

SIGNATURE_DEF = "signature_def"
_CLASSIFY, _REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


class Service:
    """Answers requests.

    Args:
        manager: manager of the models.
        batcher: runs signatures.
        decoders: decoders of encoded pictures; None: the graph decodes them.
        may_reload: whether clients may change the served models.
    """

    def __init__(
        self, manager: ModelManager, batcher: Batcher, decoders: Decoders | None = None, may_reload: bool = False
    ):
        self.manager, self.batcher, self._decoders, self._may_reload = manager, batcher, decoders, may_reload

    async def predict(self, request: PredictRequest, until: float | None) -> PredictResponse:
        """Outputs of a signature; `until`: time of `time.monotonic` at which the client gives up."""
        version = self.manager.resolve(request.model_spec)
        with version.in_use():
            signature = version.model.signature(request.model_spec.signature_name)
            size = check_inputs(request, signature, self.batcher.limits.max_rows)
            if signature.of_pixels is not None:
                # Of the part that is decoded and the one that is computed.
                rows = min(request.inputs[signature.encoded[0]].tensor_shape.dim[0].size, 2 * self._part_rows)
                size += rows * 3 * signature.of_pixels[1] ** 2
            with self.batcher.room(size):
                arrays = arrays_of(request, signature)
                if signature.of_pixels is not None and self._decoders is not None:
                    pictures = arrays[signature.encoded[0]].tolist()
                    outputs = await self._run_decoded(self._decoders, pictures, *signature.of_pixels, until)
                else:
                    outputs = await self.batcher.run(signature, arrays, until)
        response = PredictResponse()
        _fill_spec(response.model_spec, version, request.model_spec.signature_name or DEFAULT_SIGNATURE)
        return fill_response(response, outputs, request.output_filter)

    async def classify(self, request: ClassificationRequest, until: float | None) -> ClassificationResponse:
        """Labels and scores of `tf.Example`s, from a signature that gives them."""
        response = ClassificationResponse()
        outputs = await self._of_examples(request, response.model_spec, _check_classifies, until)
        response.result.CopyFrom(classes_of(outputs))
        return response

    async def regress(self, request: RegressionRequest, until: float | None) -> RegressionResponse:
        """A value for each `tf.Example`, from a signature that gives them."""
        response = RegressionResponse()
        outputs = await self._of_examples(request, response.model_spec, _check_regresses, until)
        response.result.CopyFrom(values_of(outputs))
        return response

    async def multi_inference(self, request: MultiInferenceRequest, until: float | None) -> MultiInferenceResponse:
        """Several classifications and regressions of the same examples by the same model."""
        names = {task.model_spec.name for task in request.tasks}
        if len(names) > 1:
            raise ServingError(
                INVALID_ARGUMENT, f"All ModelSpecs must access the same model name: {sorted(map(quoted, names))}"
            )
        response = MultiInferenceResponse()
        for task in request.tasks:
            result = response.results.add()
            if task.method_name == _CLASSIFY:
                one = ClassificationRequest(model_spec=task.model_spec, input=request.input)
                answer = await self.classify(one, until)
                result.classification_result.CopyFrom(answer.result)
            elif task.method_name == _REGRESS:
                one = RegressionRequest(model_spec=task.model_spec, input=request.input)
                answer = await self.regress(one, until)
                result.regression_result.CopyFrom(answer.result)
            else:
                raise ServingError(UNIMPLEMENTED, f"Unsupported signature method_name: {quoted(task.method_name)}")
            result.model_spec.CopyFrom(answer.model_spec)
        return response

    def metadata(self, request: GetModelMetadataRequest) -> GetModelMetadataResponse:
        """The signatures of a version."""
        if not request.HasField("model_spec"):
            raise ServingError(INVALID_ARGUMENT, "Missing ModelSpec")
        if not request.metadata_field:
            raise ServingError(INVALID_ARGUMENT, "GetModelMetadataRequest must specify at least one metadata_field")
        for name in request.metadata_field:
            if name != SIGNATURE_DEF:
                raise ServingError(INVALID_ARGUMENT, f"Metadata field {quoted(name)} is not supported")
        version = self.manager.resolve(request.model_spec)
        response = GetModelMetadataResponse()
        _fill_spec(response.model_spec, version, "")
        signatures = SignatureDefMap()
        for name, definition in version.model.definitions.items():
            signatures.signature_def[name].CopyFrom(definition)
        response.metadata[SIGNATURE_DEF].Pack(signatures)
        return response

    def status(self, request: GetModelStatusRequest) -> GetModelStatusResponse:
        """States of a model's versions."""
        if not request.HasField("model_spec"):
            raise ServingError(INVALID_ARGUMENT, "Missing ModelSpec")
        response = GetModelStatusResponse()
        for number, state in self.manager.states(request.model_spec).items():
            one = response.model_version_status.add(version=number, state=state.state)
            one.status.error_code = Code.Value(state.code)
            one.status.error_message = state.message
        return response

    async def reload(self, request: ReloadConfigRequest) -> ReloadConfigResponse:
        """Replaces the served models."""
        if not self._may_reload:
            raise ServingError(
                PERMISSION_DENIED, "clients may not change the served models; start the server with --allow-reload."
            )
        try:
            configs = configs_from(request.config)
        except ValueError as error:
            raise ServingError(INVALID_ARGUMENT, str(error)) from error
        await self.manager.configure(configs)
        if missing := self.manager.missing():
            raise ServingError(FAILED_PRECONDITION, f"no version could be loaded of {missing}")
        response = ReloadConfigResponse()
        response.status.error_code = 0
        return response

    @property
    def _part_rows(self) -> int:
        return self.batcher.limits.max_batch

    async def _run_decoded(
        self, decoders: Decoders, pictures: list[bytes], signature: Signature, side: int, until: float | None
    ) -> dict[str, np.ndarray]:
        """Outputs for encoded pictures: part by part, each decoded while the one before it is computed."""
        parts = [pictures[start : start + self._part_rows] for start in range(0, len(pictures), self._part_rows)]
        if not parts:
            raise ServingError(INVALID_ARGUMENT, "the batch is empty; send at least one row.")
        outputs: list[dict[str, np.ndarray]] = []
        decoding = asyncio.ensure_future(decoders.decode(parts[0], side, until))
        try:
            for number in range(len(parts)):
                pixels = await decoding
                if number + 1 < len(parts):
                    decoding = asyncio.ensure_future(decoders.decode(parts[number + 1], side, until))
                outputs.append(await self.batcher.run(signature, {IMAGE: pixels}, until))
        finally:
            decoding.cancel()
            await asyncio.gather(decoding, return_exceptions=True)
        return {name: np.concatenate([part[name] for part in outputs]) for name in outputs[0]}

    async def _of_examples(self, request: Any, spec: Any, check: Any, until: float | None) -> dict[str, np.ndarray]:
        version = self.manager.resolve(request.model_spec)
        with version.in_use():
            signature = version.model.signature(request.model_spec.signature_name)
            check(signature)
            serialized = examples_of(request.input)
            with self.batcher.room(sum(map(len, serialized))):
                outputs = await self.batcher.run(signature, {INPUTS: serialized}, until)
        _fill_spec(spec, version, request.model_spec.signature_name or DEFAULT_SIGNATURE)
        return outputs


def _fill_spec(spec: ModelSpec, version: Version, signature: str) -> None:
    spec.name, spec.signature_name = version.name, signature
    spec.version.value = version.number


# TensorFlow's names of a signature's tensors.
INPUTS, CLASSES, SCORES, OUTPUTS = "inputs", "classes", "scores", "outputs"


def examples_of(given: Input) -> np.ndarray:
    """Serialized examples, object array `(n,)`; a shared context is merged into each.

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


def _check_classifies(signature: Signature) -> None:
    """Raises `ServingError` unless Classify can ask this signature."""
    _check_input(signature, "classification")
    if not {CLASSES, SCORES} & set(signature.outputs):
        raise ServingError(
            INVALID_ARGUMENT,
            f'Expected classification signature outputs to contain at least one of "{CLASSES}" or "{SCORES}". '
            f"Signature was: {', '.join(signature.outputs)}; ask it with Predict.",
        )


def _check_regresses(signature: Signature) -> None:
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
    labels: Any
    scores: Any
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


def _check_input(signature: Signature, kind: str) -> None:
    if list(signature.inputs) != [INPUTS] or signature.inputs[INPUTS].dtype != DataType.DT_STRING:
        raise ServingError(
            INVALID_ARGUMENT,
            f'No {kind} inputs found in SignatureDef: expected one input "{INPUTS}" of DT_STRING; it has '
            f"{', '.join(signature.inputs)}; ask it with Predict.",
        )
