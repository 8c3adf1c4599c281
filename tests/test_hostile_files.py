"""Files from others: face sets that reach out of their folder, bombs, formulas, and text that steers a terminal."""

import csv
import os
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.made_faces import make_faces
from tfdfd.data.crops import Faces, decode_pixels, faces_of
from tfdfd.data.landmarks import FaceLandmarks, _append, _open_table
from tfdfd.data.tables import FaceRow, IndexRow, read_table, write_table
from tfdfd.detect.results import Detection

FORGED = "no\x1b[2K\nfake          0.999  me.jpg  1 face"


def png_of_zeros(width, height):
    """A PNG that states a size; its pixels are all 0."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(b"\0" * min((width * 3 + 1) * height, 1 << 20), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def jpeg_of_scans(scans):
    """A JPEG header followed by so many scans."""
    data = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    start = data.index(b"\xff\xda")
    return data[:start] + data[start:-2] * scans + data[-2:]


@pytest.fixture
def faces(tmp_path):
    make_faces(tmp_path / "faces", videos=4, frames=1)
    return tmp_path / "faces"


def with_file(faces, file):
    """The table with another `file` in its first row, and no digest."""
    rows = read_table(faces / "faces.csv", FaceRow)
    write_table(faces / "faces.csv", [replace(rows[0], file=file, sha256=None), *rows[1:]], FaceRow)


def outside(faces, kind):
    """Points the first row to something outside, or to no regular file; returns a part of the expected error."""
    secret = faces.parent / "secret.png"
    cv2.imwrite(str(secret), np.zeros((64, 64, 3), np.uint8))
    name = {"absolute": str(secret), "above": "../secret.png"}.get(kind, "crop.png")
    if kind == "link":
        (faces / name).symlink_to(secret)
    elif kind == "pipe":
        os.mkfifo(faces / name)
    elif kind == "text":
        (faces / name).write_text("root:x:0:0:")
    elif kind == "pixels":
        (faces / name).write_bytes(png_of_zeros(30_000, 30_000))
    elif kind == "scans":
        (faces / name).write_bytes(jpeg_of_scans(101))
    elif kind == "segments":  # what follows so many is not read
        (faces / name).write_bytes(b"\xff\xd8" + b"\xff\xe1\0\2" * 100_000 + jpeg_of_scans(101)[2:])
    with_file(faces, name)
    reasons = {"pipe": "not a regular file", "text": "cannot be decoded as PNG or JPEG"}
    reasons |= {"pixels": "900,000,000 pixels", "scans": "scans; a crop has at most"}
    reasons["segments"] = reasons["scans"]
    return reasons.get(kind, "leads out of that folder")


KINDS = ("absolute", "above", "link", "pipe", "text", "pixels", "scans", "segments")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", ["pack", "srm", "data blend"])
def test_a_set_gives_no_file_but_its_own_pictures(faces, run_tfdfd, kind, verb):
    reason = outside(faces, kind)
    code, _, err = run_tfdfd(*verb.split(), faces, "-o", faces.parent / "out", "--quiet")
    # Pictures that are not decoded have no landmarks, and there are no other ones here.
    is_left_out = verb == "data blend" and "'decode_error': 1" in err
    assert code in (1, 2) and (reason in err or is_left_out) and "Traceback" not in err
    assert not list((faces.parent / "out").glob("*.tfrecord"))


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_for_training_and_evaluation_are_as_strict(faces, kind):
    """`train`, `evaluate`, `blend` and `explain` read crops by these functions."""
    from tfdfd.data.crops import read_pixels
    from tfdfd.evaluation.sets import EvalSet

    reason = outside(faces, kind)
    rows = tuple(read_table(faces / "faces.csv", FaceRow))
    with pytest.raises((ValueError, OSError), match=reason):
        faces_of(faces)
        read_pixels(Faces(faces, rows).path(0))
    with pytest.raises((ValueError, OSError), match=reason):
        data = Faces(faces, rows).read(0)
        decode_pixels(data, "crop")
    with pytest.raises((ValueError, OSError), match=reason):
        EvalSet(str(faces), Faces(faces, rows), 64).picture(0)


def test_crops_elsewhere_are_read_if_the_user_says_so(faces, monkeypatch):
    outside(faces, "above")
    monkeypatch.setenv("TFDFD_DATA", f"{faces / 'x'}{os.pathsep}{faces.parent}")
    assert decode_pixels(faces_of(faces).read(0), "crop").shape == (64, 64, 3)
    monkeypatch.setenv("TFDFD_DATA", str(faces.parent / "secret"))  # a prefix of the name is not a folder
    with pytest.raises(ValueError, match="leads out"):
        faces_of(faces)


def test_cells_are_no_formulas_and_come_back(tmp_path):
    texts = ("=1+1", "+1", "-abc.mp4", "@x", "'=1", "'x", "\t=x", "plain", "\uff1dx")
    rows = [IndexRow(text, text, "video", 0, text, (text, "b"), identity=(text,)) for text in texts]
    write_table(tmp_path / "index.csv", rows, IndexRow)
    with (tmp_path / "index.csv").open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d"))]
    assert read_table(tmp_path / "index.csv", IndexRow) == rows
    marks = FaceLandmarks("=1+1.png", None, "not_found")
    table = tmp_path / "landmarks.csv"
    _open_table(table)
    _append(table, [marks])
    assert "\n'=1+1.png" in table.read_text()
    assert _open_table(table) == {marks.file: marks}


def test_numbers_stay_as_they_are(tmp_path):
    row = FaceRow("a.png", "x", "a.mp4", 0, 0.0, 0, (-3, -4, 5, 6), -1.5, 0, "original", ())
    write_table(tmp_path / "faces.csv", [row], FaceRow)
    assert ",-3 -4 5 6,-1.5," in (tmp_path / "faces.csv").read_text()
    assert read_table(tmp_path / "faces.csv", FaceRow) == [row]


def test_no_message_forges_a_line(run_tfdfd, monkeypatch, tmp_path):
    """Messages of workers, servers and files reach the answer, the notes and the errors."""
    from tfdfd.detect import detector as module
    from tfdfd.hub import publish as hub

    assert run_tfdfd("recipes", FORGED)[2].count("\n") == 1

    def fails(*_, **__):
        raise RuntimeError(f"the server refused: {FORGED}")

    monkeypatch.setattr(module, "Detector", fails)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64, 3), np.uint8))
    code, out, err = run_tfdfd("detect", tmp_path / "a.png")
    assert code == 1 and "the server refused: no\\x1b[2K\\nfake" in err and "\x1b" not in err + out
    outcomes = [hub.Outcome("tfdfd/x/1", FORGED, None, 1, 1), hub.Outcome("tfdfd/y/1", "h", FORGED, 1, 1)]
    monkeypatch.setattr(hub, "verify", lambda *_: iter(outcomes))
    code, out, err = run_tfdfd("models", "verify", tmp_path)
    assert out.count("\n") == 2 and "\x1b" not in out


def test_progress_and_answers_are_one_line_each(capfd):
    from tfdfd.cli.detect import summary
    from tfdfd.cli.output import Progress, warn, write_line

    with Progress() as progress:
        progress.line(FORGED)
        progress.update(1, 2, FORGED)
    warn(FORGED)
    for line in summary([Detection("a.jpg", "image", "decode_error", message=FORGED)]):
        write_line(line)
    out, err = capfd.readouterr()
    assert (out.count("\n"), err.count("\n")) == (1, 3) and "\x1b" not in out + err


def test_verbs_print_by_the_functions_that_escape():
    """`write_line` and `warn` escape; JSON and HTML are written as text by `write_text`."""
    folder = Path(__file__).parent.parent / "tfdfd/cli"
    allowed = {"output.py": 5}
    for file in folder.glob("*.py"):
        text = file.read_text("utf-8")
        found = sum(text.count(call) for call in ("stderr.write(", "stdout.write(", " print(", ".print("))
        assert found == allowed.get(file.name, 0), f"{file} prints without escaping"


def test_a_server_forges_no_verdict(tmp_path):
    """From the outside: a gRPC server whose refusal has control characters."""
    grpc = pytest.importorskip("grpc")
    from concurrent import futures

    class Refuses(grpc.GenericRpcHandler):
        def service(self, details):
            def refuse(_, context):
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, FORGED)

            return grpc.unary_unary_rpc_method_handler(refuse)

    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=(Refuses(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        clip = Path(__file__).parent.parent / "tfdfd/samples/blended.mp4"
        words = ["detect", str(clip), "--server", f"127.0.0.1:{port}", "--model", "tfdfd/meso_inception4"]
        done = subprocess.run([sys.executable, "-m", "tfdfd", *words], capture_output=True, text=True, timeout=120)
    finally:
        server.stop(None)
    assert done.returncode == 1
    assert not [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("fake")]
    assert "\x1b" not in done.stdout + done.stderr and "\\x1b[2K\\nfake" in done.stdout + done.stderr
