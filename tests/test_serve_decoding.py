"""Pictures are decoded beside the server: the graph's pixels, and no decoder that crashes, hangs or grows holds it."""

import asyncio
import contextlib
import io
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import cv2
import grpc
import numpy as np
import psutil
import pytest
from PIL import Image

from tests.served import Server, picture, refused, request, until, write_model
from tests.test_sealed import kernel_seals
from tfdfd.serve import ServingError, decoding
from tfdfd.serve.decoding import Decoders, decode_picture
from tfdfd.serve.loaded_model import _LEVEL, LoadedModel, hand_pixels
from tfdfd.serve.tensors import check_encoded

SIDE = 64
SEALS = kernel_seals()
# Pictures that begin so take a worker elsewhere.
CRASHES, HANGS, EATS, ESCAPES = (bytes([n]) * 8 for n in range(4))
HOSTILE = """
import ctypes, json, os, time
import tfdfd.serve.decoding as decoding
decode = decoding.decode_picture
def hostile(picture, side):
    kind = bytes(picture[:8])
    if kind == bytes(8):
        ctypes.string_at(0)
    if kind == bytes([1]) * 8:
        time.sleep(float(bytes(picture[8:])))
    if kind == bytes([2]) * 8:
        bytearray(2 << 30)
    if kind == bytes([3]) * 8:
        attempts = lambda: open("/etc/passwd"), lambda: os.listdir("/"), os.fork, lambda: os.kill(os.getppid(), 0)
        for attempt in attempts:
            try:
                attempt()
            except PermissionError:
                continue
            return decoding.np.full((side, side, 3), 255, decoding.np.uint8)
        return decoding.np.zeros((side, side, 3), decoding.np.uint8)
    return decode(picture, side)
decoding.decode_picture = hostile
decoding.work(json.loads(sys.argv[1]))
"""


def run(work, code=decoding._CODE, count=1, mode="auto"):
    """Runs `work(decoders, notes)`."""

    async def within():
        notes = []
        decoders = Decoders(count, mode, notes.append, code)
        try:
            await decoders.ready()
            return await work(decoders, notes)
        finally:
            await decoders.close()

    return asyncio.run(within())


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def pictures(astronaut):
    """Of every kind that the graph decodes to the same bytes."""
    face = Image.fromarray(astronaut[60:190, 160:290])
    made = [
        encoded(face, "JPEG", quality=quality, subsampling=subsampling, progressive=quality == 75)
        for quality in (40, 75, 95)
        for subsampling in (0, 1, 2)
    ]
    made += [encoded(face.convert("L"), "JPEG")]
    made += [encoded(face.convert(mode), "PNG") for mode in ("RGB", "L", "1", "LA", "P")]
    alpha = face.copy()
    alpha.putalpha(Image.fromarray(astronaut[:130, :130, 0]))
    made += [encoded(alpha, "PNG")]
    deep = np.random.default_rng(0).integers(0, 65536, (50, 60, 3), np.uint16)
    made += [cv2.imencode(".png", deep)[1].tobytes()]
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        made += [encoded(face.crop((0, 0, 90, 130)), kind, exif=exif) for kind in ("JPEG", "PNG")]
    made += [
        encoded(face.resize(size), "PNG") for size in ((64, 64), (63, 65), (128, 128), (64, 300), (1, 7), (640, 640))
    ]
    return made


@pytest.fixture(scope="module")
def graph():
    import tensorflow as tf

    from tfdfd.publishing.images import decode_crops

    return tf.function(
        lambda data: decode_crops(data, (SIDE, SIDE)), input_signature=[tf.TensorSpec([None], tf.string)]
    )


def test_workers_give_the_pixels_of_the_graph(graph, pictures):
    check_encoded("image_bytes", pictures, for_decoders=True)
    found = run(lambda decoders, _: decoders.decode(pictures, SIDE))
    np.testing.assert_array_equal(found * _LEVEL, graph(pictures).numpy())


def test_what_the_graph_refuses_is_refused(graph, astronaut):
    import tensorflow as tf

    face = Image.fromarray(astronaut[60:190, 160:290])
    bad = [encoded(face, kind)[: int(share * len(encoded(face, kind)))] for kind in ("JPEG", "PNG") for share in SHARES]
    bad += [encoded(face, kind) for kind in ("GIF", "BMP", "WEBP")] + [encoded(face.convert("CMYK"), "JPEG"), b""]
    large = bytearray(encoded(face, "JPEG"))
    sides = large.index(b"\xff\xc0") + 5
    large[sides : sides + 4] = struct.pack(">HH", 60_000, 60_000)
    bad.append(bytes(large))

    async def work(decoders, notes):
        for data in bad:
            with pytest.raises(tf.errors.InvalidArgumentError):
                graph([data])
            with pytest.raises(ServingError) as caught:
                check_encoded("image_bytes", [data], for_decoders=True)
                await decoders.decode([data], SIDE)
            assert caught.value.code == "INVALID_ARGUMENT"

    run(work)


SHARES = (0.01, 0.1, 0.5, 0.98)


def test_a_crash_a_hang_and_a_greedy_decoder_each_end_with_their_picture(pictures):
    async def work(decoders, notes):
        async def outcome(data, seconds=None):
            begun = time.monotonic()
            try:
                await decoders.decode([data], SIDE, seconds and begun + seconds)
            except ServingError as error:
                return error.code, error.message, time.monotonic() - begun
            return "OK", "", time.monotonic() - begun

        for data, code, words in (
            (CRASHES, "INVALID_ARGUMENT", "on which the decoder crashed"),
            (EATS, "RESOURCE_EXHAUSTED", "needs more memory"),
        ):
            assert (await outcome(data))[:2] == (code, (await outcome(data))[1]) and words in (await outcome(data))[1]
        assert (await outcome(pictures[0]))[0] == "OK"  # the new one has started
        code, message, took = await outcome(HANGS + b"60", 0.3)
        assert code == "DEADLINE_EXCEEDED" and "while a picture was decoded" in message and took < 2
        # One whose deadline passes while all workers are busy, and one that is done soon after its deadline: its worker
        # is not replaced.
        assert (await outcome(pictures[0]))[0] == "OK"
        process = next(iter(decoders._workers))
        assert (await outcome(HANGS + b"0.5", 0.2))[0] == "DEADLINE_EXCEEDED"
        assert (await outcome(pictures[0], 0.1))[1] == "the deadline passed before the picture's turn."
        assert (await outcome(pictures[0]))[0] == "OK" and decoders._workers == {process}

    run(work, HOSTILE)


def test_no_picture_holds_a_worker_longer_than_the_limit(pictures, monkeypatch):
    monkeypatch.setattr(decoding, "MAX_SECONDS", 0.3)

    async def work(decoders, notes):
        hanging = asyncio.ensure_future(decoders.decode([HANGS + b"60"], SIDE))
        await asyncio.sleep(0.1)
        begun = time.monotonic()
        assert (await decoders.decode([pictures[0]], SIDE)).shape == (1, SIDE, SIDE, 3)
        with pytest.raises(ServingError, match="more than 0.3 s to decode"):
            await hanging
        return time.monotonic() - begun

    assert run(work, HOSTILE) < 20


def test_whoever_comes_first_is_decoded_first(pictures):
    """A worker that becomes free goes to the first that waits, not to one that comes at that moment."""

    async def work(decoders, notes):
        order = []

        async def client(name, *requests):
            for data in requests:
                with contextlib.suppress(ServingError):
                    await decoders.decode([data], SIDE)
                order.append(name)

        hanging = asyncio.ensure_future(client("one of two", HANGS + b"0.3", pictures[0]))
        await asyncio.sleep(0.1)
        gone = asyncio.ensure_future(client("gone", pictures[0]))
        waiting = asyncio.ensure_future(client("another", pictures[0]))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(hanging, waiting)
        return order

    assert run(work, HOSTILE) == ["one of two", "another", "one of two"]


def test_workers_are_sealed():
    if not kernel_seals():
        pytest.skip("this kernel has no Landlock or seccomp")

    async def work(decoders, notes):
        return (await decoders.decode([ESCAPES], 4)).max(), notes

    assert run(work, HOSTILE, mode="require") == (0, [])


def test_where_no_process_can_be_sealed(monkeypatch):
    code = "from tfdfd.extract import sandbox; sandbox._ARCHITECTURES = {}; " + decoding._CODE

    async def work(decoders, notes):
        return len(await decoders.decode([picture()], 8)), notes

    rows, notes = run(work, code, count=2)
    assert rows == 1 and len(notes) == 1 and "not sealed against the system: no list of system calls" in notes[0]
    with pytest.raises(RuntimeError, match="cannot be sealed: no list of system calls"):
        run(work, code, mode="require")


def workers(server):
    children = psutil.Process(server.process.pid).children()
    found = [child for child in children if any("tfdfd.serve.decoding" in word for word in child.cmdline())]
    # One that is sealed has started.
    return [one for one in found if not SEALS or "Seccomp:\t2" in Path(f"/proc/{one.pid}/status").read_text()]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_model(folder / "1")
    return folder


def test_a_server_outlives_its_decoders(models):
    words = ("--models", models, "--allow-any-graph", "--threads", 2, "--grace-seconds", 10)
    with Server(*words, "--sandbox", "require" if kernel_seals() else "auto") as server:
        first = workers(server)
        assert len(first) == 2
        assert server.scores([picture(n) for n in range(0, 250, 10)]) == pytest.approx(
            [n / 255 for n in range(0, 250, 10)], abs=1e-6
        )
        for each in first:
            each.send_signal(signal.SIGSTOP)  # as one that never comes to an end
        begun = time.monotonic()
        assert refused(server.predict, request([picture()] * 50), timeout=1)[0] == "DEADLINE_EXCEEDED"
        assert time.monotonic() - begun < 5
        # They are replaced, and who came meanwhile is answered.
        assert server.scores([picture()], timeout=60) == pytest.approx([1], abs=1e-6)
        until(lambda: len(workers(server)) == 2 and not set(workers(server)) & set(first))
        for end, words in ((signal.SIGSEGV, "the decoder crashed"), (signal.SIGKILL, "killed from outside")):
            until(lambda: len(workers(server)) == 2)
            for each in workers(server):
                each.send_signal(end)
            with pytest.raises(grpc.RpcError, match=words):
                server.scores([picture()] * 2)
            assert server.scores([picture()], timeout=60) == pytest.approx([1], abs=1e-6)
        until(lambda: server.metric("tfdfd_serve_bytes_in_flight") == 0)
        # A stop, while a decoder hangs.
        until(lambda: len(workers(server)) == 2)
        last = workers(server)
        for each in last:
            each.send_signal(signal.SIGSTOP)
        call = server.stub.Predict.future(request([picture()]), timeout=120)
        until(lambda: server.metric("tfdfd_serve_requests_in_flight") == 1)
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.wait()
        assert time.monotonic() - begun < 15
        assert call.code().name in ("DEADLINE_EXCEEDED", "UNAVAILABLE", "CANCELLED")
        until(lambda: not any(each.is_running() for each in last))


def handed(folder, side=None):
    """Why a model goes on decoding in its graph; its other signatures, asked with pixels."""
    model = LoadedModel(folder)
    try:
        reason = hand_pixels(model, lambda data, side: np.stack([decode_picture(one, side) for one in data]), 60)
        return reason, [pair and pair[1] for pair in (one.of_pixels for one in model.signatures.values()) if pair]
    finally:
        model.close()


def test_the_default_model_is_handed_pixels(exported):
    assert handed(exported) == (None, [256])


def test_a_model_that_decodes_otherwise_keeps_its_own_decoding(tmp_path):
    import tensorflow as tf

    class Inverted(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.float32, name="image")])
        def of_image(self, image):
            return {"fake_probability": tf.reduce_mean(image, axis=(1, 2))[:, :1]}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
        def of_bytes(self, image_bytes):
            from tfdfd.publishing.images import decode_crops

            return {"fake_probability": 1 - tf.reduce_mean(decode_crops(image_bytes, (8, 8)), axis=(1, 2))[:, :1]}

    model, folder = Inverted(), tmp_path / "tiny" / "1"
    tf.saved_model.save(
        model, str(folder), signatures={"serving_default": model.of_image, "image_bytes": model.of_bytes}
    )
    assert handed(folder) == ("image_bytes gives other answers for pictures than for their pixels", [])
    if kernel_seals():
        command = [sys.executable, "-m", "tfdfd", "serve", "--models", str(folder.parent), "--no-trial"]
        command += ["--port", "0", "--rest-port", "-1", "--allow-any-graph", "--sandbox", "require"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1 and "cannot be decoded in sealed processes: image_bytes gives other" in done.stderr
