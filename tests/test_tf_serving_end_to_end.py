"""The clients, the load test, `detect --server` and ready.sh against `tfdfd serve` with a models.config of ours."""

import json
import subprocess
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.served import Server
from tests.test_detect_server import same, without_times
from tf_serving.client_grpc import GrpcClient
from tf_serving.client_rest import RestClient
from tf_serving.load_test import main as load_test
from tf_serving.models_config import models_config
from tf_serving.scoring import ServingError, score_files
from tfdfd.detect.detector import Detector
from tfdfd.remote import Server as RemoteServer

ROOT = Path(__file__).parent.parent
HUB = ROOT / "saved_models"
MODEL = "meso_inception4"
SAMPLES = ROOT / "tfdfd" / "samples"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """`models.config` of the hub in this repository, where it lies here."""
    file = tmp_path_factory.mktemp("config") / "models.config"
    file.write_text(models_config(HUB, mount=str(HUB)))
    return file


@pytest.fixture(scope="module")
def server(config):
    with Server("--model-config", config) as server:
        yield server


@pytest.fixture(scope="module")
def local():
    with Detector(f"tfdfd/{MODEL}", "haar", frames=6, runtime="tensorflow") as detector:
        outcomes = [detector.detect(path) for path in sorted(SAMPLES.glob("*.mp4"))]
        yield detector.to_json(outcomes), outcomes


@pytest.fixture(scope="module")
def crops(local, tmp_path_factory):
    """Faces of the samples as PNG files, and their scores by Keras."""
    folder, scores = tmp_path_factory.mktemp("crops"), {}
    for outcome in local[1]:
        for frame in outcome.faces[0].frames:
            path = folder / f"{Path(outcome.path).stem}-{frame.index}.png"
            Image.fromarray(frame.crop).save(path)
            scores[str(path)] = frame.fake_probability
    return scores


def test_detect_gives_the_json_of_this_machine(run_tfdfd, server, local):
    words = ["--detector", "haar", "--frames", 6, "--json", "-", "--quiet", "--server", server.address]
    code, stdout, stderr = run_tfdfd("detect", SAMPLES, *words, "--model", MODEL)
    assert code == 0
    assert "not proved" not in stderr
    found, expected = json.loads(stdout), json.loads(json.dumps(local[0]))
    for document in (found, expected):
        for result in document["results"]:
            result["path"] = Path(result["path"]).name
    assert same(without_times(found), without_times(expected))
    scores = {result["path"]: result["fake_probability"] for result in found["results"]}
    assert scores["blended.mp4"] > scores["genuine.mp4"] + 0.1


def test_a_crop_with_a_version_of_the_model(server, crops):
    path, score = next(iter(crops.items()))
    with Detector(f"tfdfd/{MODEL}/1", "none", server=RemoteServer(server.address)) as detector:
        assert detector.detect(path).fake_probability == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize(
    ("model", "told"), [("meso_inception4/9", "does not serve meso_inception4, version 9"), ("meso4.df", "meso4.df")]
)
def test_detect_with_what_the_server_has_not(run_tfdfd, server, model, told):
    code, stdout, stderr = run_tfdfd("detect", SAMPLES, "--server", server.address, "--model", model)
    assert (code, stdout) == (1, "")
    assert "does not serve" in stderr and told in stderr


@pytest.mark.parametrize("which", [{}, {"version": 1}, {"label": "stable"}, {"label": "canary"}], ids=str)
def test_clients_score_as_detect_does(server, crops, which):
    with ExitStack() as stack:
        for client in (GrpcClient(server.address, MODEL, **which), RestClient(server.rest, MODEL, **which)):
            stack.enter_context(client)
            outcomes = list(score_files(crops, client.predict, most=5))
            assert {outcome.path: outcome.fake_probability for outcome in outcomes} == pytest.approx(crops, abs=1e-5)


@pytest.mark.parametrize(
    ("which", "status"),
    [({"version": 9}, "NOT_FOUND"), ({"label": "nobody"}, "INVALID_ARGUMENT"), ({"model": "nobody"}, "NOT_FOUND")],
    ids=str,
)
def test_both_clients_tell_the_same_of_what_is_not_there(server, crops, which, status):
    crop = [Path(next(iter(crops))).read_bytes()]
    model = which.pop("model", MODEL)
    for client in (GrpcClient(server.address, model, **which), RestClient(server.rest, model, **which)):
        with client, pytest.raises(ServingError) as caught:
            client.predict(crop)
        assert caught.value.status == status


def test_a_truncated_crop_costs_nobody_else_a_score(server, crops, tmp_path):
    whole = Path(next(iter(crops)))
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:2000])
    for client in (GrpcClient(server.address, MODEL), RestClient(server.rest, MODEL)):
        with client:
            first, broken, last = score_files([str(whole), str(cut), str(whole)], client.predict)
        assert first.fake_probability == last.fake_probability == pytest.approx(crops[str(whole)], abs=1e-5)
        assert broken.fake_probability is None and "INVALID_ARGUMENT" in broken.error


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_load(server, crops, capsys, protocol):
    address = server.address if protocol == "grpc" else server.rest
    words = ["--server", address, "--clients", "4", "--requests", "40", "--warmup", "0", "--label", "stable"]
    assert load_test([*words, "--pid", str(server.process.pid), "--json", "-", *list(crops)[:4]]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["statuses"] == {"OK": 40}
    assert 0 < figures["latency_ms"]["p50"] <= figures["latency_ms"]["p99"] <= figures["latency_ms"]["max"]


def test_ready(server, config, tmp_path):
    words = ["bash", ROOT / "tf_serving" / "ready.sh"]
    assert subprocess.run([*words, config, str(server.rest_port)]).returncode == 0
    (tmp_path / "other").write_text('config {\n  name: "absent"\n}\n')
    done = subprocess.run([*words, tmp_path / "other", str(server.rest_port)], capture_output=True, text=True)
    assert done.returncode == 1 and "absent has no version" in done.stderr


def test_metrics_are_where_monitoring_looks(server, crops):
    """By the names that the queries of the README, the scrape and the autoscaler use."""
    with GrpcClient(server.address, MODEL) as client:
        client.predict([Path(next(iter(crops))).read_bytes()])
    status, text = server.get("/monitoring/prometheus/metrics")
    assert status == 200
    for name in (":tensorflow:serving:request_count", ":tensorflow:serving:request_latency"):
        assert name in text.decode()


def test_scores_do_not_depend_on_the_way(server, crops):
    """Raw floats, over the signature `serving_default`, against PNG."""
    path, score = next(iter(crops.items()))
    body = {"instances": [(np.asarray(Image.open(path)) / 255).tolist()]}
    status, answer = server.get(f"/v1/models/{MODEL}:predict", json.dumps(body).encode())
    assert status == 200
    assert np.ravel(json.loads(answer)["predictions"])[0] == pytest.approx(score, abs=1e-5)
