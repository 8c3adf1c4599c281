"""`tfdfd serve` asked as TensorFlow Serving is asked: every call of the official stubs, health, and REST."""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest, SignatureDefMap
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest
from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.regression_pb2 import RegressionRequest

from tests.served import SIZE, Server, State, fill_spec, picture, refused, request, until, write_model
from tfdfd.serve.grpc_services import MESSAGES


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two versions: the second gives half of what the first gives."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_model(folder / "1", 1.0)
    write_model(folder / "2", 0.5)
    return folder


@pytest.fixture(scope="module")
def server(models):
    """Both versions, labelled."""
    labels = ("--label", "tiny:stable=1", "--label", "tiny:canary=2", "--label", "tiny:gone=7")
    words = ("--models", models, "--versions", "all", *labels, "--allow-any-graph", "--rest-seconds", 5)
    with Server(*words, "--max-requests", 40, "--max-message", "4M", "--poll-seconds", 0.2) as started:
        yield started


def test_predict_answers_with_the_highest_version(server):
    answer = server.predict(request([picture(0), picture(102, kind="PNG"), picture(255)]))
    assert answer.model_spec.version.value == 2
    assert answer.model_spec.name == "tiny"
    assert answer.model_spec.signature_name == "image_bytes"
    scores = answer.outputs["fake_probability"]
    # In the field of its type, where clients of TensorFlow Serving look.
    assert list(scores.float_val) == pytest.approx([0, 0.2, 0.5], abs=1e-2)
    assert [dim.size for dim in scores.tensor_shape.dim] == [3, 1]


@pytest.mark.parametrize(
    ("which", "expected"), [({"version": 1}, 1), ({"label": "stable"}, 1), ({"label": "canary"}, 0.5)]
)
def test_versions_and_labels(server, which, expected):
    assert server.scores([picture(255)], **which) == pytest.approx([expected], abs=1e-3)


def test_tensors_as_content_as_values_and_as_one_value(server):
    import tensorflow as tf

    images = np.random.default_rng(0).random((2, SIZE, SIZE, 3), np.float32)
    expected = images[..., :1].mean((1, 2, 3)) / 2
    wanted = PredictRequest()
    fill_spec(wanted.model_spec)
    wanted.inputs["image"].CopyFrom(tf.make_tensor_proto(images))
    assert wanted.inputs["image"].tensor_content
    assert tf.make_ndarray(server.predict(wanted).outputs["fake_probability"])[:, 0] == pytest.approx(
        expected, abs=1e-6
    )
    shape = (2, SIZE, SIZE, 3)
    given = server.scores(images.ravel().tolist(), "image", "", shape=shape)
    assert given == pytest.approx(expected, abs=1e-6)
    assert server.scores([0.5], "image", "serving_default", shape=shape) == pytest.approx([0.25, 0.25])


def test_output_filter(server):
    wanted = request([b"a"], "text", "echo")
    assert set(server.predict(wanted).outputs) == {"plain", "raw_bytes"}
    wanted.output_filter.append("plain")
    assert list(server.predict(wanted).outputs["plain"].string_val) == [b"a"]
    assert set(server.predict(wanted).outputs) == {"plain"}
    wanted.output_filter.append("other")
    code, message = refused(server.predict, wanted)
    assert code == "INVALID_ARGUMENT" and "other" in message and "plain" in message


def test_metadata_holds_the_signatures(server):
    asked = GetModelMetadataRequest(model_spec=fill_spec(PredictRequest().model_spec), metadata_field=["signature_def"])
    answer = server.stub.GetModelMetadata(asked, timeout=30)
    signatures = SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(signatures)
    assert answer.model_spec.version.value == 2
    definition = signatures.signature_def["image_bytes"]
    assert [dim.size for dim in definition.inputs["image_bytes"].tensor_shape.dim] == [-1]
    assert definition.method_name == "tensorflow/serving/predict"
    asked.metadata_field[:] = ["other"]
    assert refused(server.stub.GetModelMetadata, asked) == (
        "INVALID_ARGUMENT",
        "Metadata field other is not supported",
    )
    del asked.metadata_field[:]
    assert refused(server.stub.GetModelMetadata, asked)[0] == "INVALID_ARGUMENT"
    assert refused(server.stub.GetModelMetadata, GetModelMetadataRequest()) == ("INVALID_ARGUMENT", "Missing ModelSpec")


def test_states(server):
    states = server.states()
    assert list(states) == [2, 1]
    assert {one.state for one in states.values()} == {State.AVAILABLE}
    assert {one.status.error_code for one in states.values()} == {0}
    assert list(server.states(label="stable")) == [1]
    assert refused(server.states, version=9) == ("NOT_FOUND", "Could not find version 9 of model tiny")
    assert refused(server.states, "other") == ("NOT_FOUND", "Could not find any versions of model other")
    asked = server.states_stub.GetModelStatus, GetModelStatusRequest()
    assert refused(*asked) == ("INVALID_ARGUMENT", "Missing ModelSpec")


def example(x):
    import tensorflow as tf

    return tf.train.Example(
        features=tf.train.Features(feature={"x": tf.train.Feature(float_list=tf.train.FloatList(value=[x]))})
    )


def test_classify_regress_and_both(server):
    asked = ClassificationRequest(model_spec=fill_spec(PredictRequest().model_spec))
    asked.model_spec.signature_name = "classify"
    asked.input.example_list.examples.extend([example(0.25), example(1.0)])
    answer = server.stub.Classify(asked, timeout=30)
    told = [[(one.label, one.score) for one in each.classes] for each in answer.result.classifications]
    assert told == [[("real", 0.75), ("fake", 0.25)], [("real", 0.0), ("fake", 1.0)]]
    regression = RegressionRequest(model_spec=asked.model_spec, input=asked.input)
    regression.model_spec.signature_name = "regress"
    values = server.stub.Regress(regression, timeout=30).result.regressions
    assert [one.value for one in values] == [0.25, 1.0]
    both = MultiInferenceRequest(input=asked.input)
    both.tasks.add(model_spec=asked.model_spec, method_name="tensorflow/serving/classify")
    both.tasks.add(model_spec=regression.model_spec, method_name="tensorflow/serving/regress")
    results = server.stub.MultiInference(both, timeout=30).results
    assert results[0].classification_result == answer.result
    assert [one.value for one in results[1].regression_result.regressions] == [0.25, 1.0]


def test_what_is_shared_by_examples_is_put_into_each(server):
    asked = RegressionRequest(model_spec=fill_spec(PredictRequest().model_spec))
    asked.model_spec.signature_name = "regress"
    asked.input.example_list_with_context.context.CopyFrom(example(0.5))
    asked.input.example_list_with_context.examples.add()
    assert [one.value for one in server.stub.Regress(asked, timeout=30).result.regressions] == [0.5]


def test_classify_of_a_signature_for_predict_is_refused(server):
    asked = ClassificationRequest(model_spec=fill_spec(PredictRequest().model_spec))
    asked.input.example_list.examples.append(example(1.0))
    code, message = refused(server.stub.Classify, asked)
    assert code == "INVALID_ARGUMENT" and "ask it with Predict" in message


def test_reload_needs_leave(server):
    code, message = refused(server.states_stub.HandleReloadConfigRequest, ReloadConfigRequest())
    assert code == "PERMISSION_DENIED" and "--allow-reload" in message


def test_health(server):
    stub = HealthStub(server.channel)
    for name in ("", "tensorflow.serving.PredictionService"):
        assert stub.Check(HealthCheckRequest(service=name)).status == HealthCheckResponse.SERVING
    assert refused(stub.Check, HealthCheckRequest(service="other"))[0] == "NOT_FOUND"


def rest(server, path, **body):
    status, answer = server.get(path, json.dumps(body).encode() if body else None)
    return status, json.loads(answer)


def encoded(data):
    return {"b64": base64.b64encode(data).decode()}


def test_rest_states(server):
    ok = {"error_code": "OK", "error_message": ""}
    expected = [{"version": number, "state": "AVAILABLE", "status": ok} for number in ("2", "1")]
    assert rest(server, "/v1/models/tiny") == (200, {"model_version_status": expected})
    assert rest(server, "/v1/models/tiny/versions/1") == (200, {"model_version_status": expected[1:]})
    assert rest(server, "/v1/models/tiny/labels/canary") == (200, {"model_version_status": expected[:1]})
    assert rest(server, "/v1/models/other") == (404, {"error": "Could not find any versions of model other"})


def test_rest_metadata(server):
    status, answer = rest(server, "/v1/models/tiny/labels/stable/metadata")
    assert status == 200
    assert answer["model_spec"] == {"name": "tiny", "signature_name": "", "version": "1"}
    given = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]["image"]
    assert given["dtype"] == "DT_FLOAT"
    assert [dim["size"] for dim in given["tensor_shape"]["dim"]] == ["-1", "8", "8", "3"]


def test_rest_predict_by_row_and_by_column(server):
    path, bytes_ = "/v1/models/tiny/versions/1:predict", [encoded(picture(0)), encoded(picture(255))]
    by_row = rest(server, path, signature_name="image_bytes", instances=bytes_)
    assert by_row == (200, {"predictions": [[0.0], [1.0]]})
    named = [{"image_bytes": one} for one in bytes_]
    assert rest(server, path, signature_name="image_bytes", instances=named) == by_row
    by_column = rest(server, path, signature_name="image_bytes", inputs=bytes_)
    assert by_column == (200, {"outputs": [[0.0], [1.0]]})
    assert rest(server, path, signature_name="image_bytes", inputs={"image_bytes": bytes_}) == by_column
    image = np.full((1, SIZE, SIZE, 3), 0.2).tolist()
    ((score,),) = rest(server, path, instances=image)[1]["predictions"]
    assert score == pytest.approx(0.2, abs=1e-5)
    # The shortest decimals of a float32, as TensorFlow Serving writes them.
    assert repr(score) == str(np.float32(score))


def test_rest_outputs_of_several_names_and_of_bytes(server):
    path = "/v1/models/tiny:predict"
    status, answer = rest(server, path, signature_name="echo", instances=["ä"])
    assert status == 200
    assert answer == {"predictions": [{"plain": "ä", "raw_bytes": encoded("ä".encode())}]}
    status, answer = rest(server, path, signature_name="echo", inputs=[encoded(b"\xff")])
    assert answer["outputs"]["raw_bytes"] == [encoded(b"\xff")]


def test_rest_classify_and_regress(server):
    examples = [{"x": 0.25}, {"x": [1.0]}]
    answer = rest(server, "/v1/models/tiny:classify", signature_name="classify", examples=examples)
    assert answer == (200, {"results": [[["real", 0.75], ["fake", 0.25]], [["real", 0.0], ["fake", 1.0]]]})
    answer = rest(server, "/v1/models/tiny:regress", signature_name="regress", examples=[{}], context={"x": 0.5})
    assert answer == (200, {"results": [0.5]})


def test_metrics(server):
    server.scores([picture(255)])
    refused(server.scores, [picture(255)], model="nobody-knows-this")
    status, text = server.get("/monitoring/prometheus/metrics")
    assert status == 200
    assert b':tensorflow:serving:request_count{model_name="tiny",status="OK"}' in text
    assert b':tensorflow:serving:request_latency_bucket{API="Predict",entrypoint="GRPC",le=' in text
    # Names of clients' own invention would fill the memory.
    assert b"nobody-knows-this" not in text
    assert server.metric("tfdfd_serve_requests_in_flight") == 0


def test_new_version_is_switched_to_and_a_broken_one_is_told(models, tmp_path):
    folder = tmp_path / "tiny"
    shutil.copytree(models / "1", folder / "1")
    with Server("--models", folder, "--allow-any-graph", "--poll-seconds", 0.2) as server:
        assert server.scores([picture(255)]) == pytest.approx([1], abs=1e-3)
        (folder / "3").mkdir()
        (folder / "3" / "saved_model.pb").write_bytes(b"no model")
        until(lambda: 3 in server.states() and server.states()[3].state == State.END)
        status = server.states()[3].status
        assert status.error_code != 0 and status.error_message
        assert server.available() == {1}
        assert server.scores([picture(255)]) == pytest.approx([1], abs=1e-3)
        assert refused(server.scores, [picture(255)], version=3) == (
            "NOT_FOUND",
            "Servable not found for request: Specific(tiny, 3)",
        )
        shutil.copytree(models / "2", folder / ".2")
        (folder / ".2").rename(folder / "2")
        until(lambda: server.available() == {2})
        assert server.scores([picture(255)]) == pytest.approx([0.5], abs=1e-3)
        until(lambda: server.states()[1].state == State.END)
        # Repaired, it is loaded.
        shutil.rmtree(folder / "3")
        shutil.copytree(models / "1", folder / "3")
        until(lambda: server.available() == {3})
        assert server.states()[3].status.error_message == ""


class TestOpenInference:
    """The Open Inference Protocol (KServe's version 2) over REST."""

    def infer(self, server, *inputs, path="/v2/models/tiny", **more):
        status, answer = server.get(f"{path}/infer", json.dumps({"inputs": inputs, **more}).encode())
        return status, json.loads(answer)

    def test_server_and_model_are_told(self, server):
        told = {path: server.get(f"/v2{path}") for path in ("", "/health/live", "/health/ready", "/models/tiny/ready")}
        assert {status for status, _ in told.values()} == {200}
        assert json.loads(told["/health/ready"][1]) == {"ready": True}
        assert json.loads(told["/models/tiny/ready"][1]) == {"name": "tiny", "ready": True}
        model = json.loads(server.get("/v2/models/tiny")[1])
        assert model == {
            "name": "tiny",
            "versions": ["2", "1"],
            "platform": "tensorflow_savedmodel",
            "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, SIZE, SIZE, 3]}],
            "outputs": [{"name": "fake_probability", "datatype": "FP32", "shape": [-1, 1]}],
        }
        assert server.get("/v2/models/other")[0] == 404 and server.get("/v2/models/tiny/versions/9/ready")[0] == 404

    def test_images_and_encoded_pictures_are_scored(self, server):
        image = {
            "name": "image",
            "datatype": "FP32",
            "shape": [2, SIZE, SIZE, 3],
            "data": [0.5] * (2 * SIZE * SIZE * 3),
        }
        status, answer = self.infer(server, image, id="7")
        (output,) = answer.pop("outputs")
        assert status == 200 and answer == {"model_name": "tiny", "model_version": "2", "id": "7"}
        assert (output["name"], output["datatype"], output["shape"]) == ("fake_probability", "FP32", [2, 1])
        assert output["data"] == pytest.approx([0.25, 0.25], abs=1e-3)
        encoded = [base64.b64encode(picture()).decode()]
        pictures = {"name": "image_bytes", "datatype": "BYTES", "shape": [1], "data": encoded}
        pictures["parameters"] = {"content_type": "base64"}
        status, answer = self.infer(server, pictures, path="/v2/models/tiny/versions/1")
        assert status == 200 and answer["outputs"][0]["data"] == pytest.approx([1], abs=1e-3)
        text = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"]}
        status, answer = self.infer(server, text, outputs=[{"name": "plain"}])
        assert [(one["name"], one["data"]) for one in answer["outputs"]] == [("plain", ["a"])]

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"datatype": "FP64"}, "expects the datatype FP32; received FP64"),
            ({"shape": [1, SIZE, SIZE]}, "192 values for the shape [1, 8, 8]"),
            ({"shape": [1, 3, SIZE, SIZE]}, "expects the shape [any, 8, 8, 3]; received [1, 3, 8, 8]"),
            ({"shape": [-1, 3]}, "shape of whole numbers"),
            ({"data": None}, "does not make a tensor of DT_FLOAT"),
            ({"name": "other"}, "has the inputs image; received other"),
            ({"data": [128.0] * (SIZE * SIZE * 3)}, "expects RGB pixels in [0, 1]"),
        ],
    )
    def test_tensors_that_do_not_fit_are_refused(self, server, change, words):
        image = {"name": "image", "datatype": "FP32", "shape": [1, SIZE, SIZE, 3], "data": [0.5] * (SIZE * SIZE * 3)}
        status, answer = self.infer(server, image | change)
        assert status == 400 and words in answer["error"]


def infer_request(values=None, shape=(1, SIZE, SIZE, 3), name="image", datatype="FP32", raw=None, **more):
    wanted = MESSAGES["ModelInferRequest"](model_name="tiny", **more)
    tensor = wanted.inputs.add(name=name, datatype=datatype, shape=shape)
    if values is not None:
        contents = tensor.contents.bytes_contents if datatype == "BYTES" else tensor.contents.fp32_contents
        contents.extend(values)
    if raw is not None:
        wanted.raw_input_contents.append(raw)
    return wanted


class TestOpenInferenceOverGrpc:
    """The same protocol over gRPC, by its messages and by the client of Triton."""

    def call(self, server, method, wanted):
        ask = server.channel.unary_unary(
            f"/inference.GRPCInferenceService/{method}",
            MESSAGES[f"{method}Request"].SerializeToString,
            MESSAGES[f"{method}Response"].FromString,
        )
        return ask(wanted, timeout=30)

    def infer(self, server, wanted):
        answer = self.call(server, "ModelInfer", wanted)
        (output,) = answer.outputs
        assert (output.name, output.datatype) == ("fake_probability", "FP32")
        return answer, np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(output.shape)

    def test_values_raw_contents_and_versions(self, server):
        image = np.full((2, SIZE, SIZE, 3), 0.5, np.float32)
        for given in ({"values": image.ravel().tolist()}, {"raw": image.tobytes()}):
            answer, scores = self.infer(server, infer_request(shape=image.shape, id="7", **given))
            assert (answer.model_version, answer.id, scores.shape) == ("2", "7", (2, 1))
            np.testing.assert_allclose(scores, 0.25, atol=1e-6)
        pictures = b"".join(len(data).to_bytes(4, "little") + data for data in (picture(0), picture(255)))
        answer, scores = self.infer(
            server, infer_request(None, [2], "image_bytes", "BYTES", pictures, model_version="1")
        )
        np.testing.assert_allclose(scores[:, 0], [0, 1], atol=1e-6)
        metadata = self.call(server, "ModelMetadata", MESSAGES["ModelMetadataRequest"](name="tiny"))
        assert list(metadata.versions) == ["2", "1"] and list(metadata.inputs[0].shape) == [-1, SIZE, SIZE, 3]
        ready = {"tiny": True, "other": False}
        for name, is_ready in ready.items():
            assert self.call(server, "ModelReady", MESSAGES["ModelReadyRequest"](name=name)).ready == is_ready

    @pytest.mark.parametrize(
        ("wanted", "code", "words"),
        [
            (infer_request([0.5], datatype="FP64"), "INVALID_ARGUMENT", "expects the datatype FP32; received FP64"),
            (infer_request([0.5]), "INVALID_ARGUMENT", "1 values for the shape [1, 8, 8, 3]"),
            (infer_request(raw=b"123"), "INVALID_ARGUMENT", "0.75 values for the shape"),
            (infer_request([0.5] * 192, [1, 3, SIZE, SIZE]), "INVALID_ARGUMENT", "expects the shape [any, 8, 8, 3]"),
            (infer_request([0.5] * 192, [-1, SIZE, SIZE, 3]), "INVALID_ARGUMENT", "no size may be below 0"),
            (infer_request([128.0] * 192), "INVALID_ARGUMENT", "expects RGB pixels in [0, 1]"),
            (infer_request([0.5] * 192, name="other"), "INVALID_ARGUMENT", "has the inputs image; received other"),
            (infer_request([0.5] * 192, raw=bytes(768)), "INVALID_ARGUMENT", "contents beside raw_input_contents"),
            (infer_request(None, [1], "text", "BYTES", b"\xff\0\0\0x"), "INVALID_ARGUMENT", "end within an element"),
            (infer_request(None, [1], "text", "BYTES", bytes(12)), "INVALID_ARGUMENT", "2 values for the shape [1]"),
            (infer_request([0.5] * 192, model_version="9"), "NOT_FOUND", "Servable not found"),
            (infer_request([0.5] * 192, model_version="new"), "INVALID_ARGUMENT", "expected a version number"),
        ],
    )
    def test_tensors_that_do_not_fit_are_refused(self, server, wanted, code, words):
        found, message = refused(self.call, server, "ModelInfer", wanted)
        assert found == code and words in message

    def test_shared_memory_is_refused(self, server):
        wanted = infer_request()
        wanted.inputs[0].parameters["shared_memory_region"].string_param = "region"
        assert refused(self.call, server, "ModelInfer", wanted)[0] == "UNIMPLEMENTED"

    def test_the_client_of_triton(self, server):
        python = os.environ.get("TFDFD_TRITONCLIENT", sys.executable)
        if subprocess.run([python, "-c", "import tritonclient.grpc"], capture_output=True).returncode:
            pytest.skip("no tritonclient[grpc]: install it, or name a Python that has it in $TFDFD_TRITONCLIENT")
        file = Path(__file__).with_name("triton_client.py")
        done = subprocess.run([python, str(file), server.address], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["scores"] == pytest.approx([0.25, 0.25], abs=1e-6)
        assert told["of_pictures"] == pytest.approx([0, 1], abs=1e-6)
        assert told["versions"] == ["2", "1"] and told["states"] == [True] * 4
        assert "expects the datatype FP32; received FP64" in told["refused"]
        assert "expects the shape [any, 8, 8, 3]" in told["refused_layout"]
