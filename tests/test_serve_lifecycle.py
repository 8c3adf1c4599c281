"""A life of a server: hot swap under load, a stop that finishes what it accepted, a kill, TLS, configurations."""

import argparse
import asyncio
import contextlib
import json
import os
import resource
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.request

import grpc
import psutil
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from benchmarks.soak import rows_of, soak
from tests.served import Server, State, picture, refused, request, until, write_model
from tfdfd.serve.trial import Trials


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Two versions to copy: the second gives half of what the first gives."""
    folder = tmp_path_factory.mktemp("versions")
    write_model(folder / "1", 1.0)
    write_model(folder / "2", 0.5)
    return folder


@pytest.fixture
def models(versions, tmp_path):
    shutil.copytree(versions / "1", tmp_path / "tiny" / "1")
    return tmp_path / "tiny"


def add(versions, number, models):
    """A version appears, at once and whole."""
    shutil.copytree(versions / str(number), models / f".{number}")
    (models / f".{number}").rename(models / str(number))


def test_hot_swap_under_load_fails_no_request(versions, models):
    with Server("--models", models, "--allow-any-graph", "--poll-seconds", 0.1) as server:
        answers, errors, over = [], [], threading.Event()

        def client():
            while not over.is_set():
                try:
                    answer = server.predict(request([picture()]))
                except grpc.RpcError as error:
                    errors.append(f"{error.code()}: {error.details()}")
                else:
                    score = answer.outputs["fake_probability"].float_val[0]
                    answers.append((answer.model_spec.version.value, round(score, 2)))

        clients = [threading.Thread(target=client) for _ in range(8)]
        for each in clients:
            each.start()
        try:
            until(lambda: len(answers) > 50, 60)
            add(versions, 2, models)
            until(lambda: server.available() == {2} and server.states()[1].state == State.END, 60)
            seen = len(answers)
            until(lambda: len(answers) > seen + 50, 60)
        finally:
            over.set()
            for each in clients:
                each.join()
        assert errors == []
        # Each answer is of the version that it names.
        assert set(answers) == {(1, 1.0), (2, 0.5)}


def test_sigterm_finishes_what_was_accepted(models):
    with Server("--models", models, "--allow-any-graph", "--max-seconds", 60) as server:
        watch = HealthStub(server.channel).Watch(HealthCheckRequest())
        assert next(watch).status == HealthCheckResponse.SERVING
        steps = calibrated(server, seconds=0.3)
        body = json.dumps({"signature_name": "slow", "instances": [steps]}).encode()
        told = []
        also = threading.Thread(target=lambda: told.append(server.get("/v1/models/tiny:predict", body)))
        also.start()
        # One row more than a batch, several times: some are computed when the signal comes, and some wait.
        calls = [server.stub.Predict.future(request([steps] * 17, "steps", "slow"), timeout=120) for _ in range(6)]
        until(lambda: server.metric("tfdfd_serve_requests_in_flight") == 7)
        server.process.send_signal(signal.SIGTERM)
        assert next(watch).status == HealthCheckResponse.NOT_SERVING
        assert [call.code().name for call in calls] == ["OK"] * 6
        assert all(len(call.result().outputs["done"].float_val) == 17 for call in calls)
        also.join()
        assert told[0][0] == 200
        assert server.wait() == 0
        assert refused(server.predict, request([picture()]), timeout=5)[0] == "UNAVAILABLE"


def calibrated(server, seconds):
    """How many steps of `slow` take so long here."""
    steps = 1000
    while True:
        begun = time.perf_counter()
        server.predict(request([steps], "steps", "slow"))
        if time.perf_counter() - begun > seconds:
            return steps
        steps *= 2


def test_kill_and_restart_serve_the_same_versions(versions, models):
    add(versions, 2, models)
    (models / "3").mkdir()
    (models / "3" / "saved_model.pb").write_bytes(b"broken")
    words = ("--models", models, "--allow-any-graph")
    with Server(*words) as server:
        before = {number: one.state for number, one in server.states().items()}
        assert before == {3: State.END, 2: State.AVAILABLE}
        pending = [server.stub.Predict.future(request([picture()]), timeout=30) for _ in range(20)]
        server.process.kill()
        assert server.wait() == -signal.SIGKILL
        for call in pending:
            with contextlib.suppress(grpc.RpcError):
                call.result()
        port, rest_port = server.port, server.rest_port
    with Server(*words, port=port, rest_port=rest_port) as server:
        assert {number: one.state for number, one in server.states().items()} == before
        assert server.scores([picture()]) == pytest.approx([0.5], abs=1e-3)


CONFIG = """
model_config_list {
  config {
    name: "tiny" base_path: "%s" model_platform: "tensorflow"
    model_version_policy { specific { versions: 1 versions: 2 } }
    version_labels { key: "stable" value: %d }
  }
}
"""


def test_a_configuration_file_is_followed_and_may_be_replaced(versions, models, tmp_path):
    add(versions, 2, models)
    file = tmp_path / "models.config"
    file.write_text(CONFIG % (models, 1))
    words = ("--model-config", file, "--allow-any-graph", "--allow-reload", "--poll-seconds", 0.1)
    with Server(*words) as server:
        assert server.available() == {1, 2}
        assert server.scores([picture()], label="stable") == pytest.approx([1], abs=1e-3)
        file.write_text("no configuration at all")
        until(lambda: any("what is served stays" in note for note in server.notes))
        file.write_text(CONFIG % (models, 2))
        until(lambda: server.scores([picture()], label="stable")[0] < 0.9)
        asked = ReloadConfigRequest()
        asked.config.model_config_list.config.add(name="other", base_path=str(models), model_platform="tensorflow")
        assert server.states_stub.HandleReloadConfigRequest(asked, timeout=60).status.error_code == 0
        assert server.available("other") == {2}
        assert refused(server.states) == ("NOT_FOUND", "Could not find any versions of model tiny")
        asked.config.model_config_list.config[0].base_path = "relative"
        code, message = refused(server.states_stub.HandleReloadConfigRequest, asked)
        assert code == "INVALID_ARGUMENT" and "absolute" in message
        assert server.scores([picture()], model="other") == pytest.approx([0.5], abs=1e-3)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority, and certificates of it for the server and for one client."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make certificates with")
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-days", "1", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name in ("server", "client"):
        openssl("req", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        sign = (
            "x509",
            "-req",
            "-days",
            "1",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-extfile",
            "names",
        )
        openssl(*sign, "-in", f"{name}.csr", "-out", f"{name}.pem")
    return folder


def test_tls_asks_clients_who_they_are(models, certificates):
    ca, cert, key = certificates / "ca.pem", certificates / "client.pem", certificates / "client.key"
    words = ("--tls-cert", certificates / "server.pem", "--tls-key", certificates / "server.key", "--client-ca", ca)
    with Server("--models", models, "--allow-any-graph", *words) as server:
        known = grpc.ssl_channel_credentials(ca.read_bytes(), key.read_bytes(), cert.read_bytes())
        with grpc.secure_channel(server.address, known) as channel:
            answer = PredictionServiceStub(channel).Predict(request([picture()]), timeout=30)
            assert answer.outputs["fake_probability"].float_val[0] == pytest.approx(1, abs=1e-3)
        with grpc.secure_channel(server.address, grpc.ssl_channel_credentials(ca.read_bytes())) as channel:
            code = refused(PredictionServiceStub(channel).Predict, request([picture()]), timeout=5)[0]
            assert code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
        assert refused(server.predict, request([picture()]), timeout=5)[0] in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
        url = f"https://127.0.0.1:{server.rest_port}/v1/models/tiny"
        context = ssl.create_default_context(cafile=ca)
        with pytest.raises((OSError, ssl.SSLError)):
            urllib.request.urlopen(url, timeout=10, context=context).read()  # noqa: S310
        context.load_cert_chain(cert, key)
        with urllib.request.urlopen(url, timeout=10, context=context) as reply:  # noqa: S310
            assert reply.status == 200


def failure(*words):
    """Exit code and what is said of a server that must not start."""
    command = [sys.executable, "-m", "tfdfd", "serve", *map(str, words), "--port", "0", "--rest-port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_a_graph_that_could_do_more_than_compute_is_refused(tmp_path):
    import tensorflow as tf

    class Reader(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="name")])
        def read(self, name):
            return {"content": tf.io.read_file(name)}

    reader = Reader()
    tf.saved_model.save(reader, str(tmp_path / "reader" / "1"), signatures=reader.read)
    code, said = failure("--models", tmp_path / "reader")
    assert code == 1
    assert "ReadFile" in said


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "expected --models or --model-config"),
        (("--models", "nowhere"), 2, "there is no folder 'nowhere'"),
        (("--models", "."), 1, "has no version"),
        (("--models", "a=.", "a=."), 2, "two models have the name 'a'"),
        (("--models", "a/b=."), 2, "no '/'"),
        (("--models", "tfdfd/nothing"), 2, "nothing"),
        (("--models", "a=.", "--versions", "few"), 2, "'all'"),
        (("--models", "a=.", "--label", "b:stable=1"), 2, "--label expects"),
        (("--models", "a=.", "--tls-cert", "x"), 2, "belong together"),
        (("--models", "a=.", "--max-batch", "0"), 2, "max_batch must be at least 1"),
    ],
)
def test_wrong_usage(words, code, said, tmp_path, monkeypatch, run_tfdfd):
    monkeypatch.chdir(tmp_path)
    found, out, err = run_tfdfd("serve", *words, "--port", 0, "--rest-port", 0)
    assert found == code
    assert said in err
    assert out == ""


def test_addresses_that_others_reach_are_told_of(tmp_path, run_tfdfd):
    code, _, err = run_tfdfd("serve", "--models", tmp_path, "--host", "0.0.0.0", "--port", 0, "--rest-port", -1)  # noqa: S104
    assert code == 1
    assert "clients are not authenticated" in err


def broken(folder, kind):
    """A SavedModel of allowed operations alone that never finishes loading, or crashes the process that loads it."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        scale = v1.get_variable("scale", initializer=1.0)
        image = v1.placeholder(tf.float32, [None, 8, 8, 3], name="image")
        score = tf.reduce_mean(image, axis=(1, 2))[:, :1] * scale
        session.run(v1.global_variables_initializer())
        endless = v1.while_loop(lambda i: tf.constant(True), lambda i: (i + 1) % 7, [0])
        builder = v1.saved_model.builder.SavedModelBuilder(str(folder))
        signature = v1.saved_model.signature_def_utils.predict_signature_def(
            {"image": image}, {"fake_probability": score}
        )
        start = tf.group(*tf.nest.flatten(endless)) if kind == "hang" else None
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature}, main_op=start)
        builder.save()
    if kind == "crash":  # a function that calls itself, when it is loaded
        model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
        graph = model.meta_graphs[0].graph_def
        function = graph.library.function.add()
        function.signature.name = "again"
        function.signature.output_arg.add(name="o", type=1)
        function.ret["o"] = "call:output:0"
        for node in (function.node_def.add(name="call"), graph.node.add(name="call")):
            node.op = "PartitionedCall"
            node.attr["Tin"].list.SetInParent()
            node.attr["Tout"].list.type.append(1)
            node.attr["f"].func.name = "again"
        model.meta_graphs[0].signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"].name = "call:0"
        (folder / "saved_model.pb").write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("kind", "seconds", "why"),
    [
        ("crash", 60, "it crashed the process"),
        pytest.param("hang", 2, "it did not load within 2 s", marks=pytest.mark.slow),
    ],
)
def test_a_version_that_crashes_or_hangs_its_loader_is_quarantined(models, tmp_path, monkeypatch, kind, seconds, why):
    """The running version goes on, and is what a restart serves, without another try."""
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    Trials(60, 60).check(models / "1")  # known to be good, however slow the machine
    words = ("--models", models, "--allow-any-graph", "--poll-seconds", 0.1, "--load-seconds", seconds)
    with Server(*words, trial=True) as server:
        broken(tmp_path / "2", kind)
        (tmp_path / "2").rename(models / "2")
        until(lambda: 2 in server.states() and server.states()[2].state == State.END, 120)
        message = server.states()[2].status.error_message
        assert "quarantined: " + why in message
        assert server.available() == {1} and server.scores([picture()]) == pytest.approx([1], abs=1e-3)
    with Server(*words, trial=True) as server:
        assert server.available() == {1} and server.states()[2].status.error_message == message
        assert server.scores([picture()]) == pytest.approx([1], abs=1e-3)


def test_a_pipe_among_the_files_is_refused(models):
    with Server("--models", models, "--allow-any-graph", "--poll-seconds", 0.1, trial=True) as server:
        shutil.copytree(models / "1", models / ".2")
        (models / ".2" / "variables" / "variables.index").unlink()
        os.mkfifo(models / ".2" / "variables" / "variables.index")
        (models / ".2").rename(models / "2")
        until(lambda: 2 in server.states() and server.states()[2].state == State.END, 60)
        assert "is not a regular file" in server.states()[2].status.error_message
        assert server.available() == {1}


def test_a_stop_ends_within_its_grace_whatever_is_computed(models):
    with Server("--models", models, "--allow-any-graph", "--max-seconds", 60, "--grace-seconds", 4) as server:
        calls = [server.stub.Predict.future(request([10**9], "steps", "slow"), timeout=120) for _ in range(4)]
        until(lambda: server.metric("tfdfd_serve_requests_in_flight") == 4)
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        code = server.wait()
        assert time.monotonic() - begun < 8
        assert code == 1 and any("the grace period is over" in note for note in server.notes)
        assert {call.code().name for call in calls} <= {"UNAVAILABLE", "CANCELLED"}


def test_an_idle_server_ends_at_once(models):
    """Python must not look for garbage in all of TensorFlow, which took more than a second."""
    words = ("--models", models, "--allow-any-graph", "--sandbox", "off")
    with Server(*words) as server:
        ended = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        times = psutil.Process(server.process.pid).cpu_times()
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        took = time.monotonic() - begun
        spent = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - ended - times.user - times.system
    # On an idle machine, both are the same.
    assert spent < 0.6 and took < 10


@pytest.mark.slow  # as `python -m benchmarks.soak`, and each thing has a test of its own
def test_a_soak_of_everything_at_once_fails_no_good_request(versions, tmp_path, monkeypatch):
    """Seconds of what `benchmarks.soak` does for ten minutes."""
    shutil.copytree(versions / "1", tmp_path / "model" / "1")
    settings = argparse.Namespace(seconds=4.0, requests=400, clients=8, swaps=1)
    with Server("--models", tmp_path / "model", "--allow-any-graph", "--poll-seconds", 0.1) as server:
        monkeypatch.setattr(server, "resident_bytes", lambda: 1, raising=False)
        monkeypatch.setattr(server, "rest_address", server.rest.removeprefix("http://"), raising=False)
        seen = asyncio.run(soak(server, tmp_path / "model", [picture(n, 32) for n in (9, 200)], settings))
        assert server.process.poll() is None
    rows = {row[0]: row for row in rows_of(seen)}
    assert rows["good requests"][3] and rows["hostile requests"][3], rows
    assert seen["hostile"] > 10 and set(seen["versions"]) == {1, 2}
    assert seen["storm"]["DEADLINE_EXCEEDED"] and seen["half_open"] >= 32
