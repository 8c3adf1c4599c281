"""From an index to face crops: what comes out, and that a run may be stopped anywhere without a trace."""

import csv
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.face_clips import ARGUMENTS, CLIPS, FRAMES, bytes_of, command, index_row, make_clips
from tfdfd.data import FaceOptions, cut_faces
from tfdfd.data.cut_faces import read_boxes, read_record
from tfdfd.data.face_set import FaceSet, safe_names
from tfdfd.data.tables import FaceRow, IndexRow, read_table, write_table
from tfdfd.extract.engines import LocalEngine
from tfdfd.extract.extraction import Extraction, FaceCrop, FrameFaces


@pytest.fixture(scope="session")
def clips(tmp_path_factory, make_video, astronaut):
    """A folder of clips of one moving face, and their index."""
    return make_clips(tmp_path_factory.mktemp("clips"), make_video, astronaut)


def extract(clips, folder, index="index.csv", stored=None, retry=(), **options):
    with FaceSet(clips / index, clips, folder, FaceOptions(**options), stored, LocalEngine(2), retry) as faces:
        records = list(faces.extract())
        faces.finish()
    return records


@pytest.fixture(scope="session")
def whole(clips, tmp_path_factory):
    """The face set of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "faces"
    extract(clips, folder, **ARGUMENTS)
    return folder


@pytest.fixture(scope="session")
def few(clips, tmp_path_factory):
    """The same of four clips."""
    folder = tmp_path_factory.mktemp("few") / "faces"
    extract(clips, folder, "few.csv", **ARGUMENTS)
    return folder


def status_rows(folder):
    with open(folder / "status.csv", encoding="utf-8", newline="") as file:
        return {row["video"]: row for row in csv.DictReader(file)}


def test_every_crop_is_a_row_and_every_row_a_crop(clips, whole):
    faces = read_table(whole / "faces.csv", FaceRow)
    assert len(faces) > CLIPS * 2
    assert [(face.video, face.frame, face.track) for face in faces] == sorted(
        (face.video, face.frame, face.track) for face in faces
    )
    crops = {path.relative_to(whole).as_posix() for path in (whole / "crops").rglob("*.png")}
    assert {face.file for face in faces} == crops and len(faces) == len(crops)
    index = {row.path: row for row in read_table(clips / "index.csv", IndexRow)}
    for face in faces:
        row = index[face.video]
        assert hashlib.sha256((whole / face.file).read_bytes()).hexdigest() == face.sha256
        assert cv2.imread(str(whole / face.file)).shape == (64, 64, 3)
        assert (face.label, face.method, face.source_id, face.split) == (row.label, row.method, row.source_id, "val")
        assert face.frame in (1, 4, 7, 10) and face.time_s == pytest.approx(face.frame / 25, abs=2e-3)
    run = json.loads((whole / "run.json").read_text())
    assert run["counts"] == {
        "videos": CLIPS,
        "crops": len(faces),
        "multiple_faces": sum(row["multiple_faces"] == "1" for row in status_rows(whole).values()),
        "statuses": {"ok": CLIPS},
    }


def test_the_crop_is_the_face_of_its_box(clips, whole):
    face = read_table(whole / "faces.csv", FaceRow)[-1]
    capture = cv2.VideoCapture(str(clips / face.video))
    frames = [capture.read()[1] for _ in range(face.frame + 1)]
    x, y, width, height = face.box
    inside = cv2.resize(frames[-1][y : y + height, x : x + width], (32, 32), interpolation=cv2.INTER_AREA)
    crop = cv2.imread(str(whole / face.file))
    rim = round(64 * (1 - 1 / 1.3) / 2)
    middle = cv2.resize(crop[rim:-rim, rim:-rim], (32, 32), interpolation=cv2.INTER_AREA)
    assert np.corrcoef(inside.ravel(), middle.ravel())[0, 1] > 0.97


# `benchmarks.kills` kills this command and the others more often.
@pytest.mark.skipif(os.name != "posix", reason="process groups")
@pytest.mark.parametrize("times", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_in_the_same_bytes(clips, whole, tmp_path, times):
    rng = random.Random(4)
    folder = tmp_path / "faces"
    made = {}
    killed = rounds = 0
    while killed < times:
        with subprocess.Popen(command(clips, folder), stderr=subprocess.PIPE, start_new_session=True) as process:
            timer = threading.Timer(60, process.kill)
            timer.start()
            # Now while it starts, now a little after it has told of a video that is done.
            if rng.random() < 0.75:
                while (line := process.stderr.readline()) and not line.startswith(b"["):
                    pass
                time.sleep(rng.uniform(0, 0.02))
            else:
                time.sleep(rng.uniform(0, 0.8))
            timer.cancel()
            finished = process.poll() is not None
            if not finished:
                os.killpg(process.pid, signal.SIGKILL)
        if finished:
            # Done before it was killed so often: once more, from nothing.
            assert bytes_of(folder) == bytes_of(whole)
            rounds += 1
            folder, made = tmp_path / f"faces{rounds}", {}
            continue
        killed += 1
        done = {path: path.stat().st_mtime_ns for path in folder.glob("records/**/*.json")}
        assert made.items() <= done.items(), "a video that was done was done again"
        made = done
    resumed = subprocess.run(command(clips, folder), capture_output=True, timeout=60)
    assert resumed.returncode == 0, resumed.stderr
    assert bytes_of(folder) == bytes_of(whole)


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_an_interrupt_of_all_processes_passes_for_no_crash(clips, whole, tmp_path):
    folder = tmp_path / "faces"
    with subprocess.Popen(command(clips, folder), stderr=subprocess.PIPE, start_new_session=True) as process:
        while (line := process.stderr.readline()) and not line.startswith(b"["):
            pass
        timer = threading.Timer(60, process.kill)
        timer.start()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl-C
        told = process.stderr.read()
        timer.cancel()
        assert process.wait(30) == 130 and b"interrupted" in told and b"Traceback" not in told
    assert {record.status for record in _records(folder)} == {"ok"}
    assert subprocess.run(command(clips, folder), capture_output=True, timeout=60).returncode == 0
    assert bytes_of(folder) == bytes_of(whole)


class Canned:
    """In place of the decoding processes: two videos with faces, one without, one broken; no processes, no time."""

    sandbox_note = None

    def __init__(self, *_):
        self.asked = []

    def map(self, work, items, count):
        return map(work, items)

    def extract_one(self, item, request):
        self.asked.append(item.path)
        name = Path(item.path).stem
        if name == "broken":
            return Extraction(item.path, "video", "decode_error", "damaged")
        crop = np.full((request.size, request.size, 3), len(self.asked), np.uint8)
        crop[:] = int(hashlib.sha256(name.encode()).hexdigest()[:2], 16)
        faces = [FaceCrop((k, 2, 30, 40), 0.9, None, crop) for k in range(2)] if name != "empty" else []
        frames = [FrameFaces(k, k / 25, faces.copy()) for k in range(2)]
        if name == "empty":
            return Extraction(item.path, "video", "no_face", "no face was found in the 2 frames looked at", 1.0, frames)
        frames = [FrameFaces(k, k / 25, [FaceCrop(f.box, f.score, None, f.crop) for f in faces]) for k in range(2)]
        return Extraction(item.path, "video", "ok", None, 1.0, frames)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


@pytest.fixture
def canned(monkeypatch, tmp_path):
    """A folder with an index of what `Canned` answers."""
    monkeypatch.setattr(cut_faces, "FaceExtractor", Canned)
    root = tmp_path / "root"
    root.mkdir()
    rows = [index_row("a/one.mp4"), index_row("a/broken.mp4"), index_row("empty.mp4")]
    rows.append(index_row("b/two.mp4", 1, "a/one.mp4"))
    write_table(root / "index.csv", rows, IndexRow)
    return root


_AT_EVERY_STEP = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="os.fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("format, stride", [("png", 3), ("jpg", 4), pytest.param("png", 1, marks=pytest.mark.slow)])
def test_killed_before_any_step_on_the_disk_it_ends_in_the_same_bytes(canned, tmp_path, monkeypatch, format, stride):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a kill, unlike a power cut, loses nothing that was written
    options = {"format": format, "size": 8, "mirror": format == "jpg"}
    options |= {"first": True, "max_faces": 1} if format == "jpg" else {"boxes_from": "original"}
    extract(canned, tmp_path / "whole", **options)
    expected = bytes_of(tmp_path / "whole")
    assert len(read_table(tmp_path / "whole" / "faces.csv", FaceRow)) == (4 if format == "jpg" else 8)
    step = 0
    while True:
        folder = tmp_path / f"{step:04d}"
        child = os.fork()
        if not child:
            _run_until(step, lambda to=folder: extract(canned, to, **options), tmp_path)
        _, code = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(code)
        assert code in (0, 9)
        extract(canned, folder, **options)
        assert bytes_of(folder) == expected, f"killed before step {step}"
        if code == 0:
            break
        step += stride
    assert step > 40


def _run_until(step, work, folder):
    """In a child process: `work`, but ended without notice before its `step`-th step on the disk."""
    steps = 0

    def count(event, arguments):
        nonlocal steps
        if event in _AT_EVERY_STEP and str(arguments[0]).startswith(str(folder)):
            steps += 1
            if steps > step:
                os._exit(9)

    code = 1
    try:
        sys.addaudithook(count)
        work()
        code = 0
    finally:
        os._exit(code)


def test_a_full_disk_stops_the_run_with_its_name_and_what_was_done_stays(canned, tmp_path, monkeypatch, run_tfdfd):
    extract(canned, tmp_path / "whole", size=8)
    words = ["extract", canned / "index.csv", "--root", canned, "-o", tmp_path / "faces", "--size", 8]
    write, left = Path.write_bytes, [5]

    def full(path, data):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        code, out, err = run_tfdfd(*words)
    assert (code, out) == (1, "")
    assert "No space left on device" in err and f"{tmp_path / 'faces'}: " in err and "Traceback" not in err
    assert len(list((tmp_path / "faces" / "records").rglob("*.json"))) == 2
    code, out, err = run_tfdfd(*words)
    assert code == 3 and "2 of 4 were done before" in err
    assert bytes_of(tmp_path / "faces") == bytes_of(tmp_path / "whole")


def _in_a_small_file_system(size, folder, script, words):
    """Runs a shell script for which alone `folder` is a file system of that size; skips where there can be none."""
    mount = f'mount -t tmpfs -o size={size} tmpfs "{folder}" || exit 77; '
    shell = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount + script, "sh", *words]
    if shutil.which("unshare") is None:
        pytest.skip("no unshare")
    done = subprocess.run(shell, capture_output=True, timeout=120)
    if done.returncode == 77 or b"unshare: " in done.stderr:
        pytest.skip(f"no file system may be mounted here: {done.stderr.decode().strip()}")
    return done


def test_a_small_disk_that_gets_full_leaves_what_goes_on_elsewhere(clips, whole, tmp_path):
    small, kept = tmp_path / "small", tmp_path / "kept"
    small.mkdir()
    # A third of what the whole set takes, its faces.csv not counted.
    script = f'"$@"; code=$?; cp -a "{small}/faces" "{kept}"; exit $code'
    done = _in_a_small_file_system("300k", small, script, command(clips, small / "faces"))
    assert done.returncode == 1, done.stderr
    assert b"No space left on device" in done.stderr and b"Traceback" not in done.stderr
    records = _records(kept)
    assert 0 < len(records) < CLIPS and {record.status for record in records} == {"ok"}
    times = {path: path.stat().st_mtime_ns for path in (kept / "records").rglob("*.json")}
    assert subprocess.run(command(clips, kept), capture_output=True, timeout=60).returncode == 0
    assert bytes_of(kept) == bytes_of(whole)
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in times.items())


def test_a_read_only_folder_is_an_error_with_its_name(clips, whole, tmp_path):
    begun = tmp_path / "begun"
    begun.mkdir()
    script = f'cp -a "{whole}" "{begun}/faces" && rm -r "{begun}/faces/records/fake" && mount -o remount,ro "{begun}"'
    done = _in_a_small_file_system("4m", begun, f'{script} || exit 77; "$@"', command(clips, begun / "faces"))
    assert done.returncode == 1, done.stderr
    assert b"Read-only file system" in done.stderr and str(begun).encode() in done.stderr
    assert b"Traceback" not in done.stderr


def test_crops_are_on_the_disk_before_the_record_tells_of_them(canned, tmp_path, monkeypatch):
    """What a power cut leaves is what was synchronised; the record must be the last of it."""
    synced, replaced = [], []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor):
        synced.append(os.path.realpath(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def note_replace(source, target):
        replaced.append((str(source), str(target), set(synced)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    records = extract(canned, tmp_path / "faces", size=8)
    crops = [move for move in replaced if "/faces/crops/" in move[1]]
    assert len(crops) == sum(bool(record.crops) for record in records) == 2
    for source, target, before in crops:
        names = {path.name for path in Path(target).iterdir()}
        assert names and {source, *(f"{source}/{name}" for name in names)} <= before
        record = target.replace("/faces/crops/", "/faces/records/") + ".json"
        assert [move[1] for move in replaced].index(record) > [move[1] for move in replaced].index(target)


def test_what_failed_is_done_again_when_asked_and_the_rest_stays(canned, tmp_path, monkeypatch, run_tfdfd):
    answer = Canned.extract_one
    late = {"two": "timeout", "broken": "too_large"}

    def slow(self, item, request):
        status = late.get(Path(item.path).stem)
        return Extraction(item.path, "video", status, "it took long") if status else answer(self, item, request)

    monkeypatch.setattr(Canned, "extract_one", slow)
    words = ["extract", canned / "index.csv", "--root", canned, "-o", tmp_path / "faces", "--size", 8, "--quiet"]
    assert run_tfdfd(*words)[0] == 3
    monkeypatch.setattr(Canned, "extract_one", answer)
    before = bytes_of(tmp_path / "faces")
    assert run_tfdfd(*words)[0] == 3 and bytes_of(tmp_path / "faces") == before
    times = {record.video: path.stat().st_mtime_ns for path, record in _records_by_path(tmp_path / "faces")}
    code, out, err = run_tfdfd(*words, "--retry", "timeout", "not_found")
    assert code == 3 and "1 no_face, 2 ok, 1 too_large" in out
    after = {record.video: path.stat().st_mtime_ns for path, record in _records_by_path(tmp_path / "faces")}
    assert {video for video in times if times[video] != after[video]} == {"b/two.mp4"}
    assert run_tfdfd(*words, "--retry", "too_large")[0] == 3
    extract(canned, tmp_path / "whole", size=8)
    assert bytes_of(tmp_path / "faces") == bytes_of(tmp_path / "whole")
    assert run_tfdfd(*words, "--retry", "ok")[0] == 2


def test_a_fake_is_done_again_with_the_original_whose_boxes_it_lacked(canned, tmp_path, monkeypatch):
    options = {"size": 8, "boxes_from": "original"}
    extract(canned, tmp_path / "whole", **options)
    answer = Canned.extract_one

    def slow(self, item, request):
        late = item.path.endswith("one.mp4")
        return Extraction(item.path, "video", "timeout", "it took long") if late else answer(self, item, request)

    with monkeypatch.context() as patch:
        patch.setattr(Canned, "extract_one", slow)
        extract(canned, tmp_path / "faces", **options)
    assert status_rows(tmp_path / "faces")["b/two.mp4"]["boxes"] == "detected"
    again = extract(canned, tmp_path / "faces", retry=["timeout"], **options)
    assert [record.video for record in again] == ["a/one.mp4", "b/two.mp4"]
    assert bytes_of(tmp_path / "faces") == bytes_of(tmp_path / "whole")


def test_a_set_that_is_made_again_in_part_does_not_pass_for_finished(canned, tmp_path):
    extract(canned, tmp_path / "faces", size=8)
    source = canned / "index.csv", canned, tmp_path / "faces", FaceOptions(size=8)
    with FaceSet(*source, retry=["decode_error"]) as faces:
        assert [row.path for row in faces.pending] == ["a/broken.mp4"]
        with pytest.raises(RuntimeError, match="no record of 'a/broken.mp4'"):
            faces.finish()
    assert json.loads((tmp_path / "faces" / "run.json").read_text())["finished"] is False


def test_each_record_is_read_once_for_the_tables(canned, tmp_path, monkeypatch):
    with FaceSet(canned / "index.csv", canned, tmp_path / "faces", FaceOptions(size=8)) as faces:
        list(faces.extract())
        read, reads = cut_faces.read_record, []
        monkeypatch.setattr(cut_faces, "read_record", lambda path: reads.append(path) or read(path))
        faces.finish()
    assert len(reads) == len(set(reads)) == 4


def test_a_folder_that_cannot_be_written_is_an_error_with_its_name(canned, tmp_path, run_tfdfd):
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "file", tmp_path / "file" / "faces"):
        code, out, err = run_tfdfd("extract", canned / "index.csv", "--root", canned, "-o", target)
        assert (code, out) == (1, "") and "file" in err and "Traceback" not in err


def test_a_process_that_somebody_ended_costs_nothing(canned, tmp_path, monkeypatch):
    extract(canned, tmp_path / "whole", size=8)
    answer, died = Canned.extract_one, []

    def dying(self, item, request):
        if "two" in item.path and not died:
            died.append(item.path)
            return Extraction(item.path, None, "too_large", "killed", process_died=True)
        return answer(self, item, request)

    monkeypatch.setattr(Canned, "extract_one", dying)
    extract(canned, tmp_path / "faces", size=8)
    assert died and bytes_of(tmp_path / "faces") == bytes_of(tmp_path / "whole")


def test_a_finished_set_is_not_made_again(canned, tmp_path):
    assert len(extract(canned, tmp_path / "faces", size=8)) == 4
    before = bytes_of(tmp_path / "faces")
    assert extract(canned, tmp_path / "faces", size=8) == []
    assert bytes_of(tmp_path / "faces") == before


def test_crops_or_boxes_that_were_taken_away_are_made_again(canned, tmp_path):
    extract(canned, tmp_path / "faces", size=8)
    before = bytes_of(tmp_path / "faces")
    (tmp_path / "faces" / "boxes" / "empty.json").unlink()
    (tmp_path / "faces" / "records" / "a" / "one.json").write_text("{")
    assert [record.video for record in extract(canned, tmp_path / "faces", size=8)] == ["a/one.mp4", "empty.mp4"]
    assert bytes_of(tmp_path / "faces") == before


def test_other_arguments_for_the_same_folder_are_refused_with_both_values(canned, tmp_path, run_tfdfd):
    words = ["extract", canned / "index.csv", "--root", canned, "-o", tmp_path / "faces", "--quiet"]
    assert run_tfdfd(*words, "--size", 8)[0] == 3
    before = bytes_of(tmp_path / "faces")
    code, _, err = run_tfdfd(*words, "--size", 16, "--max-seconds", 5)
    assert code == 2
    assert "arguments.size was 8, now 16" in err and "max_seconds was 300.0, now 5.0" in err
    write_table(canned / "index.csv", [index_row("a/one.mp4")], IndexRow)
    code, _, err = run_tfdfd(*words, "--size", 8)
    assert code == 2 and "index_sha256 was" in err
    assert bytes_of(tmp_path / "faces") == before


def test_another_data_set_of_the_same_index_is_refused(canned, tmp_path, monkeypatch):
    (canned / "a").mkdir()
    (canned / "a/one.mp4").write_bytes(b"one")
    write_table(canned / "index.csv", [replace(index_row("a/one.mp4"), bytes=3)], IndexRow)
    extract(canned, tmp_path / "faces", size=8)
    monkeypatch.chdir(tmp_path)
    with FaceSet(canned / "index.csv", os.path.relpath(canned), "faces", FaceOptions(size=8)) as faces:
        assert not faces.pending
    (tmp_path / "other/a").mkdir(parents=True)
    (tmp_path / "other/a/one.mp4").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"as the index knows it, with 3 bytes; .* has 7: another data set \(--root\)"):
        FaceSet(canned / "index.csv", "other", "faces", FaceOptions(size=8))


def test_a_folder_of_something_else_is_left_alone(canned, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds no face set"):
        extract(canned, tmp_path / "other")
    assert list(bytes_of(tmp_path / "other")) == ["thesis.txt"]


@pytest.mark.skipif(os.name != "posix", reason="file locks")
def test_two_runs_in_one_folder_are_refused(canned, tmp_path):
    with (
        FaceSet(canned / "index.csv", canned, tmp_path / "faces"),
        pytest.raises(ValueError, match="another 'tfdfd extract' is at work"),
    ):
        FaceSet(canned / "index.csv", canned, tmp_path / "faces")


def test_multiple_faces_are_flagged_or_dropped(canned, tmp_path):
    extract(canned, tmp_path / "keep", size=8)
    extract(canned, tmp_path / "drop", size=8, multiple_faces="drop")
    kept, dropped = (status_rows(tmp_path / name) for name in ("keep", "drop"))
    assert (kept["a/one.mp4"]["status"], kept["a/one.mp4"]["multiple_faces"]) == ("ok", "1")
    assert (dropped["a/one.mp4"]["status"], dropped["a/one.mp4"]["crops"]) == ("multiple_faces", "0")
    assert "2 of the 2 frames" in dropped["a/one.mp4"]["message"]
    assert read_table(tmp_path / "drop" / "faces.csv", FaceRow) == []
    assert kept["empty.mp4"] == dropped["empty.mp4"]
    assert kept["a/broken.mp4"]["message"] == "damaged"


def test_frames_with_many_faces_are_dropped(canned, tmp_path):
    extract(canned, tmp_path / "faces", size=8, drop_frames_above=1)
    row = status_rows(tmp_path / "faces")["a/one.mp4"]
    assert (row["status"], row["crops"]) == ("no_face", "0")
    assert "of at most 1 faces" in row["message"]


def test_a_fake_is_cut_by_the_boxes_of_its_original(clips, tmp_path):
    extract(clips, tmp_path / "faces", "few.csv", boxes_from="original", **ARGUMENTS)
    rows = status_rows(tmp_path / "faces")
    assert {row["boxes"] for path, row in rows.items() if path.startswith("fake")} == {"original"}
    assert {row["boxes"] for path, row in rows.items() if path.startswith("real")} == {"detected"}
    boxes = [read_boxes(tmp_path / "faces" / "boxes" / side / "03.json") for side in ("real", "fake")]
    assert boxes[0] == boxes[1] and any(boxes[0].values())


def test_crops_are_cut_again_from_stored_boxes(clips, few, tmp_path):
    extract(clips, tmp_path / "same", "few.csv", stored=few, size=64)
    for part in ("crops", "boxes"):
        assert bytes_of(tmp_path / "same" / part) == bytes_of(few / part)
    assert (tmp_path / "same" / "faces.csv").read_bytes() == (few / "faces.csv").read_bytes()
    otherwise = {"size": 32, "margin": 1.6, "format": "jpg", "quality": 70}
    extract(clips, tmp_path / "other", "few.csv", stored=few, **otherwise)
    extract(clips, tmp_path / "afresh", "few.csv", **ARGUMENTS | otherwise)
    other, afresh = (read_table(tmp_path / name / "faces.csv", FaceRow) for name in ("other", "afresh"))
    assert [(face.video, face.frame, face.box, face.sha256) for face in other] == [
        (face.video, face.frame, face.box, face.sha256) for face in afresh
    ]


def test_boxes_that_do_not_fit_are_refused(clips, whole, canned, tmp_path):
    with pytest.raises(ValueError, match="made of another index"):
        FaceSet(canned / "index.csv", canned, tmp_path / "faces", stored=whole)
    with pytest.raises(ValueError, match="is not a face set"):
        FaceSet(clips / "index.csv", clips, tmp_path / "faces", stored=clips)
    mirrored = FaceOptions(first=True, max_faces=1, mirror=True)
    with pytest.raises(ValueError, match="more than one frame"):
        FaceSet(clips / "index.csv", clips, tmp_path / "faces", mirrored, stored=whole)
    run = json.loads((whole / "run.json").read_text()) | {"finished": False}
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "run.json").write_text(json.dumps(run))
    with pytest.raises(ValueError, match="is not finished"):
        FaceSet(clips / "index.csv", clips, tmp_path / "faces", stored=tmp_path / "unfinished")
    assert not (tmp_path / "faces").exists()


def test_bad_and_odd_inputs_are_a_row_each(clips, tmp_path, run_tfdfd, astronaut):
    root = tmp_path / "odd"
    good = (clips / "real" / "00.mp4").read_bytes()
    names = [
        "ü/ñ.mp4",
        "ü/ñ.avi",
        "U.mp4",
        "u.mp4",
        "nest.mp4",
        "nest/in.mp4",
        'a "b",\n;c.mp4',
        "b\udcff.mp4",
        "c.png",
    ]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(good)
    Image.fromarray(astronaut[:192, 128:320]).save(root / "c.png")
    (root / "cut.mp4").write_bytes(good[: len(good) // 2])
    (root / "empty.mp4").write_bytes(b"")
    (root / "text.mp4").write_text("no video")
    bad = {"cut.mp4": "decode_error", "empty.mp4": "decode_error", "text.mp4": "unsupported", "gone.mp4": "not_found"}
    bad |= {"../clips/real/00.mp4": "unsupported"}
    write_table(root / "index.csv", [index_row(name) for name in (*names, *bad)], IndexRow)
    words = ["extract", root / "index.csv", "--root", root, "-o", tmp_path / "faces", "--first", "--detector", "haar"]
    code, out, err = run_tfdfd(*words, "--max-faces", 1, "--size", 32, "--workers", 2)
    assert code == 3 and "9 ok" in out and "Traceback" not in err
    faces = read_table(tmp_path / "faces" / "faces.csv", FaceRow)
    assert sorted(face.video for face in faces) == sorted(names)
    assert len({face.file.lower() for face in faces}) == len(names)
    assert all(face.file.isascii() and (tmp_path / "faces" / face.file).is_file() for face in faces)
    rows = {record.video: record for record in _records(tmp_path / "faces")}
    assert {name: rows[name].status for name in bad} == bad
    assert all(rows[name].message for name in bad)


def _records(folder):
    return [record for _, record in _records_by_path(folder)]


def _records_by_path(folder):
    return [(path, read_record(path)) for path in (folder / "records").rglob("*.json")]


def test_a_mirrored_tree_has_one_crop_a_video_named_like_it(clips, tmp_path):
    extract(
        clips,
        tmp_path / "faces",
        "few.csv",
        detector="haar",
        first=True,
        max_faces=1,
        mirror=True,
        format="jpg",
        size=32,
    )
    made = {path.relative_to(tmp_path / "faces" / "crops").as_posix() for path in tmp_path.rglob("*.jpg")}
    assert made == {"real/00.jpg", "fake/00.jpg", "real/03.jpg", "fake/03.jpg"}


@pytest.mark.parametrize(("choice", "frames"), [({"all": True}, range(FRAMES)), ({"every_s": 0.2}, (0, 5, 10))])
def test_long_videos_are_read_in_pieces_that_make_one_whole(clips, tmp_path, monkeypatch, choice, frames):
    monkeypatch.setattr(cut_faces, "WINDOW", 4)
    write_table(clips / "one.csv", [index_row("real/00.mp4")], IndexRow)
    extract(clips, tmp_path / "pieces", "one.csv", detector="haar", size=32, **choice)
    assert sorted(read_boxes(tmp_path / "pieces" / "boxes" / "real" / "00.json")) == list(frames)
    extract(clips, tmp_path / "stored", "one.csv", stored=tmp_path / "pieces", size=32)
    monkeypatch.undo()
    extract(clips, tmp_path / "whole", "one.csv", detector="haar", size=32, **choice)
    for name in ("pieces", "stored"):
        assert bytes_of(tmp_path / name / "crops") == bytes_of(tmp_path / "whole" / "crops")


def test_names_are_safe_and_distinct():
    paths = ["a.mp4", "A.avi", "b.mp4", "b/c.mp4", "d.e.mp4", "x.json/y.mp4", "é.mp4", "è.mp4", "..", ".h", "n" * 300]
    names = safe_names(paths)
    assert len({name.lower() for name in names.values()}) == len(paths)
    assert names["d.e.mp4"] == "d.e" and names["b/c.mp4"] == "b/c" and names["b.mp4"].startswith("b-")
    assert all(name.isascii() and len(name) < 200 and not name.startswith(".") for name in names.values())
    assert all("." not in name.rpartition("/")[0] for name in names.values())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--frames", "0"], "frames must be from 1 to 1024; received 0"),
        (["--every", "0"], "every_s must be greater than 0"),
        (["--first", "--all"], "not allowed with"),
        (["--size", "4"], "size must be from 8"),
        (["--margin", "0.5"], "margin must be from 1"),
        (["--quality", "80"], "--quality is for --format jpg"),
        (["--mirror"], "add --first --max-faces 1"),
        (["--ssd", "a.pb"], "--ssd and its settings, such as --ssd-config, are for"),
        (["--boxes", "x", "--frames", "3"], "omit --frames"),
        (["--detector", "none", "--boxes-from", "original"], "needs a face detector"),
        (["--root", "absent"], "absent is not a folder"),
        (["--workers", "0"], "at least 1; received 0"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(canned, tmp_path, run_tfdfd, monkeypatch, words, told):
    monkeypatch.undo()
    code, out, err = run_tfdfd("extract", canned / "index.csv", "--root", canned, "-o", tmp_path / "faces", *words)
    assert (code, out) == (2, "") and told in err


def test_the_same_path_twice_is_an_error(canned, tmp_path):
    write_table(canned / "index.csv", [index_row("a.mp4")] * 2, IndexRow)
    with pytest.raises(ValueError, match="lists 'a.mp4' more than once"):
        FaceSet(canned / "index.csv", canned, tmp_path / "faces")


def test_real_videos_end_to_end(data, tmp_path, run_tfdfd):
    root = data / "videos" / "ffpp"
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.mp4"))
    rows = [index_row(path, int("manipulated" in path)) for path in paths]
    write_table(tmp_path / "index.csv", rows, IndexRow)
    words = ["extract", tmp_path / "index.csv", "--root", root, "-o", tmp_path / "faces", "--frames", 4, "--quiet"]
    code, out, err = run_tfdfd(*words)
    assert (code, err) == (0, "") and "4 videos and images: 4 ok" in out
    assert {face.video for face in read_table(tmp_path / "faces" / "faces.csv", FaceRow)} == set(paths)
