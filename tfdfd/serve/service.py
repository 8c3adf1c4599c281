"""What the server answers, whichever way it is asked: messages of TensorFlow Serving's protocol in, messages out."""

from __future__ import annotations

from tensorflow.core.protobuf.error_codes_pb2 import Code
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest, ClassificationResponse
from tensorflow_serving.apis.get_model_metadata_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    SignatureDefMap,
)
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, GetModelStatusResponse
from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest, MultiInferenceResponse
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest, ReloadConfigResponse
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.regression_pb2 import RegressionRequest, RegressionResponse

from tfdfd.serve import examples
from tfdfd.serve.batching import Batcher
from tfdfd.serve.errors import (
    FAILED_PRECONDITION,
    INVALID_ARGUMENT,
    PERMISSION_DENIED,
    UNIMPLEMENTED,
    ServingError,
    quoted,
)
from tfdfd.serve.loaded_model import DEFAULT_SIGNATURE
from tfdfd.serve.model_configs import configs_from
from tfdfd.serve.model_manager import ModelManager, Version
from tfdfd.serve.prediction import arrays_of, check_inputs, fill_response, signature_of

SIGNATURE_DEF = "signature_def"
_CLASSIFY, _REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


class Service:
    """Answers requests.

    Args:
        manager: knows the models.
        batcher: runs them.
        may_reload: whether clients may say which models are served.
    """

    def __init__(self, manager: ModelManager, batcher: Batcher, may_reload: bool = False):
        self.manager, self.batcher, self._may_reload = manager, batcher, may_reload

    async def predict(self, request: PredictRequest, until: float | None) -> PredictResponse:
        """Outputs of a signature; `until` is the time of `time.monotonic` when the client gives up."""
        version = self.manager.resolve(request.model_spec)
        with version.in_use():
            signature = signature_of(version.model, request.model_spec.signature_name)
            with self.batcher.room(check_inputs(request, signature, self.batcher.limits.max_rows)):
                outputs = await self.batcher.run(signature, arrays_of(request, signature), until)
        response = PredictResponse()
        _fill_spec(response.model_spec, version, request.model_spec.signature_name or DEFAULT_SIGNATURE)
        return fill_response(response, outputs, request.output_filter)

    async def classify(self, request: ClassificationRequest, until: float | None) -> ClassificationResponse:
        """Labels and scores, of a signature that takes `tf.Example`s and gives them."""
        response = ClassificationResponse()
        outputs = await self._of_examples(request, response.model_spec, examples.check_classifies, until)
        response.result.CopyFrom(examples.classes_of(outputs))
        return response

    async def regress(self, request: RegressionRequest, until: float | None) -> RegressionResponse:
        """Values, of a signature that takes `tf.Example`s and gives one for each."""
        response = RegressionResponse()
        outputs = await self._of_examples(request, response.model_spec, examples.check_regresses, until)
        response.result.CopyFrom(examples.values_of(outputs))
        return response

    async def multi_inference(self, request: MultiInferenceRequest, until: float | None) -> MultiInferenceResponse:
        """Several of the two above on the same examples and model."""
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
        """Other models from now on."""
        if not self._may_reload:
            raise ServingError(
                PERMISSION_DENIED, "clients may not change what is served here; start the server with --allow-reload."
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

    async def _of_examples(self, request, spec, check, until):
        version = self.manager.resolve(request.model_spec)
        with version.in_use():
            signature = signature_of(version.model, request.model_spec.signature_name)
            check(signature)
            serialized = examples.examples_of(request.input)
            with self.batcher.room(sum(map(len, serialized))):
                outputs = await self.batcher.run(signature, {examples.INPUTS: serialized}, until)
        _fill_spec(spec, version, request.model_spec.signature_name or DEFAULT_SIGNATURE)
        return outputs


def _fill_spec(spec: ModelSpec, version: Version, signature: str) -> None:
    spec.name, spec.signature_name = version.name, signature
    spec.version.value = version.number
