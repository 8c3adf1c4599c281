"""Malformed and hostile requests: each is refused with its reason, and all other clients are served as before."""

import contextlib
import http.client
import io
import json
import socket
import struct
import threading
import time
import zlib

import grpc
import numpy as np
import pytest
from PIL import Image
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from tests.served import SIZE, Server, fill_spec, picture, refused, request, until, write_model
from tests.test_saved_model import small
from tfdfd.publishing.saved_model import write_saved_model
from tfdfd.serve import ServingError
from tfdfd.serve.loaded_model import LoadedModel
from tfdfd.serve.tensors import arrays_of, check_inputs, shape_of

MANY = 50


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_model(folder / "1")
    words = ("--models", folder, "--label", "tiny:gone=7", "--allow-any-graph", "--rest-seconds", 3)
    with Server(
        *words, "--max-requests", 40, "--max-message", "2M", "--max-bytes", "8M", "--threads", 2, "--max-seconds", 3
    ) as started:
        yield started


@pytest.fixture(autouse=True)
def _goes_on(server):
    """After each: others are answered, and nothing is left behind."""
    yield
    assert server.scores([picture()]) == pytest.approx([1], abs=1e-3)
    until(lambda: server.metric("tfdfd_serve_requests_in_flight") == 0)
    assert server.metric("tfdfd_serve_bytes_in_flight") == 0


def png_bomb(side=60_000):
    """A few bytes that say they are a picture of gigabytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1 << 16)))
        + chunk(b"IEND", b"")
    )


def gif():
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "GIF")
    return file.getvalue()


IMAGES = {
    "truncated JPEG": picture(size=64)[:200],
    "end of a JPEG": picture(size=64)[200:],
    "PNG bomb": png_bomb(),
    "GIF": gif(),
    "text": b"this is no picture, but it is long enough to be taken for one",
    "nothing": b"",
    "a name of a file": b"/etc/passwd",
}


@pytest.mark.parametrize("data", IMAGES.values(), ids=IMAGES)
def test_what_is_no_picture(server, data):
    code, message = refused(server.predict, request([data]))
    assert code == "INVALID_ARGUMENT" and message
    # One of them in a batch: the batch is one request, and it is refused.
    assert refused(server.predict, request([picture(), data]))[0] == "INVALID_ARGUMENT"


def test_bad_pictures_among_good_ones_harm_nobody_else(server):
    bad = list(IMAGES.values())
    wanted = [request([bad[n % len(bad)] if n % 3 == 0 else picture()]) for n in range(36)]
    calls = [server.stub.Predict.future(one, timeout=30) for one in wanted]
    codes = [call.code().name for call in calls]
    assert codes == ["INVALID_ARGUMENT" if n % 3 == 0 else "OK" for n in range(36)]


def with_image(values=(0.5,), shape=(1, SIZE, SIZE, 3)):
    return request(list(values), "image", "", shape=shape)


def wrong_content():
    wanted = with_image((), (1, SIZE, SIZE, 3))
    wanted.inputs["image"].tensor_content = b"123"
    return wanted


def unknown_type():
    wanted = with_image()
    wanted.inputs["image"].dtype = 77
    return wanted


def other_type():
    wanted = request([b"x"])
    wanted.model_spec.signature_name = "serving_default"
    wanted.inputs["image"].CopyFrom(wanted.inputs["image_bytes"])
    del wanted.inputs["image_bytes"]
    return wanted


def another_input():
    wanted = with_image()
    wanted.inputs["more"].CopyFrom(wanted.inputs["image"])
    return wanted


TENSORS = {
    "wrong type": (other_type, "expects DT_FLOAT; received DT_STRING"),
    "unknown type": (unknown_type, "received type 77"),
    "wrong name": (lambda: request([b"x"], signature="serving_default"), "Sent extra: {image_bytes}. Missing but"),
    "one input too many": (another_input, "Sent extra: {more}"),
    "no input": (
        lambda: PredictRequest(model_spec=fill_spec(PredictRequest().model_spec)),
        "Missing but required: {im",
    ),
    "wrong height": (lambda: with_image(shape=(1, 9, SIZE, 3)), "[any, 8, 8, 3]; received [1, 9, 8, 3]"),
    "wrong rank": (lambda: with_image(shape=(SIZE, SIZE, 3)), "[any, 8, 8, 3]; received [8, 8, 3]"),
    "no shape": (lambda: with_image(shape=()), "received []"),
    "size below 0": (lambda: with_image(shape=(-1, SIZE, SIZE, 3)), "no size may be below 0"),
    "content too short": (wrong_content, "does not hold the values of its shape"),
    "too many values": (lambda: with_image([0.5] * 1000), "does not hold the values of its shape"),
    "too many strings": (lambda: request([b"x", b"y"], shape=[1]), "2 strings"),
    "no strings": (lambda: request([], shape=[3]), "0 strings"),
    "empty batch of strings": (lambda: request([]), "batch is empty"),
    "empty batch of images": (lambda: with_image((), (0, SIZE, SIZE, 3)), "batch is empty"),
    "10,000 images": (lambda: request([picture()] * 1 + [b"x"] * 9999), "Task size 10000 is larger than maximum"),
    "10,000 images in one value": (lambda: with_image(shape=(10_000, SIZE, SIZE, 3)), "Task size 10000 is larger"),
    "more images than numbers": (lambda: with_image(shape=(1 << 62, SIZE, SIZE, 3)), "Task size 4611686018427387904"),
}


@pytest.mark.parametrize(("make", "words"), TENSORS.values(), ids=TENSORS)
def test_tensors_that_the_signature_does_not_take(server, make, words):
    code, message = refused(server.predict, make())
    assert code == "INVALID_ARGUMENT"
    assert words in message


PIXELS = {
    "NaN": (float("nan"), "has pixels that are NaN or infinite"),
    "infinity": (float("inf"), "has pixels that are NaN or infinite"),
    "0 to 255": (128.0, "has pixels from 0.5 to 128"),
    "-1 to 1": (-0.9, "has pixels from -0.9 to 0.5"),
}


@pytest.mark.parametrize(("value", "words"), PIXELS.values(), ids=PIXELS)
def test_pixels_that_are_none(server, value, words):
    values = [0.5] * (2 * SIZE * SIZE * 3)
    values[-5] = value
    code, message = refused(server.predict, with_image(values, (2, SIZE, SIZE, 3)))
    assert code == "INVALID_ARGUMENT"
    assert "expects RGB pixels in [0, 1]; picture 1 of 2 (from 0)" in message and words in message
    pixels = np.reshape(values, (2, SIZE, SIZE, 3)).tolist()
    status, answer = server.get("/v1/models/tiny:predict", json.dumps({"instances": pixels}).encode())
    assert status == 400 and words in json.loads(answer)["error"]


def test_pixels_that_overshoot_a_little(server):
    values = [0.5] * (SIZE * SIZE * 3 - 2) + [-0.05, 1.05]
    server.predict(with_image(values, (1, SIZE, SIZE, 3)))


def test_a_published_model_takes_images_of_any_size_up_to_a_limit(tmp_path):
    write_saved_model(small(), tmp_path / "1")
    model = LoadedModel(tmp_path / "1")
    signature = model.signatures["serving_default"]

    def answer(*shape):
        wanted = request([0.5], "image", "", shape=shape)
        check_inputs(wanted, signature, 10)
        return signature.run(arrays_of(wanted, signature), 60)["fake_probability"]

    assert shape_of(signature.inputs["image"]) == [-1, -1, -1, 3]
    np.testing.assert_allclose(answer(2, 31, 9, 3), answer(2, 8, 8, 3), atol=1e-3)  # gray at any size
    for sides, shown in (((0, 5), "5 x 0"), ((4097, 4096), "4096 x 4097"), ((1 << 31, 1 << 31), "2147483648 x")):
        with pytest.raises(ServingError, match=f"INVALID_ARGUMENT: input 'image' holds pictures of {shown}"):
            answer(1, *sides, 3)
    model.close()


SPECS = {
    "model": ({"model": "other"}, "NOT_FOUND", "Servable not found for request: Latest(other)"),
    "no model": ({"model": ""}, "INVALID_ARGUMENT", "ModelSpec has no name specified."),
    "version": ({"version": 9}, "NOT_FOUND", "Servable not found for request: Specific(tiny, 9)"),
    "version of nothing": ({"model": "x", "version": 9}, "NOT_FOUND", "Servable not found for request: Specific(x, 9)"),
    "label": ({"label": "nope"}, "INVALID_ARGUMENT", "Unrecognized servable version label: nope"),
    "label of a version that is not there": (
        {"label": "gone"}, "NOT_FOUND", "Servable not found for request: Specific(tiny, 7)",
    ),
    "signature": ({"signature": "other"}, "FAILED_PRECONDITION", 'Serving signature key "other" not found'),
}  # fmt: skip


@pytest.mark.parametrize(("which", "code", "words"), SPECS.values(), ids=SPECS)
def test_what_is_not_served(server, which, code, words):
    found, message = refused(server.predict, request([picture()], **which))
    assert found == code
    assert message.startswith(words)


def test_an_oversized_message(server):
    code, message = refused(server.predict, request([bytes(3_000_000)]))
    assert code == "RESOURCE_EXHAUSTED" and "larger than max" in message
    status, answer = server.get("/v1/models/tiny:predict", b"[" * 3_000_000)
    assert status == 413
    assert "larger than max" in json.loads(answer)["error"]


def test_one_value_that_stands_for_many_bytes(server):
    # 200 rows of 1 MB each, of which the wire carries one.
    wanted = request([bytes(1_000_000)], "text", "echo", shape=[200])
    code, message = refused(server.predict, wanted)
    assert code == "RESOURCE_EXHAUSTED" and "8,000,000 bytes" in message


def test_a_full_queue_and_who_has_gone(server):
    begun = server.metric(":tensorflow:serving:batching_session:processed_batch_size_count")
    slow = [server.stub.Predict.future(request([200_000_000], "steps", "slow"), timeout=60) for _ in range(40)]
    until(lambda: server.metric("tfdfd_serve_requests_in_flight") == 40)
    code, message = refused(server.predict, request([picture()]))
    assert code == "RESOURCE_EXHAUSTED" and "40 requests are waiting" in message
    body = json.dumps({"signature_name": "echo", "instances": ["a"]}).encode()
    status, answer = server.get("/v1/models/tiny:predict", body)
    assert status == 429 and "40 requests are waiting" in json.loads(answer)["error"]
    for call in slow:
        call.cancel()
    until(lambda: server.metric("tfdfd_serve_requests_in_flight") == 0)
    # Two or so were computing; nobody computed the others.
    assert server.metric(":tensorflow:serving:batching_session:processed_batch_size_count") - begun < 10


def test_deadlines(server):
    code, _ = refused(server.predict, request([200_000_000], "steps", "slow"), timeout=0.1)
    assert code == "DEADLINE_EXCEEDED"


MALFORMED = {
    "no JSON": (b"{", 400, "JSON Parse error"),
    "nothing": (b"", 400, "JSON Parse error"),
    "no text": (b"\xff\xfe{\x00}\x00", 400, "JSON Parse error"),
    "deep": (b"[" * 100_000, 400, "JSON Parse error"),
    "deep values": (b'{"instances": [' + b"[" * 500 + b"]" * 500 + b"]}", 400, "input 'image'"),
    "no object": (b"[1]", 400, "expected a JSON object"),
    "neither key": (b"{}", 400, "'instances' and 'inputs'"),
    "both keys": (b'{"instances": [1], "inputs": [1]}', 400, "'instances' and 'inputs'"),
    "no list": (b'{"instances": 1}', 400, "to be a list"),
    "empty list": (b'{"instances": []}', 400, "at least one"),
    "text for numbers": (b'{"instances": ["a"]}', 400, "DT_FLOAT"),
    "null": (b'{"instances": [null]}', 400, "DT_FLOAT"),
    "ragged": (b'{"instances": [[1, 2], [3]]}', 400, "DT_FLOAT"),
    "mixed forms": (b'{"instances": [{"image": 1}, 1]}', 400, "mixes forms"),
    "other name": (b'{"instances": [{"other": 1}]}', 400, "Keys must be equal to: image"),
    "other column": (b'{"inputs": {"other": 1}}', 400, "does not have named input: other"),
    "number for a signature": (b'{"signature_name": 1, "instances": [1]}', 400, "must be a string"),
    "other signature": (b'{"signature_name": "x", "instances": [1]}', 400, 'Serving signature key "x"'),
    "no base64": (b'{"signature_name": "image_bytes", "instances": [{"b64": "?"}]}', 400, "base64"),
    "number for bytes": (b'{"signature_name": "image_bytes", "instances": [1]}', 400, "b64"),
    "no picture": (
        b'{"signature_name": "image_bytes", "instances": ["no picture at all, but text"]}',
        400,
        "image_bytes",
    ),
    "infinity": (b'{"signature_name": "slow", "instances": [Infinity]}', 400, "DT_INT32"),
    "too large a number": (b'{"signature_name": "slow", "instances": [3000000000]}', 400, "outside"),
    "a number without end": (b'{"instances": [' + b"9" * 5000 + b"]}", 400, "JSON Parse error"),
}


@pytest.mark.parametrize(("body", "status", "words"), MALFORMED.values(), ids=MALFORMED)
def test_rest_bodies(server, body, status, words):
    found, answer = server.get("/v1/models/tiny:predict", body)
    assert found == status
    assert words in json.loads(answer)["error"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/models/other:predict", 404),
        ("/v1/models/tiny/versions/9:predict", 404),
        ("/v1/models/tiny/versions/99999999999999999999:predict", 400),
        ("/v1/models/tiny/labels/nope:predict", 400),
        ("/v1/models/tiny:explain", 400),
        ("/v1/models", 400),
        ("/v1/models/../../etc/passwd", 400),
        ("/", 404),
    ],
)
def test_rest_paths(server, path, status):
    body = json.dumps({"signature_name": "echo", "instances": ["a"]}).encode()
    found, answer = server.get(path, body)
    assert found == status
    assert json.loads(answer)["error"]


def test_half_open_connections_are_hung_up_on(server):
    with contextlib.ExitStack() as stack:
        begun = time.monotonic()
        silent = [socket.create_connection(("127.0.0.1", server.rest_port)) for _ in range(MANY)]
        also = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(MANY)]
        for connection in silent + also:
            stack.enter_context(connection)
        for number, connection in enumerate(silent):
            # Nothing, half a head, and a body that never comes.
            head = b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
            connection.sendall((b"", b"POST /v1/models/ti", head)[number % 3])
            connection.settimeout(60)
        assert server.scores([picture()]) == pytest.approx([1], abs=1e-3)
        assert server.get("/v1/models/tiny")[0] == 200
        for number, connection in enumerate(silent):
            said = b""
            while block := connection.recv(1000):
                said += block
            assert said.startswith(b"HTTP/1.1 504" if number % 3 == 2 else b"")
        assert 2 < time.monotonic() - begun < 50


def test_heads_that_come_a_letter_at_a_time(server):
    with socket.create_connection(("127.0.0.1", server.rest_port)) as connection:
        begun = time.monotonic()
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET /v1/models/tiny HTTP/1.1\r\nX-Name: ")
            while time.monotonic() < begun + 60:
                connection.sendall(b"a")
                time.sleep(0.2)
        assert time.monotonic() - begun < 50


def test_noise_at_both_doors(server):
    noise = np.random.default_rng(0).bytes(10_000)
    for port in (server.port, server.rest_port):
        with socket.create_connection(("127.0.0.1", port)) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(noise)
            connection.settimeout(60)
            while connection.recv(1000):
                pass


def test_a_message_that_is_none(server):
    call = server.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\xff" * 100, timeout=10)
    assert caught.value.code().name in ("INTERNAL", "UNKNOWN")


SECRET = b"U0VDUkVULUZBQ0UtQllURVM" * 200
_HEAD = b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: localhost\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
_LENGTH = b"Content-Length: %d\r\n\r\n" % len(SECRET)
# What is sent, and what the log then says; None: it is a request, though a bad one, and the log says nothing.
NO_REQUESTS = {
    "broken chunk": (_HEAD + _CHUNKED + SECRET + b"\r\n", "a chunk of its body is malformed"),
    "broken second chunk": (_HEAD + _CHUNKED + b"5\r\nhello\r\n" + SECRET + b"\r\n", "chunk of its body is malformed"),
    "header": (_HEAD + SECRET[:99] + b"\r\n\r\n", "a header is malformed"),
    "huge header": (_HEAD + b"X: " + SECRET * 10 + b"\r\n\r\n", "a line of its head is too long"),
    "first line": (SECRET + b"\r\n\r\n", "its first line is malformed"),
    "encoding": (_HEAD + b"Content-Encoding: gzip\r\n" + _LENGTH + SECRET, "is not encoded as its head says"),
    "gRPC client": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SECRET, "a gRPC (HTTP/2) client, and this is the REST port"),
    "TLS client": (b"\x16\x03\x01\x02\x00" + SECRET, "encrypted (TLS)"),
    "JSON": (_HEAD + _LENGTH + SECRET, None),
    "path": (b"GET /" + SECRET[:500] + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", None),
    "path of no text": (b"GET /v1/models/%ff%fe" + SECRET[:99] + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", None),
}


@pytest.mark.parametrize(("sent", "noted"), NO_REQUESTS.values(), ids=NO_REQUESTS)
def test_neither_log_nor_answer_repeats_what_was_sent(server, sent, noted):
    before = len(server.notes)
    for _ in range(3):  # a client that tries again is one line
        with (
            socket.create_connection(("127.0.0.1", server.rest_port)) as connection,
            contextlib.suppress(ConnectionError),
        ):
            connection.sendall(sent)
            connection.settimeout(10)
            answer = connection.recv(1 << 16)
            assert b" 40" in answer.splitlines()[0] and b'"error"' in answer
            assert SECRET[:30] not in answer
    if noted:
        until(lambda: any(noted in line for line in server.notes))
    new = server.notes[before:]
    assert len(new) <= 1 and all(line.startswith("REST: refused a request of 127.0.0.1") for line in new)
    assert not any(SECRET[:30].decode() in line for line in server.notes)


def test_what_tensorflow_quotes_is_left_out_of_the_answer(server):
    """It begins messages with what was expected and ends them with what was sent."""
    for name, signature in (("image_bytes", "image_bytes"), ("inputs", "classify")):
        wanted = request([SECRET], "image_bytes", signature)
        if name == "inputs":
            wanted.inputs["inputs"].CopyFrom(wanted.inputs["image_bytes"])
            del wanted.inputs["image_bytes"]
        code, message = refused(server.predict, wanted)
        assert code == "INVALID_ARGUMENT" and SECRET[:8].decode() not in message


def test_a_grpc_message_that_is_none_is_one_line(server):
    before = len(server.notes)
    call = server.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    assert refused(call, b"\x0a\xff" + SECRET, timeout=10)[0] in ("INTERNAL", "UNKNOWN")
    time.sleep(0.5)
    assert len(server.notes) - before <= 1
    text = "".join(server.notes)
    assert "it is no message of its method" in text
    assert "Traceback" not in text and SECRET[:8].decode() not in text, text


def test_grpc_prints_nothing_past_the_log(server):
    """Of a client that ends its call without a message and leaves before it is told so, gRPC prints a traceback."""
    before, call = len(server.notes), server.channel.stream_unary("/tensorflow.serving.PredictionService/Predict")
    for number in range(MANY * 4):
        waiting = call.future(iter(()), timeout=10)
        time.sleep(number % 20 / 10_000)
        waiting.cancel()
    until(lambda: server.metric("tfdfd_serve_requests_in_flight") == 0)
    time.sleep(0.5)
    assert "Traceback" not in "".join(server.notes)
    assert len(server.notes) - before <= 1


def test_two_servers_do_not_share_an_address(server, tmp_path):
    write_model(tmp_path / "tiny" / "1")
    words = ("--models", tmp_path / "tiny", "--allow-any-graph")
    for ports, side in (({"port": server.port}, "gRPC"), ({"rest_port": server.rest_port}, "REST")):
        with pytest.raises(AssertionError, match=f"{side} cannot have the address"):
            Server(*words, **ports)


def half_sent(port, size, head):
    """A connection that has sent a part of a body, and no more comes."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(head + b" " * size)
    return connection


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A server whose requests may have 8 MB altogether while they arrive."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_model(folder / "1")
    words = ("--models", folder, "--allow-any-graph", "--rest-seconds", 60, "--max-message", "4M")
    with Server(*words, "--max-receive", "8M") as started:
        yield started


def test_half_sent_bodies_share_a_budget_of_bytes(narrow):
    head = b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000000\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(24):  # 72 MB, of which no more than 8 are read
            thread = threading.Thread(
                target=lambda: stack.enter_context(half_sent(narrow.rest_port, 3_000_000, head)), daemon=True
            )
            thread.start()
        until(lambda: narrow.metric("tfdfd_serve_bytes_being_received") > 4_000_000)
        begun = time.monotonic()
        body = json.dumps({"signature_name": "echo", "instances": ["a"]}).encode()
        while time.monotonic() < begun + 3:
            assert narrow.metric("tfdfd_serve_bytes_being_received") <= 8_200_000
            assert narrow.get("/v1/models/tiny:predict", body)[0] == 200
            assert narrow.scores([picture()]) == pytest.approx([1], abs=1e-3)
    until(lambda: narrow.metric("tfdfd_serve_bytes_being_received") == 0)


def test_half_sent_grpc_messages_share_it_too(narrow):
    """A call that says a message comes, and sends none of it, is refused when others need its room."""
    over = threading.Event()
    waiting = [
        narrow.channel.stream_unary("/tensorflow.serving.PredictionService/Predict").future(
            iter(lambda: over.wait() and None, None), timeout=60
        )
        for _ in range(4)
    ]
    try:
        until(lambda: narrow.metric("tfdfd_serve_bytes_being_received") == 8_000_000)
        begun = time.monotonic()
        assert narrow.scores([picture()] * 2) == pytest.approx([1, 1], abs=1e-3)
        assert time.monotonic() - begun < 10
        assert "RESOURCE_EXHAUSTED" in {call.code().name for call in waiting if call.done()}
    finally:
        over.set()
        for call in waiting:
            call.cancel()


def test_json_of_many_values_stops_nobody(narrow):
    """Its parser would hold Python, and with it the event loop, for seconds."""
    body = b'{"instances": [' + b",".join([b"{}"] * 1_300_000) + b"]}"
    answers = []
    asked = [
        threading.Thread(target=lambda: answers.append(narrow.get("/v1/models/tiny:predict", body))) for _ in "123"
    ]
    for each in asked:
        each.start()
    waits = []
    while any(each.is_alive() for each in asked):
        begun = time.monotonic()
        assert narrow.get("/v1/models/tiny")[0] == 200
        waits.append(time.monotonic() - begun)
    assert [status for status, _ in answers] == [400] * 3 and b"Keys must be equal to: image" in answers[0][1]
    assert max(waits) < 1


def test_json_that_takes_too_long_ends_with_its_request(server):
    deep = b"[" * 400 + b"1" + b"]" * 400
    body = b'{"instances": [' + b",".join([deep] * 2400) + b"]}"
    status, answer = server.get("/v1/models/tiny:predict", body)
    assert status in (400, 504), answer


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost"}, 200),
        ({"Host": "127.0.0.1:8501"}, 200),
        ({"Host": "[::1]:8501"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "localhost", "Origin": "https://evil.example"}, 403),
        ({"Host": "localhost", "Origin": "null"}, 403),
        ({"Host": "localhost", "Origin": "http://localhost:3000"}, 200),
    ],
)
def test_web_pages_of_other_sites_are_refused(server, headers, status):
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=30)
    body = json.dumps({"signature_name": "echo", "instances": ["a"]})
    for method, path in (("POST", "/v1/models/tiny:predict"), ("GET", "/v1/models/tiny")):
        connection.request(method, path, body if method == "POST" else None, headers)
        answer = connection.getresponse()
        assert (answer.status, bool(answer.read())) == (status, True)
    connection.close()


def test_a_host_may_be_allowed(tmp_path):
    write_model(tmp_path / "tiny" / "1")
    with Server("--models", tmp_path / "tiny", "--allow-any-graph", "--allow-host", "models.example") as started:
        connection = http.client.HTTPConnection("127.0.0.1", started.rest_port, timeout=30)
        for host, status in (("models.example", 200), ("evil.example", 403)):
            connection.request("GET", "/v1/models/tiny", headers={"Host": host, "Origin": f"https://{host}"})
            answer = connection.getresponse()
            assert (answer.status, bool(answer.read())) == (status, True)
        connection.close()


def zeros_png(side):
    """49 kB for 4096 pixels a side, which decode to 50 MB."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes((side * 3 + 1) * side), 9)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def progressive(side, scans):
    """A JPEG of grey with many scans over all its blocks, each a few bytes."""
    blocks = (side // 8) ** 2

    def segment(marker, data):
        return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data

    def table(kind, *lengths_and_symbols):
        bits = bytearray(16)
        for length, _ in lengths_and_symbols:
            bits[length - 1] += 1
        return segment(0xC4, bytes((kind, *bits, *(symbol for _, symbol in lengths_and_symbols))))

    def packed(bits):
        bits += "1" * (-len(bits) % 8)
        return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)).replace(b"\xff", b"\xff\0")

    runs, left = "", blocks
    while left >= 1 << 14:
        run = min(left, (1 << 15) - 1)
        runs, left = runs + "0" + format(run - (1 << 14), "014b"), left - run
    scan = segment(0xDA, bytes((1, 1, 0, 1, 63, 0))) + packed(runs + "10" * left)
    return (
        b"\xff\xd8"
        + segment(0xDB, b"\0" + bytes([1]) * 64)
        + segment(0xC2, struct.pack(">BHHBBBB", 8, side, side, 1, 1, 0x11, 0))
        + table(0x00, (1, 0))
        + table(0x10, (1, 0xE0), (2, 0x00))
        + segment(0xDA, bytes((1, 1, 0, 0, 0, 0)))
        + packed("0" * blocks)
        + scan * scans
        + b"\xff\xd9"
    )


def test_pictures_that_take_long_to_decode_are_refused_at_once(server):
    png, few = zeros_png(4096), progressive(1024, 9)
    bombs = {
        "more than 100 scans": [progressive(4096, 20_000)],
        "more than 268,435,456 pixels in all": [png] * 17,
        "(those of a progressive JPEG count for each scan)": [progressive(4096, 60)],
    }
    for words, pictures in bombs.items():
        begun = time.monotonic()
        code, message = refused(server.predict, request(pictures), timeout=60)
        assert (code, time.monotonic() - begun < 5) == ("INVALID_ARGUMENT", True) and words in message
    assert len(server.scores([few, png, picture()], timeout=60)) == 3
