"""`tfdfd detect --server`: faces found here, scored there, the same JSON; and what happens when there is no answer."""

import json
import subprocess
import sys
from importlib.resources import files

import cv2
import grpc
import jsonschema
import numpy as np
import pytest
from PIL import Image

from tests.fake_serving import Script, grpc_server
from tfdfd.detect.detector import Detector
from tfdfd.remote import (
    MAX_REQUEST_BYTES,
    RemoteError,
    RemoteScorer,
    Server,
    find_served,
    messages,
)
from tfdfd.runtime.networks import open_network, proof_crops
from tfdfd.weights import base_of, is_large, list_records
from tfdfd.weights.store import locate

SCHEMA = json.loads((files("tfdfd") / "detect/detect.schema.json").read_text("utf-8"))
SAMPLE = files("tfdfd") / "samples/blended.mp4"
SERVED = "tfdfd/meso_inception4"


@pytest.fixture(scope="module")
def scorer():
    """The served model as `detect` runs it here."""
    from tfdfd.runtime.networks import Scorer

    return Scorer(open_network(*locate(SERVED))[0])


@pytest.fixture(scope="module")
def scores(scorer):
    """The same for encoded crops, as a server runs it."""

    def of(crops):
        pixels = [cv2.imdecode(np.frombuffer(crop, np.uint8), cv2.IMREAD_COLOR_RGB) for crop in crops]
        if any(crop is None for crop in pixels):
            raise ValueError("no image")
        return scorer(np.stack(pixels)).tolist()

    return of


@pytest.fixture
def face(tmp_path, astronaut):
    Image.fromarray(astronaut[:256, 96:352]).save(tmp_path / "face.png")
    return tmp_path / "face.png"


def without_times(document):
    for result in document["results"]:
        result.pop("elapsed_s", None)
    return document


@pytest.mark.parametrize("as_bytes", [False, True], ids=["numbers", "bytes"])
def test_the_json_is_that_of_a_local_detect(run_tfdfd, scores, face, as_bytes):
    words = ["detect", SAMPLE, face, "no/such/file.jpg", "--detector", "haar", "--frames", 8, "--json", "-", "--quiet"]
    _, local, _ = run_tfdfd(*words, "--model", SERVED)
    script = Script(scores)
    with grpc_server(script, as_bytes=as_bytes) as address:
        code, remote, _ = run_tfdfd(*words, "--server", address, "--model", "meso_inception4")
    assert code == 3
    local, remote = (without_times(json.loads(text)) for text in (local, remote))
    jsonschema.validate(json.loads(json.dumps(remote | {"results": []})), SCHEMA)
    assert remote["model"] == local["model"]
    assert same(remote, local)
    assert {request.model_spec.name for request in script.requests} == {"meso_inception4"}
    assert all(request.ByteSize() <= MAX_REQUEST_BYTES + 1000 for request in script.requests)


def same(a, b):
    """Whether two documents are equal but for 1e-5 in numbers."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= 1e-5
    return a == b


def test_messages_are_the_official_ones():
    """Each reads what the other writes, and the fields have the same names, numbers and types."""
    from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2
    from tensorflow_serving.apis import model_pb2, predict_pb2

    from tfdfd.remote import DT_FLOAT, DT_STRING

    official = predict_pb2.PredictRequest()
    official.model_spec.name, official.model_spec.signature_name = "a", "b"
    official.model_spec.version.value = 2**40
    official.output_filter.append("c")
    official.inputs["d"].CopyFrom(tensor_pb2.TensorProto(dtype=DT_STRING, string_val=[b"\xff\x00", b""]))
    official.inputs["d"].tensor_shape.dim.add(size=2)
    ours = messages()["PredictRequest"].FromString(official.SerializeToString())
    assert (ours.model_spec.version.value, ours.inputs[0].value.string_val[0]) == (2**40, b"\xff\x00")
    assert predict_pb2.PredictRequest.FromString(ours.SerializeToString()) == official

    answer = predict_pb2.PredictResponse()
    answer.outputs["e"].CopyFrom(tensor_pb2.TensorProto(dtype=DT_FLOAT, float_val=[0.25], tensor_content=b"abcd"))
    ours = messages()["PredictResponse"].FromString(answer.SerializeToString())
    assert predict_pb2.PredictResponse.FromString(ours.SerializeToString()) == answer

    twins = {
        "ModelSpec": model_pb2.ModelSpec,
        "Tensor": tensor_pb2.TensorProto,
        "TensorShape": tensor_shape_pb2.TensorShapeProto,
        "Dim": tensor_shape_pb2.TensorShapeProto.Dim,
        "PredictRequest": predict_pb2.PredictRequest,
        "PredictResponse": predict_pb2.PredictResponse,
    }
    for name, message in messages()["PredictRequest"].DESCRIPTOR.file.message_types_by_name.items():
        for field in message.fields if name in twins else []:
            twin = twins[name].DESCRIPTOR.fields_by_name[field.name]
            enumerated = {twin.TYPE_ENUM: field.TYPE_INT32}
            assert (field.number, field.type, field.is_repeated) == (
                twin.number,
                enumerated.get(twin.type, twin.type),
                twin.is_repeated,
            )


def test_tensorflow_is_not_imported(scores, face):
    program = (
        "import sys; from tfdfd.cli.main import main; code = main(sys.argv[1:]);"
        "print({'tensorflow', 'keras', 'openvino'} & set(sys.modules), file=sys.stderr); sys.exit(code)"
    )
    with grpc_server(Script(scores)) as address:
        words = ["detect", face, "--detector", "haar", "--model", SERVED, "--server", address, "--quiet"]
        done = subprocess.run([sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "set()"), done.stderr


def test_a_server_that_is_away_scores_nothing_and_says_so(run_tfdfd, face, tmp_path):
    code, stdout, stderr = run_tfdfd(
        "detect", face, "--server", "127.0.0.1:1", "--server-timeout", 20, "--json", tmp_path / "a.json"
    )
    assert (code, stdout) == (1, "")
    assert "127.0.0.1:1 cannot be reached" in stderr and "Traceback" not in stderr
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("NOT_FOUND", "does not serve meso_inception4"),
        ("INVALID_ARGUMENT", "refused: INVALID_ARGUMENT"),
        ("UNAUTHENTICATED", "refused: UNAUTHENTICATED"),
    ],
)
def test_a_refusal_is_told_and_not_repeated(run_tfdfd, scores, face, status, told):
    script = Script(scores, [getattr(grpc.StatusCode, status)] * 3)
    with grpc_server(script) as address:
        code, stdout, stderr = run_tfdfd("detect", face, "--model", SERVED, "--server", address)
    assert (code, stdout) == (1, "")
    assert told in stderr
    assert len(script.requests) == 1


def test_a_busy_server_is_asked_again(run_tfdfd, scores, face, tmp_path):
    script = Script(scores, [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
    with grpc_server(script) as address:
        words = ["--detector", "haar", "--model", SERVED, "--server", address, "--report", tmp_path / "a.html"]
        code, stdout, _ = run_tfdfd("detect", face, *words)
    assert code == 0 and "1 of 1 frames" in stdout
    assert address in (tmp_path / "a.html").read_text()


def test_a_server_that_fails_on_the_way_leaves_no_answer(run_tfdfd, scores, face, tmp_path):
    script = Script(scores, [None, grpc.StatusCode.INTERNAL])
    with grpc_server(script) as address:
        code, stdout, stderr = run_tfdfd(
            "detect", face, "--detector", "haar", "--model", SERVED, "--server", address, "--json", tmp_path / "a.json"
        )
    assert (code, stdout) == (1, "")
    assert "INTERNAL" in stderr
    assert not (tmp_path / "a.json").exists()


def test_a_late_server_is_told(scores):
    import threading

    over = threading.Event()
    with grpc_server(Script(scores, [lambda: over.wait(5)])) as address:
        scorer = RemoteScorer(Server(address, timeout_s=0.3), "toy", None, 256)
        with pytest.raises(RemoteError, match="no answer within 0.3 s"):
            scorer(proof_crops(256, 1))
        over.set()
        scorer.close()


@pytest.mark.parametrize("score", [float("nan"), 1.5, -0.1])
def test_what_is_no_probability_is_no_score(score):
    with grpc_server(Script(lambda crops: [score] * len(crops))) as address:
        scorer = RemoteScorer(Server(address), "toy", None, 256)
        with pytest.raises(RemoteError, match="outside"):
            scorer(proof_crops(256, 2))
        scorer.close()


def test_a_score_too_few_is_an_error():
    with grpc_server(Script(lambda crops: [0.5])) as address:
        scorer = RemoteScorer(Server(address), "toy", None, 256)
        with pytest.raises(RemoteError, match="1 values for 2 crops"):
            scorer(proof_crops(256, 2))
        scorer.close()


def card_of(tmp_path, **changes):
    record, _ = locate(SERVED)
    weights = {name: record.card[name] for name in ("file", "sha256", "bytes")}
    known = {name: value for name, value in record.card.items() if name not in weights}
    path = tmp_path / "model_card.json"
    path.write_text(json.dumps(known | {"weights": weights} | changes))
    return path


def test_a_card_tells_threshold_and_proves_the_weights(run_tfdfd, scores, scorer, face, tmp_path):
    expected = scorer(proof_crops(256)).tolist()
    card = card_of(tmp_path, threshold=0.25, handle="tfdfd/meso_inception4.mine", proof_scores=expected)
    script = Script(scores)
    with grpc_server(script) as address:
        words = ["detect", face, "--detector", "haar", "--server", address, "--json", "-", "--model", card]
        code, stdout, stderr = run_tfdfd(*words)
        assert code == 0 and "not proved" not in stderr
        model = json.loads(stdout)["model"]
        assert (model["handle"], model["threshold"]) == ("tfdfd/meso_inception4.mine", 0.25)
        assert script.requests[-1].model_spec.name == "meso_inception4.mine"

        card_of(tmp_path, proof_scores=[score / 2 for score in expected])
        code, stdout, stderr = run_tfdfd(*words)
        assert (code, stdout) == (1, "")
        assert "is not tfdfd/meso_inception4" in stderr and "differs by" in stderr

        for wrong in (expected[:7], 0.5, "scores", [*expected[:7], "x"]):
            card_of(tmp_path, proof_scores=wrong)
            code, stdout, stderr = run_tfdfd(*words)
            assert (code, stdout) == (2, "") and "Traceback" not in stderr

        card_of(tmp_path, proof_scores=None)
        code, stdout, stderr = run_tfdfd(*words)
        assert code == 0
        assert f"it is not proved that {address} serves the weights" in stderr


def test_a_published_model_is_asked_for_by_its_published_name(run_tfdfd, scores, face, tmp_path, monkeypatch):
    from tests.test_publish import copy
    from tfdfd.hub.publish import publish

    card = publish(SERVED, tmp_path / "hub", 1, "my_name", export=copy).folder / "model_card.json"
    monkeypatch.delenv("TFDFD_HUB_SHA256", raising=False)
    script = Script(scores)
    with grpc_server(script) as address:
        for model, hub in ((card, "/nowhere"), ("my_name", tmp_path / "hub"), ("tfdfd/my_name/1", tmp_path / "hub")):
            monkeypatch.setenv("TFDFD_HUB", str(hub))
            words = ["detect", face, "--detector", "haar", "--server", address, "--json", "-", "--model", model]
            code, stdout, stderr = run_tfdfd(*words)
            assert code == 0 and "not proved" not in stderr, stderr
            assert json.loads(stdout)["model"]["handle"] == "tfdfd/my_name"
            assert script.requests[-1].model_spec.name == "my_name"


SMALL = [
    handle
    for handle, record in list_records().items()
    if record.carried and not is_large(record.card) and not base_of(record)
]


@pytest.mark.parametrize("handle", SMALL)
def test_carried_cards_tell_what_their_networks_answer(handle):
    record, path = locate(handle)
    network, _ = open_network(record, path)
    found = network(proof_crops(network.size))
    told = record.card.get("proof_scores")
    assert told == pytest.approx(found.tolist(), abs=1e-4), "run 'python -m tools.proof_scores'"


def test_polarity_the_other_way_round_is_found_out(run_tfdfd, scores, scorer, face, tmp_path):
    card = card_of(tmp_path, proof_scores=scorer(proof_crops(256)).tolist())
    with grpc_server(Script(lambda crops: [1 - score for score in scores(crops)])) as address:
        code, stdout, stderr = run_tfdfd("detect", face, "--server", address, "--model", card)
    assert (code, stdout) == (1, "") and "is not tfdfd/meso_inception4" in stderr


def test_a_version_is_asked_for(scores, face):
    script = Script(scores)
    with grpc_server(script) as address, Detector(f"{SERVED}/7", "haar", server=Server(address)) as detector:
        detector.detect(face)
    assert {request.model_spec.version.value for request in script.requests} == {7}
    assert {request.model_spec.signature_name for request in script.requests} == {"image_bytes"}


def test_weights_need_not_be_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "meso4.df").mkdir()  # as in a hub
    served = find_served("meso4.df")
    assert (served.record.handle, served.name, served.version) == ("tfdfd/meso4.df", "meso4.df", None)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--server", "localhost"], "must be HOST:PORT"),
        (["--server", "http://localhost:8501"], "must be HOST:PORT"),
        (["--server", "a:0"], "must be HOST:PORT"),
        (["--server", "a:99999"], "must be HOST:PORT"),
        (["--server", "a:1", "--server-timeout", "0"], "must be seconds"),
        (["--server", "a:1", "--server-timeout", "nan"], "must be seconds"),
        (["--server", "a:1", "--server-ca", "absent.pem"], "there is no file absent.pem"),
        (["--server", "a:1", "--server-cert", "a.pem"], "needs its key"),
        (["--server", "a:1", "--runtime", "tensorflow"], "the server's choice"),
        (["--server", "a:1", "--model", "nobody"], "the card that is published"),
        (["--server", "a:1", "--model", "absent.json"], "cannot be read"),
        (["--server-ca", "a.pem"], "is for --server"),
        (["--server-timeout", "5"], "is for --server"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_told(run_tfdfd, face, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = run_tfdfd("detect", face, *words)
    assert (code, stdout) == (2, "")
    assert told in stderr


@pytest.mark.parametrize("text", ["no JSON", "[]", "{}", '{"handle": "tfdfd/a"}'])
def test_a_card_that_is_none_is_told(run_tfdfd, face, tmp_path, text):
    (tmp_path / "card.json").write_text(text)
    code, _, stderr = run_tfdfd("detect", face, "--server", "a:1", "--model", tmp_path / "card.json")
    assert code == 2 and "model card" in stderr
