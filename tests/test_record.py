"""Records of detections, `tfdfd verify`, and annotated videos."""

import errno
import json
import os
import shutil

import av
import numpy as np
import pytest

from tfdfd import files
from tfdfd.detect.record import _digest, record_text
from tfdfd.detect.results import Detection, FaceTrack, FrameScore
from tfdfd.files import sha256
from tfdfd.report.annotate import box_at


@pytest.fixture(scope="module")
def clip(tmp_path_factory, astronaut, make_video):
    """A clip of a face that moves, 30 frames of 200 x 256 pixels."""
    face = astronaut[28:228, 96:352]
    return make_video(tmp_path_factory.mktemp("clip") / "talk.mp4", [np.roll(face, n, axis=1) for n in range(30)])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, clip, toy_weights):
    """A folder with the report of the clip, its record and its annotated copy."""
    from tfdfd.cli.main import main

    folder = tmp_path_factory.mktemp("recorded")
    words = [
        "detect",
        clip,
        "--model",
        toy_weights,
        "--detector",
        "haar",
        "--frames",
        10,
        "--report",
        folder / "a.html",
    ]
    assert main([str(word) for word in [*words, "--annotate", folder / "a.mp4", "--threshold", 0.4, "--quiet"]]) == 0
    return folder


@pytest.fixture
def verify(run_tfdfd, recorded, clip, toy_weights, tmp_path):
    """A function that changes the record, gives it its own digest again, and verifies the clip with it."""

    def run(change=lambda record: None, *words, inputs=(clip,), resign=True):
        record = json.loads((recorded / "a.record.json").read_text("utf-8"))
        change(record)
        if resign:
            record.pop("sha256")
            record["sha256"] = _digest(record)
        (tmp_path / "record.json").write_text(record_text(record), "utf-8")
        return run_tfdfd("verify", tmp_path / "record.json", *inputs, "--model", toy_weights, "--quiet", *words)

    return run


def test_a_record_has_what_a_repetition_needs(recorded, clip, toy_weights):
    record = json.loads((recorded / "a.record.json").read_text("utf-8"))
    (result,) = record["results"]
    assert (result["sha256"], result["bytes"]) == (sha256(clip), os.path.getsize(clip))
    assert "elapsed_s" not in result
    settings = record["settings"]
    assert settings["model"]["sha256"] == sha256(toy_weights) and settings["detector"] == {"name": "haar"}
    assert (settings["frames"], record["given_threshold"], settings["limits"]["max_frames"]) == (10, 0.4, 54_000)
    assert record["date"].endswith("Z") and {"numpy", "av"} <= set(record["machine"]["libraries"])
    page = (recorded / "a.html").read_text("utf-8")
    for wanted in (record["date"], result["sha256"], sha256(toy_weights), "tfdfd verify a.record.json INPUT"):
        assert wanted in page
    assert page.count('<figure class="shot">') == 3 and page.count('class="strip"') == 1


def test_the_same_bytes_under_another_name_agree(verify, clip, tmp_path):
    shutil.copy(clip, tmp_path / "renamed.mp4")
    code, stdout, _ = verify(inputs=[tmp_path / "renamed.mp4"])
    assert code == 0 and stdout.startswith("agrees") and "at most 0 apart" in stdout
    code, stdout, _ = verify(lambda record: None, "--json", "-")
    assert code == 0 and json.loads(stdout)["results"][0]["outcome"] == "agrees"


def test_another_input_is_no_disagreement(verify, clip, tmp_path):
    (tmp_path / "other.mp4").write_bytes(clip.read_bytes() + b"\0")
    code, stdout, _ = verify(inputs=[tmp_path / "other.mp4", tmp_path / "absent.mp4", clip])
    assert code == 3
    first, second, third = stdout.splitlines()
    assert first.startswith("other_input") and sha256(tmp_path / "other.mp4") in first and sha256(clip) in first
    assert second.startswith("other_input") and "no such file" in second and third.startswith("agrees")


def _score(record):
    record["results"][0]["fake_probability"] = round(1 - record["results"][0]["fake_probability"] / 2, 6)


def _frame(record):
    record["results"][0]["faces"][0]["frames"][3]["fake_probability"] += 0.03


def _box(record):
    record["results"][0]["faces"][0]["frames"][3]["box"][0] += 40


def test_a_changed_record_is_found_by_its_digest(verify):
    code, stdout, stderr = verify(_score, resign=False)
    assert (code, stdout) == (4, "") and "was changed after it was written" in stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_score, "P(fake): recorded"),
        (_frame, "frame 10: recorded"),
        (_box, "the box is 40 px away"),
        (lambda record: record["results"][0].update(verdict="inconclusive"), "verdict: recorded 'inconclusive', now"),
        (lambda record: record["results"][0]["faces"].clear(), "faces: recorded 0, now 1"),
    ],
)
def test_a_change_with_a_new_digest_is_found_by_the_repetition(verify, change, message):
    code, stdout, _ = verify(change)
    assert code == 1 and stdout.startswith("differs") and message in stdout


def test_another_model_says_which_one_and_how_to_get_it(verify, run_tfdfd, recorded, clip):
    code, stdout, stderr = verify(lambda record: record["settings"]["model"].update(sha256="9f" * 32))
    assert (code, stdout) == (3, "") and "9f" * 32 in stderr and "--model FILE" in stderr
    code, stdout, stderr = run_tfdfd("verify", recorded / "a.record.json", clip)
    assert (code, stdout) == (3, "") and "tfdfd/meso4.toy" in stderr and "not on this machine" in stderr


def test_a_record_cannot_raise_the_limits_by_itself(verify):
    def more(record):
        record["settings"]["limits"]["max_bytes"] = 2**40

    code, _, stderr = verify(more)
    assert code == 3 and "max_bytes 1,099,511,627,776" in stderr and "--trust-limits" in stderr
    assert verify(more, "--trust-limits")[0] == 0


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": 1, "model": {}, "results": []}', '{"record": 2}', "[" * 100_000, "\xff"]
)
def test_what_is_no_record_is_wrong_usage(run_tfdfd, tmp_path, text):
    (tmp_path / "record.json").write_text(text, "latin-1")
    code, stdout, stderr = run_tfdfd("verify", tmp_path / "record.json", "a.mp4")
    assert (code, stdout) == (2, "") and "is not a record of a detection" in stderr


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.pop("settings"),
        lambda record: record["settings"].update(frames="many"),
        lambda record: record["settings"]["limits"].update(max_bytes=-1),
        lambda record: record["results"].append({"path": "a", "kind": None, "status": "fine"}),
        lambda record: record.update(results=3),
    ],
)
def test_a_record_of_other_fields_is_wrong_usage(verify, change):
    code, stdout, stderr = verify(change)
    assert (code, stdout) == (2, "") and "is not a record of a detection" in stderr


def test_a_detection_comes_back_from_its_json(recorded):
    (result,) = json.loads((recorded / "a.record.json").read_text("utf-8"))["results"]
    again = Detection.from_dict(result).to_dict()
    assert again == {key: result.get(key) for key in again}


def test_an_annotated_copy_has_every_frame_with_its_boxes(recorded, clip):
    with av.open(str(recorded / "a.mp4")) as copy, av.open(str(clip)) as original:
        stream = copy.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 256, 200)
        drawn = list(copy.decode(video=0))
        plain = list(original.decode(video=0))
    assert len(drawn) == len(plain) == 30
    assert [round(frame.time, 2) for frame in drawn] == [round(frame.time, 2) for frame in plain]
    (result,) = json.loads((recorded / "a.record.json").read_text("utf-8"))["results"]
    frame = result["faces"][0]["frames"][4]
    x, y, width, height = frame["box"]
    one, other = (each[frame["index"]].to_ndarray(format="rgb24").astype(int) for each in (drawn, plain))
    change = np.abs(one - other).mean(axis=2)
    edge = change[y : y + height, x - 2 : x + 3].mean()
    assert edge > 20 > change[y + height // 3 : y + height // 2, x + width // 3 : x + width // 2].mean()


def test_a_box_moves_evenly_between_scored_frames():
    frames = [FrameScore(index, index / 10, (index, 0, 20, 20), 1.0, 0.5) for index in (10, 20, 30, 80, 90)]
    track = FaceTrack(0, 0.5, frames)
    assert box_at(track, 20) == ((20.0, 0.0, 20.0, 20.0), frames[1], True)
    assert box_at(track, 24) == ((24.0, 0.0, 20.0, 20.0), frames[1], False)
    assert box_at(track, 26)[1] is frames[2]
    assert box_at(track, 50) is None and box_at(track, 2) is None
    assert box_at(track, 94)[0][0] == 90


@pytest.mark.parametrize("option", ["--report", "--annotate", "--csv", "--json", "verify"])
def test_a_full_disk_is_stated_and_leaves_what_was_there(
    run_tfdfd, recorded, clip, toy_weights, tmp_path, monkeypatch, option
):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / ("a.mp4" if option == "--annotate" else "a.html")
    target.write_text("older")
    model = ["--model", toy_weights, "--quiet"]
    words = ["detect", clip, "--detector", "haar", "--frames", 10, option, target, *model]
    if option == "verify":
        words = ["verify", recorded / "a.record.json", clip, "--json", target, *model]
    monkeypatch.setattr(files.os, "fsync", full)
    code, stdout, stderr = run_tfdfd(*words)
    assert (code, stdout) == (1, "") and "No space left on device" in stderr and "Traceback" not in stderr
    assert target.read_text() == "older" and list(tmp_path.iterdir()) == [target]


def test_only_one_video_is_annotated(run_tfdfd, tmp_path, clip):
    code, _, stderr = run_tfdfd("detect", clip, clip, "--annotate", tmp_path / "a.mp4")
    assert code == 2 and "--annotate is for one video; received 2 inputs" in stderr
    code, _, stderr = run_tfdfd("detect", clip, "-o", tmp_path / "out", "--annotate", tmp_path / "a.mp4")
    assert code == 2 and "--annotate cannot be combined with -o" in stderr
