"""`detect -o`: results that survive every kind of stop, and the CSV table of results."""

import csv
import functools
import gc
import io
import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from tfdfd.cli.output import TrainingProgress
from tfdfd.detect.detector import Detector, _log_faces
from tfdfd.detect.record import make_record, record_text, write_record
from tfdfd.detect.result_folder import CSV_COLUMNS, RESULTS, ResultFolder, results_csv
from tfdfd.detect.results import Detection, FaceTrack, FrameScore
from tfdfd.files import sha256
from tfdfd.media.inputs import Input, Inputs, list_inputs
from tfdfd.report.page import write_report
from tfdfd.report.pictures import Gallery

TFDFD = [sys.executable, "-m", "tfdfd"]
posix = pytest.mark.skipif(os.name != "posix", reason="signals and file names of POSIX")


class Scores:
    """A detector without a network: a score for each name."""

    def __init__(self, frames=32, seconds=0.0):
        self._frames, self._seconds = frames, seconds

    def settings(self):
        return {"frames": self._frames}

    def iter_detect(self, inputs):
        for item in inputs.items:
            time.sleep(self._seconds)
            if item.error:
                yield Detection(item.path, item.kind, item.error.status, message=item.error.message)
                continue
            score = len(os.path.basename(item.path)) / 100
            face = FaceTrack(0, score, [FrameScore(0, 0.0, (1, 2, 3, 4), 0.9, score, np.zeros((8, 8, 3), np.uint8))])
            yield Detection(item.path, "image", "ok", score, "real", faces=[face], elapsed_s=random.random())


@pytest.fixture
def media(tmp_path):
    """A folder of files with names of media."""
    folder = tmp_path / "media"
    folder.mkdir()
    for number in range(5):
        (folder / f"{'x' * number}{number}.png").write_bytes(bytes(number))
    return folder


def finish(folder, paths, detector=None):
    with ResultFolder(folder, detector or Scores(), list_inputs(paths)) as results:
        done = list(results.detect())
        assert results.done == results.total
        return done, results.file.read_bytes()


def test_a_line_is_a_result_with_the_digest_and_without_the_time(tmp_path, media):
    done, data = finish(tmp_path / "out", [media, tmp_path / "absent.mp4"])
    lines = [json.loads(line) for line in data.splitlines()]
    assert [line["path"] for line in lines] == [
        *(str(path) for path in sorted(media.iterdir())),
        str(tmp_path / "absent.mp4"),
    ]
    assert lines[0]["sha256"] == sha256(lines[0]["path"]) and lines[0]["bytes"] == os.path.getsize(lines[0]["path"])
    assert (lines[-1]["status"], lines[-1]["sha256"], lines[-1]["bytes"]) == ("not_found", None, None)
    assert not any("elapsed_s" in line for line in lines)
    assert all(frame.crop is None for detection in done for face in detection.faces for frame in face.frames)


def test_a_line_cut_at_any_byte_is_written_again(tmp_path, media):
    _, whole = finish(tmp_path / "out", [media])
    ends = [end for end in range(len(whole)) if whole[end - 1 : end] == b"\n"]
    for size in {*range(0, len(whole), 53), *(end + near for end in ends for near in (-2, -1, 0, 1))}:
        (tmp_path / "out" / RESULTS).write_bytes(whole[:size])
        assert finish(tmp_path / "out", [media])[1] == whole


@pytest.mark.parametrize("rest", [b"\0" * 40, b"\0" * 40 + b"\n", b'{"path": "other"}\n', b"[]\n", b"\xff\n"])
def test_lines_that_are_no_results_are_replaced(tmp_path, media, rest):
    _, whole = finish(tmp_path / "out", [media])
    first = whole.splitlines(keepends=True)[0]
    for data in (first + rest, whole + rest):
        (tmp_path / "out" / RESULTS).write_bytes(data)
        assert finish(tmp_path / "out", [media])[1] == whole


def test_what_is_done_is_not_done_again(tmp_path, media):
    finish(tmp_path / "out", [media])
    assert finish(tmp_path / "out", [media])[0] == []


def test_another_spelling_of_the_inputs_resumes_with_the_first_one(tmp_path, media, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, whole = finish("out", ["media"])
    (tmp_path / "out" / RESULTS).write_bytes(whole.splitlines(keepends=True)[0])
    (tmp_path / "link").symlink_to(media, target_is_directory=True)
    for spelling in ("./media/", str(media), "link"):
        assert finish(tmp_path / "out", [spelling])[1] == whole
    assert whole.startswith(b'{"path": "media/')


def test_other_inputs_and_settings_are_refused(tmp_path, media):
    finish(tmp_path / "out", [media])
    with pytest.raises(ValueError, match="frames was 32, now 4"):
        finish(tmp_path / "out", [media], Scores(frames=4))
    (media / "new.png").write_bytes(b"")
    with pytest.raises(ValueError, match="inputs.count was 5, now 6"):
        finish(tmp_path / "out", [media])
    with pytest.raises(ValueError, match="is not empty and holds no set of results"):
        finish(media, [media])


def test_a_full_disk_loses_nothing(tmp_path, media, monkeypatch):
    _, whole = finish(tmp_path / "whole", [media])

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 6:
            raise OSError(28, "No space left on device")

    calls = []
    with monkeypatch.context() as patch:
        patch.setattr("tfdfd.detect.result_folder.os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            finish(tmp_path / "out", [media])
    written = (tmp_path / "out" / RESULTS).read_bytes()
    assert written and whole.startswith(written) and written != whole
    assert finish(tmp_path / "out", [media])[1] == whole


KILLED = """
import sys
from tests.test_result_folder import Scores, finish
print("ready", flush=True)
finish(sys.argv[1], [sys.argv[2]], Scores(seconds=0.02))
"""


@posix
@pytest.mark.parametrize("times", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_at_random_moments_end_in_the_same_bytes(tmp_path, times):
    media = tmp_path / "media"
    media.mkdir()
    for number in range(150):
        (media / f"{number:03}.png").write_bytes(bytes(number))
    _, whole = finish(tmp_path / "whole", [media])
    kills, delays = 0, random.Random(0)
    while True:
        command = [sys.executable, "-c", KILLED, str(tmp_path / "out"), str(media)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as run:
            assert run.stdout.readline() == b"ready\n"
            try:
                assert run.wait(delays.uniform(0, 0.15) if kills < times else None) == 0
                break
            except subprocess.TimeoutExpired:
                run.kill()
                kills += 1
    assert kills == times
    assert (tmp_path / "out" / RESULTS).read_bytes() == whole


@pytest.fixture(scope="module")
def clips(tmp_path_factory, astronaut, make_video):
    """A folder of images and a video with a face, and one image without."""
    folder = tmp_path_factory.mktemp("clips")
    face = astronaut[:256, 96:352]
    for number in range(4):
        Image.fromarray(np.roll(face, number, axis=1)).save(folder / f"{number}.png")
    Image.new("RGB", (64, 64), "grey").save(folder / "plain.png")
    make_video(folder / "talk.mp4", [np.roll(face, shift, axis=1) for shift in range(8)])
    return folder


@posix
def test_a_killed_command_goes_on_and_ends_in_the_same_bytes(tmp_path, clips, toy_weights):
    words = [
        "detect",
        clips,
        "--model",
        toy_weights,
        "--detector",
        "haar",
        "--workers",
        "1",
        "--csv",
        tmp_path / "a.csv",
    ]
    words = [*TFDFD, *map(str, words)]
    whole = subprocess.run([*words, "-o", str(tmp_path / "whole")], capture_output=True, text=True)
    assert whole.returncode == 3, whole.stderr
    table = (tmp_path / "a.csv").read_bytes()
    os.unlink(tmp_path / "a.csv")
    lines = (tmp_path / "whole" / RESULTS).read_bytes().splitlines(keepends=True)
    results = tmp_path / "out" / RESULTS
    for kept in (1, 4):
        with subprocess.Popen([*words, "-o", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True) as run:
            for line in run.stderr:
                if line.startswith(f"[{kept}/6]"):
                    run.send_signal(signal.SIGKILL)
                    break
        assert kept <= len(results.read_bytes().splitlines()) < 6
        assert not (tmp_path / "a.csv").exists()
    last = subprocess.run([*words, "-o", str(tmp_path / "out")], capture_output=True, text=True)
    assert last.returncode == 3 and last.stdout.startswith("6 inputs: ") and "1 no_face" in last.stdout
    assert results.read_bytes() == b"".join(lines)
    assert (tmp_path / "a.csv").read_bytes() == table
    assert "of 6 were done before" in last.stderr
    # The report and the record, too, but for the date; pictures of inputs that were done before the kill are stored.
    report, record = ((tmp_path / name / "report.html").read_text("utf-8") for name in ("whole", "out")), []
    for name in ("whole", "out"):
        record.append(json.loads((tmp_path / name / "record.json").read_text("utf-8")))
        assert [result["path"] for result in record[-1]["results"]] == [json.loads(line)["path"] for line in lines]
        assert record[-1].pop("date") == json.loads((tmp_path / name / "run.json").read_text("utf-8"))["date"]
        del record[-1]["sha256"]
    assert record[0] == record[1]
    one, other = (re.findall(r"data:image/jpeg[^\"]*", text) for text in report)
    assert one == other and len(one) > 10
    assert sorted(path.name for path in (tmp_path / "out" / "pictures").iterdir()) == [
        f"{place:07}.json" for place in (0, 1, 2, 3, 5)
    ]


def test_the_table_may_lie_in_the_new_folder(run_tfdfd, tmp_path, clips, toy_weights):
    words = ["detect", clips / "0.png", "--model", toy_weights, "--detector", "haar", "-o", tmp_path / "out"]
    words += ["--csv", tmp_path / "out" / "a.csv", "--quiet"]
    for _ in range(2):
        assert run_tfdfd(*words)[0] == 0
        assert len((tmp_path / "out" / "a.csv").read_text("utf-8").splitlines()) == 2


def test_verbose_says_what_is_decided_and_why(run_tfdfd, clips, toy_weights, caplog):
    words = ["detect", clips / "talk.mp4", clips / "0.png", clips / "absent.png", "--model", toy_weights]
    words += ["--detector", "haar", "--frames", "4", "--csv", "-"]
    code, table, quiet = run_tfdfd(*words)
    assert code == 3 and all(line.startswith("[") for line in quiet.splitlines())
    code, stdout, stderr = run_tfdfd(*words, "-v")
    assert (code, stdout) == (3, table)
    assert all(line.startswith(("[", "tfdfd.")) for line in stderr.splitlines())
    for wanted in (
        f"tfdfd.weights.store: weights: tfdfd/meso4.toy, SHA-256 {sha256(toy_weights)}, in {toy_weights}",
        "settings: {'detector': {'name': 'haar'}, 'frames': 4",
        "talk.mp4: video, h264 in mov, 256x256, 8 frames, ok",
        "talk.mp4: 4 frames (equally spaced, 4 asked for), 0 damaged ones left out, 4 faces by haar",
        "0.png: image, png, 256x256, ok",
        "absent.png: None, not decoded, not_found",
        "threshold 0.5, band None, correction",
        "face 1: P(fake)",
    ):
        assert wanted in stderr, (wanted, stderr)
    assert re.search(r"runs on (Keras|OpenVINO)", stderr) and "detector None" not in stderr
    stages = r"talk\.mp4: decoding process: in all [\d.]+ s, decode [\d.]+ s, faces [\d.]+ s, crops [\d.]+ s"
    assert re.search(stages, stderr) and re.search(r"hashing \d+ bytes took [\d.]+ s", stderr)
    details = run_tfdfd(*words, "-vv", "--quiet")[2]
    assert re.search(r"face 1, frame 3 at 0\.120 s: box \(\d+, ", details) and "\n[" not in details
    assert re.search(r"decoding process \d+ is ready", details)
    # A program that uses the package has the same lines from `logging`, and none without asking.
    assert not logging.getLogger("tfdfd").handlers and run_tfdfd(*words, "--quiet")[2] == ""
    with Detector(toy_weights, "haar") as detector, caplog.at_level("INFO", "tfdfd"):
        detector.detect(clips / "0.png")
    assert "0.png: image, png, 256x256, ok" in caplog.text


def test_a_face_that_does_not_decide_is_told_with_the_reason(caplog):
    small = FaceTrack(1, 0.9, [FrameScore(0, 0.0, (0, 0, 9, 9), None, 0.9)], decides=False, left_out="small")
    with caplog.at_level("INFO", "tfdfd"):
        _log_faces("a.png", [small])
    assert caplog.messages == ["a.png: face 2: P(fake) 0.9 over 1 frames, does not decide: small"]


def test_training_has_the_time_left(capfd):
    with TrainingProgress() as progress:
        for step in (1, 2):
            progress.step(1, 2, step, 2, 0.5)
            time.sleep(0.01)
        progress.epoch({"epoch": 1, "loss": 0.5})
    assert re.fullmatch(r"epoch 1: loss 0\.5  \([\d.]+/s, 0:00 left\)\n", capfd.readouterr().err)


def test_progress_has_count_rate_and_time_left(run_tfdfd, tmp_path, clips, toy_weights):
    words = ["detect", clips, "--model", toy_weights, "--detector", "haar", "-o", tmp_path / "out"]
    code, stdout, stderr = run_tfdfd(*words)
    assert code == 3 and "5 real" in stdout or "5 fake" in stdout
    lines = [line for line in stderr.splitlines() if line.startswith("[")]
    assert len(lines) == 6 and lines[0].startswith("[1/6]")
    assert all(line.endswith(" left)") and "/s, " in line for line in lines[1:])
    assert run_tfdfd(*words, "--quiet")[::2] == (3, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "out", "--json", "-"], "--json cannot be combined with -o"),
        (["--json", "-", "--csv", "-"], "cannot both go to standard output"),
        (["--csv", "no/folder/a.csv"], "no/folder"),
    ],
)
def test_what_does_not_go_together_is_wrong_usage(run_tfdfd, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = run_tfdfd("detect", "a.png", *words)
    assert (code, stdout) == (2, "") and message in stderr
    assert list(tmp_path.iterdir()) == []


def test_a_report_elsewhere_is_that_of_the_folder(run_tfdfd, tmp_path, clips, toy_weights):
    words = ["detect", clips, "--model", toy_weights, "--detector", "haar", "--frames", "2", "--quiet"]
    page = tmp_path / "page.html"
    assert run_tfdfd(*words, "-o", tmp_path / "out", "--report", page)[0] == 3
    inside, outside = ((each).read_text("utf-8") for each in (tmp_path / "out" / "report.html", page))
    assert outside == inside.replace("tfdfd verify record.json", "tfdfd verify page.record.json").replace(
        '"name": "record"', '"name": "page.record"'
    )
    record = (tmp_path / "page.record.json").read_bytes()
    assert record == (tmp_path / "out" / "record.json").read_bytes() and len(json.loads(record)["results"]) == 6
    assert run_tfdfd("verify", tmp_path / "page.record.json", clips / "0.png", "--model", toy_weights)[0] == 0


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_record_is_written_piece_by_piece_as_in_one_piece(tmp_path, toy_weights, count):
    odd = {
        "path": 'a "results":[] \u2028\n.png',
        "status": "ok",
        "faces": [],
        "elapsed_s": 1.0,
        "inner": {"b": 1, "a": []},
    }
    with Detector(toy_weights) as detector:
        record = write_record(tmp_path / "a.json", detector, [odd] * count, "2026-01-01T00:00:00Z")
        whole = make_record(detector, [odd] * count, "2026-01-01T00:00:00Z")
    assert (tmp_path / "a.json").read_text("utf-8") == record_text(whole) and record["sha256"] == whole["sha256"]


def collect_as_often_as_python_does(request):
    request.addfinalizer(functools.partial(gc.set_threshold, *gc.get_threshold()))
    gc.set_threshold(700, 10, 10)


def test_records_and_pages_of_many_inputs_take_little_memory(tmp_path, toy_weights, monkeypatch, request):
    """The results of a folder are read one at a time; a page keeps those that it lists."""
    collect_as_often_as_python_does(request)
    monkeypatch.setattr("tfdfd.detect.result_folder.os.fsync", lambda descriptor: None)
    monkeypatch.setattr("tfdfd.report.page.LISTED", 10)
    monkeypatch.setattr("tfdfd.report.page.JSON_BYTES", 100_000)
    inputs = Inputs([Input(f"{number}.mp4", "video") for number in range(400)])
    with Detector(toy_weights) as detector:
        monkeypatch.setattr(detector, "iter_detect", many_frames)
        with ResultFolder(tmp_path / "out", detector, inputs) as folder:
            assert len(list(folder.detect())) == 400
            tracemalloc.start()
            record = write_record(tmp_path / "record.json", detector, folder.results(), folder.date)
            of_record = tracemalloc.get_traced_memory()[1]
            options = {"record": record, "gallery": Gallery(400)}
            write_report(tmp_path / "page.html", folder.detections(), detector.report_info(), **options)
            of_page = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert (tmp_path / "record.json").stat().st_size > 1.5e6
    assert of_record < 0.5e6 and of_page < 3e6, (of_record, of_page)
    assert "400 inputs, 400 scored" in (tmp_path / "page.html").read_text("utf-8")


def many_frames(inputs):
    for number, item in enumerate(inputs.items):
        score = number / len(inputs.items)
        frames = [FrameScore(index, index / 25, (1, 2, 90, 90), 0.99, score) for index in range(20)]
        yield Detection(item.path, "video", "ok", score, "real", faces=[FaceTrack(0, score, frames)])


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_the_table_has_a_row_for_each_input(run_tfdfd, tmp_path, clips, toy_weights):
    words = ["detect", clips, "--model", toy_weights, "--detector", "haar", "--csv"]
    code, stdout, stderr = run_tfdfd(*words, "-", "--quiet")
    assert (code, stderr) == (3, "")
    rows = rows_of(stdout)
    assert [os.path.basename(row["path"]) for row in rows] == [
        "0.png",
        "1.png",
        "2.png",
        "3.png",
        "plain.png",
        "talk.mp4",
    ]
    assert tuple(rows[0]) == CSV_COLUMNS
    assert (rows[0]["faces"], rows[0]["frames"], rows[0]["duration"]) == ("1", "1", "")
    assert rows[0]["sha256"] == sha256(clips / "0.png") and 0 <= float(rows[0]["p_fake"]) <= 1
    assert (rows[4]["status"], rows[4]["p_fake"], rows[4]["verdict"]) == ("no_face", "", "")
    assert (rows[5]["frames"], rows[5]["duration"]) == ("8", "0.32")
    assert run_tfdfd(*words, tmp_path / "a.csv", "--json", "-")[1].startswith("{")
    assert (tmp_path / "a.csv").read_text("utf-8") == stdout


@pytest.mark.parametrize(
    ("path", "cell"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1.png", "'+1.png"),
        ("-1.png", "'-1.png"),
        ("@SUM(A1).png", "'@SUM(A1).png"),
        ("\t=1", "'\\t=1"),
        ("\r=1", "'\\r=1"),
        ("a\n=1.png", "a\\n=1.png"),
        ("a;=1.png", "a;=1.png"),
        ('"quoted", <b>.png', '"quoted", <b>.png'),
        ("\x1b[31m\u202e.png", "\\x1b[31m\\u202e.png"),
        ("日本\u3000é.png", "日本\u3000é.png"),
    ],
)
def test_no_name_is_run_by_a_spreadsheet(path, cell):
    result = {"path": path, "status": "no_face", "verdict": None, "fake_probability": None}
    text = results_csv([result | {"message": "=1+1", "sha256": None}])
    assert len(text.splitlines()) == 2
    (row,) = rows_of(text)
    assert (row["path"], row["message"]) == (cell, "'=1+1")
    # Quoted, so that a program that splits at other letters does not find a cell of its own in it.
    assert text.splitlines()[1].startswith('"')


@posix
def test_a_folder_that_cannot_be_written_is_an_error(run_tfdfd, tmp_path, clips, toy_weights):
    (tmp_path / "file").write_text("")
    code, stdout, stderr = run_tfdfd("detect", clips, "--model", toy_weights, "-o", tmp_path / "file")
    assert code in (1, 2) and stdout == "" and str(tmp_path / "file") in stderr
    shutil.rmtree(tmp_path / "file", ignore_errors=True)
