"""The clients of `tf_serving/` against a server of the official stubs: scores, retries, deadlines, bad answers, TLS."""

import ast
import http.client
import io
import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image

from tests.fake_serving import Script, grpc_server, rest_server
from tf_serving.client_cli import run
from tf_serving.client_grpc import GrpcClient
from tf_serving.client_rest import RestClient
from tf_serving.scoring import MAX_REQUEST_BYTES, ServingError, score_files

FOLDER = Path(__file__).parent.parent / "tf_serving"
BROKEN = "broken"


def brightness(crops):
    """A score that tells which crop it is of, and refuses what is not an image, as the graph does."""
    try:
        return [float(np.float32(np.asarray(Image.open(io.BytesIO(crop))).mean() / 255)) for crop in crops]
    except OSError as error:
        raise ValueError(str(error)) from error


@pytest.fixture(params=["grpc", "rest"])
def kind(request):
    return request.param


@pytest.fixture
def connect(kind):
    """A function that makes a server with some steps and a client of it."""
    with ExitStack() as stack:

        def connect(steps=(), scores=brightness, **options):
            script = Script(scores, steps)
            address = stack.enter_context((grpc_server if kind == "grpc" else rest_server)(script))
            client = (GrpcClient if kind == "grpc" else RestClient)(address, "toy", **options)
            return script, stack.enter_context(client)

        yield connect


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """Files of grey crops, every other a PNG; the score of each is its name."""
    folder = tmp_path_factory.mktemp("crops")
    files = []
    for i, level in enumerate((10, 60, 110, 160, 210)):
        files.append(folder / f"{level}.{'png' if i % 2 else 'jpg'}")
        Image.new("RGB", (32, 32), (level,) * 3).save(files[-1])
    return files


def level(path):
    return int(Path(path).stem) / 255


def status(kind, name):
    numbers = {"UNAVAILABLE": 503, "RESOURCE_EXHAUSTED": 429, "INVALID_ARGUMENT": 400, "NOT_FOUND": 404}
    return getattr(grpc.StatusCode, name) if kind == "grpc" else numbers[name]


def test_scores_come_in_the_order_of_the_files(connect, crops):
    script, client = connect()
    outcomes = list(score_files(map(str, crops), client.predict, most=2))
    assert [outcome.path for outcome in outcomes] == [str(path) for path in crops]
    assert [outcome.fake_probability for outcome in outcomes] == pytest.approx(
        [level(path) for path in crops], abs=0.01
    )
    assert len(script.requests) == 3


@pytest.mark.parametrize("name", ["UNAVAILABLE", "RESOURCE_EXHAUSTED"])
def test_a_busy_server_is_asked_again_later(connect, kind, crops, name):
    script, client = connect([status(kind, name)] * 2)
    begun = time.monotonic()
    assert client.predict([crops[0].read_bytes()]) == pytest.approx([level(crops[0])], abs=0.01)
    assert len(script.requests) == 3
    # Two waits, of 0.1 and 0.3 seconds but for the jitter.
    assert 0.1 < time.monotonic() - begun < 3


def test_who_is_busy_for_long_is_left_alone_after_five_times(connect, kind, crops):
    script, client = connect([status(kind, "UNAVAILABLE")] * 9)
    with pytest.raises(ServingError, match="as the test wants") as caught:
        client.predict([crops[0].read_bytes()])
    assert caught.value.status == "UNAVAILABLE"
    assert len(script.requests) == 5


@pytest.mark.parametrize("name", ["INVALID_ARGUMENT", "NOT_FOUND"])
def test_what_is_wrong_is_not_sent_again(connect, kind, crops, name):
    script, client = connect([status(kind, name)])
    with pytest.raises(ServingError, match="as the test wants") as caught:
        client.predict([crops[0].read_bytes()])
    assert caught.value.status == name
    assert len(script.requests) == 1


def test_a_deadline_ends_waiting_for_an_answer_and_is_not_tried_again(connect, crops):
    over = threading.Event()
    script, client = connect([lambda: over.wait(5)], deadline_s=0.3)
    begun = time.monotonic()
    with pytest.raises(ServingError) as caught:
        client.predict([crops[0].read_bytes()])
    over.set()
    assert caught.value.status == "DEADLINE_EXCEEDED"
    assert time.monotonic() - begun < 1.5
    assert len(script.requests) == 1


def test_a_deadline_ends_retries(connect, kind, crops):
    script, client = connect([status(kind, "UNAVAILABLE")] * 9, deadline_s=0.25)
    begun = time.monotonic()
    with pytest.raises(ServingError):
        client.predict([crops[0].read_bytes()])
    assert time.monotonic() - begun < 1.5
    assert len(script.requests) < 4


def test_a_server_that_is_away_is_unavailable(kind, crops):
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        make = GrpcClient if kind == "grpc" else RestClient
        with (
            make(f"127.0.0.1:{reserved.getsockname()[1]}", "toy") as client,
            pytest.raises(ServingError) as caught,
        ):
            client.predict([crops[0].read_bytes()])
    assert caught.value.status == "UNAVAILABLE"


def test_a_connection_that_was_cut_is_made_anew(crops):
    crop = [crops[0].read_bytes()]
    with rest_server(Script(brightness)) as address, RestClient(address, "toy") as client:
        client.predict(crop)
        # As a proxy does with a connection that was idle for long.
        client._connection.sock.shutdown(socket.SHUT_RDWR)
        assert client.predict(crop)


def test_one_broken_crop_does_not_cost_the_others_their_scores(connect, crops, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff" + b"no more")
    script, client = connect()
    files = [crops[0], broken, crops[1]]
    outcomes = list(score_files(map(str, files), client.predict))
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    assert "INVALID_ARGUMENT" in outcomes[1].error and "cannot identify" in outcomes[1].error
    assert outcomes[2].fake_probability == pytest.approx(level(crops[1]), abs=0.01)
    assert len(script.requests) == 4


def test_what_is_no_crop_is_not_sent(connect, crops, tmp_path):
    text, large = tmp_path / "a.jpg", tmp_path / "b.png"
    text.write_text("text")
    large.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(MAX_REQUEST_BYTES))
    script, client = connect()
    files = [text, large, tmp_path / "absent.png", tmp_path, crops[0]]
    errors = [outcome.error for outcome in score_files(map(str, files), client.predict)]
    for error, told in zip(errors, ["neither a JPEG nor", "too large", "No such file", "directory"], strict=False):
        assert told in error
    assert errors[-1] is None and len(script.requests) == 1


def test_requests_stay_below_the_size_that_servers_take(connect, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    size = (tmp_path / "noise.png").stat().st_size
    script, client = connect()
    outcomes = list(score_files([str(tmp_path / "noise.png")] * 6, client.predict))
    assert all(outcome.error is None for outcome in outcomes)
    assert len(script.requests) == -(-6 // (MAX_REQUEST_BYTES // size)) > 1


def test_a_server_that_fails_is_not_asked_for_the_rest(connect, kind, crops):
    script, client = connect([None, status(kind, "NOT_FOUND")])
    outcomes = list(score_files(map(str, crops), client.predict, most=2))
    assert [outcome.error is None for outcome in outcomes] == [True, True, False, False, False]
    assert len(script.requests) == 2


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -0.25, 1.5])
def test_what_is_no_probability_is_no_score(connect, crops, score):
    _, client = connect(scores=lambda crops: [score] * len(crops))
    with pytest.raises(ServingError) as caught:
        client.predict([crops[0].read_bytes()])
    assert caught.value.status == "INTERNAL"


def test_a_score_too_few_is_no_score(connect, crops):
    _, client = connect(scores=lambda crops: [0.5])
    with pytest.raises(ServingError, match="of 2 crops"):
        client.predict([path.read_bytes() for path in crops[:2]])


def test_versions_and_labels_reach_the_server(connect, kind, crops):
    for options, path in (({"version": 7}, "/versions/7"), ({"label": "stable"}, "/labels/stable"), ({}, "")):
        script, client = connect(**options)
        client.predict([crops[0].read_bytes()])
        (request,) = script.requests
        if kind == "rest":
            assert request[0] == f"/v1/models/toy{path}:predict"
            assert request[1]["signature_name"] == "image_bytes"
        else:
            spec = request.model_spec
            assert (spec.name, spec.signature_name) == ("toy", "image_bytes")
            assert (spec.version.value, spec.version_label) == (options.get("version", 0), options.get("label", ""))


def test_grpc_scores_may_come_as_bytes(crops):
    with grpc_server(Script(brightness), as_bytes=True) as address, GrpcClient(address, "toy") as client:
        assert client.predict([crops[1].read_bytes()]) == pytest.approx([level(crops[1])], abs=1e-6)


@pytest.mark.parametrize(
    "answer", [b"no JSON", b"[]", b"{}", b'{"outputs": 0.5}', b'{"outputs": [["x"]]}', b'{"outputs": [[true]]}',
               b'{"outputs": [[0.5, 0.5]]}', b'{"outputs": {"other": [[0.5]]}}', b" " * 2_000_000]
)  # fmt: skip
def test_other_answers_over_rest_are_no_scores(crops, answer):
    with (
        rest_server(Script(brightness), answer=answer) as address,
        RestClient(address, "toy") as client,
        pytest.raises(ServingError) as caught,
    ):
        client.predict([crops[0].read_bytes()])
    assert caught.value.status == "INTERNAL"


def test_rest_comes_back_when_it_is_told_to(crops):
    script = Script(brightness, [(503, {"Retry-After": "1"})])
    with rest_server(script) as address, RestClient(f"http://{address}", "toy") as client:
        begun = time.monotonic()
        client.predict([crops[0].read_bytes()])
        assert time.monotonic() - begun >= 1


def test_a_server_that_dribbles_is_late(crops):
    """One byte now and then: no single read takes long, the answer does."""

    def dribble(listening):
        connection, _ = listening.accept()
        with connection:
            try:
                for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b" " * 1000:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.02)
            except OSError:
                pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=dribble, args=(listening,))
        thread.start()
        begun = time.monotonic()
        with (
            RestClient(f"127.0.0.1:{listening.getsockname()[1]}", "toy", deadline_s=0.5) as client,
            pytest.raises(ServingError) as caught,
        ):
            client.predict([crops[0].read_bytes()])
        assert caught.value.status == "DEADLINE_EXCEEDED"
        assert time.monotonic() - begun < 2
        thread.join()


@pytest.mark.parametrize("server", ["ftp://a:1", "http://", "//", "http://a:port"])
def test_an_address_that_is_none_is_told(server):
    with pytest.raises(ValueError):
        RestClient(server, "toy")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """PEM files: an authority, a server's certificate for localhost, and a client's, each with its key."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words):
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, cwd=folder)

    new = ["req", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    openssl(*new, "-x509", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test authority")
    for name in ("server", "client"):
        openssl(*new[:-2], "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "names").write_text("subjectAltName=DNS:localhost\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days",
                "2", "-out", f"{name}.crt", "-extfile", "names")  # fmt: skip
    return folder


def encrypted(kind, folder, script):
    """A server that wants certificates of its clients."""
    if kind == "grpc":
        pair = ((folder / "server.key").read_bytes(), (folder / "server.crt").read_bytes())
        authority = (folder / "ca.crt").read_bytes()
        return grpc_server(script, credentials=grpc.ssl_server_credentials([pair], authority, True))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    context.load_verify_locations(folder / "ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    return rest_server(script, context=context)


def test_encrypted_with_certificates_of_both_sides(kind, certificates, crops):
    files = {name: str(certificates / file) for name, file in (("ca", "ca.crt"), ("cert", "client.crt"), ("key", "client.key"))}  # fmt: skip  # noqa: E501
    make = GrpcClient if kind == "grpc" else RestClient
    crop = [crops[0].read_bytes()]
    with encrypted(kind, certificates, Script(brightness)) as address:
        with make(address, "toy", **files) as client:
            assert client.predict(crop)
        for options in ({"ca": files["ca"]}, {"tls": True}, {}):
            with make(address, "toy", deadline_s=1, **options) as client, pytest.raises(ServingError):
                client.predict(crop)


def test_the_command_line(kind, crops, capsys, tmp_path):
    make, serve = (GrpcClient, grpc_server) if kind == "grpc" else (RestClient, rest_server)
    (tmp_path / "text.jpg").write_text("text")
    with serve(Script(brightness)) as address:

        def words(*more):
            return run(make, "A client.", "default:1", ["--server", address, "--model", "toy", *map(str, more)])

        assert words(crops[0], crops[1]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split("\t")[1] for line in lines] == [str(path) for path in crops[:2]]
        assert float(lines[0].split("\t")[0]) == pytest.approx(level(crops[0]), abs=0.01)
        assert words("--json", crops[0], tmp_path / "text.jpg") == 3
        answer = json.loads(capsys.readouterr().out)
        assert [set(one) for one in answer] == [{"path", "fake_probability", "error"}] * 2
        assert answer[1]["fake_probability"] is None and "neither" in answer[1]["error"]
        assert words(tmp_path / "text.jpg") == 1
        for wrong in (["--batch", 0], ["--deadline", 0], ["--deadline", "nan"], ["--version", 1, "--label", "a"],
                      ["--cert", "a.pem"], ["--ca", "absent.pem"]):  # fmt: skip
            with pytest.raises(SystemExit) as stop:
                words(*wrong, crops[0])
            assert stop.value.code == 2


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_nothing_of_the_package_is_needed(path):
    known = sys.stdlib_module_names | {"tf_serving"}
    extra = {
        "client_grpc.py": {"grpc", "tensorflow", "tensorflow_serving"},
        "load_test.py": {"grpc", "psutil"},
        "ray_serve.py": {"ray", "starlette", "tensorflow"},
    }
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert {name.split(".")[0] for name in names} <= known | extra.get(path.name, set())


def test_the_rest_client_starts_at_once_and_alone():
    program = "import sys, tf_serving.client_rest; print({'numpy', 'grpc', 'tensorflow', 'tfdfd'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=FOLDER.parent, capture_output=True, text=True)
    assert done.stdout == "set()\n"


def test_through_the_proxy_with_its_limits(certificates, crops, tmp_path):
    """nginx.conf as it is, but for ports and paths: who has a certificate scores, and nothing but scoring passes."""
    nginx = shutil.which("nginx")
    if not nginx:
        pytest.skip("nginx is not installed")
    with ExitStack() as stack:
        script = Script(brightness)
        ports = {
            "8500": stack.enter_context(grpc_server(script)),
            "8501": stack.enter_context(rest_server(script, states={"toy": "AVAILABLE"})),
        }
        ports = {old: address.rsplit(":")[1] for old, address in ports.items()}
        for old in ("9500", "9501"):
            with socket.create_server(("127.0.0.1", 0)) as free:
                ports[old] = str(free.getsockname()[1])
        text = (FOLDER / "nginx.conf").read_text().replace("/tmp/nginx.pid", str(tmp_path / "pid"))
        text = text.replace("/etc/nginx/tls/clients-ca.crt", str(certificates / "ca.crt"))
        text = text.replace("/etc/nginx/tls", str(certificates))
        text = re.sub(r"\b(8500|8501|9500|9501)\b", lambda found: ports[found[0]], text)
        folders = " ".join(
            f"{name}_temp_path {tmp_path}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (tmp_path / "nginx.conf").write_text("daemon off;\n" + text.replace("http {", f"http {{ {folders}", 1))
        words = [nginx, "-p", tmp_path, "-e", "stderr", "-c", tmp_path / "nginx.conf"]
        running = stack.enter_context(subprocess.Popen(words, stderr=subprocess.DEVNULL))
        stack.callback(running.terminate)
        mine = {"ca": str(certificates / "ca.crt")}
        known = mine | {"cert": str(certificates / "client.crt"), "key": str(certificates / "client.key")}
        crop = [crops[0].read_bytes()]
        addresses = {GrpcClient: f"localhost:{ports['9500']}", RestClient: f"localhost:{ports['9501']}"}
        for make, address in addresses.items():
            with make(address, "toy", **known) as client:
                assert client.predict(crop) == pytest.approx([level(crops[0])], abs=0.01)
            with make(address, "toy", deadline_s=1, **mine) as client, pytest.raises(ServingError):
                client.predict(crop)
        context = ssl.create_default_context(cafile=known["ca"])
        context.load_cert_chain(known["cert"], known["key"])
        for path, status in (("/v1/models/toy", 200), ("/monitoring/prometheus/metrics", 403)):
            connection = http.client.HTTPSConnection(addresses[RestClient], context=context, timeout=5)
            connection.request("GET", path)
            assert connection.getresponse().status == status
            connection.close()
        read = [Path(known[name]).read_bytes() for name in ("ca", "key", "cert")]
        with grpc.secure_channel(addresses[GrpcClient], grpc.ssl_channel_credentials(*read)) as channel:
            reload = channel.unary_unary("/tensorflow.serving.ModelService/HandleReloadConfigRequest")
            with pytest.raises(grpc.RpcError) as caught:
                reload(b"", timeout=5)
            assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
        before = len(script.requests)
        with RestClient(addresses[RestClient], "toy", **known) as client, pytest.raises(ServingError):
            client.predict([bytes(5 << 20)])
        assert len(script.requests) == before
