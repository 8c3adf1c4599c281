"""`tfdfd serve` asked as TensorFlow Serving is asked: every call of the official stubs, health, and REST."""

import base64
import json
import shutil

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
