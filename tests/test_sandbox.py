"""The decoding processes: nothing that happens in one stops another input, outlives its limits or leaves a trace."""

import contextlib
import io
import itertools
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from PIL import Image

from tfdfd.extract import pool, worker
from tfdfd.extract.extraction import MAX_CROPS, Extraction, FaceCrop, FrameFaces, Request
from tfdfd.extract.pool import FaceExtractor
from tfdfd.media import Limits, MediaError
from tfdfd.media.inputs import Input, list_inputs
from tfdfd.process import oom_kills

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and resource limits of POSIX")

SOON = 15  # seconds; what is to happen at once, on a machine that is busy


def until(condition):
    """Waits for what no event tells about, in another process; fails when it does not come."""
    deadline = time.monotonic() + SOON
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
    return result


def has_open(process, path):
    with contextlib.suppress(psutil.Error):
        return any(file.path == str(path) for file in process.open_files())


def ended(process):
    # A zombie is one that has ended, in a container whose first process takes no notice of it.
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def new_children(before):
    return [child for child in psutil.Process().children() if child not in before]


@pytest.fixture
def children():
    """The processes started since, in order; at the end none may be left."""
    before = psutil.Process().children()
    yield lambda: sorted(new_children(before), key=lambda child: child.create_time())
    until(lambda: not new_children(before))


@pytest.fixture(scope="session")
def endless(tmp_path_factory, make_video):
    """A video that takes far longer to decode than any test here lasts."""
    folder = tmp_path_factory.mktemp("endless")
    grey = np.full((720, 1280, 3), 120, np.uint8)
    short = make_video(folder / "short.ts", [grey] * 50, container="mpegts")
    path = folder / "endless.ts"
    path.write_bytes(short.read_bytes() * 1000)
    return path


@pytest.fixture
def pictures(tmp_path):
    """A function that writes small pictures of one colour, as inputs."""

    def write(count):
        paths = [tmp_path / f"{i:03d}.png" for i in range(count)]
        for path in paths:
            Image.new("RGB", (32, 32), (len(path.name), 9, 9)).save(path)
        return [Input(str(path)) for path in paths]

    return write


def statuses(outcomes):
    return [outcome.status for outcome in outcomes]


@pytest.mark.usefixtures("children")
def test_outcomes_come_in_the_order_of_the_inputs(tmp_path, pictures, make_video):
    items = pictures(6)
    items.insert(0, Input(str(make_video(tmp_path / "slow.mp4", [np.zeros((480, 640, 3), np.uint8)] * 60))))
    items.insert(3, Input(str(tmp_path / "absent.png")))
    items.insert(5, Input("refused", error=MediaError("unsupported", "for a reason")))
    with FaceExtractor("none", workers=2) as extractor:
        outcomes = list(extractor.extract(items, Request(frames=2, size=8)))
    assert [outcome.path for outcome in outcomes] == [item.path for item in items]
    assert statuses(outcomes) == ["ok"] * 3 + ["not_found", "ok", "unsupported"] + ["ok"] * 3
    assert outcomes[5].message == "for a reason"


@pytest.mark.usefixtures("children")
def test_two_runs_at_once_do_not_mix(pictures):
    items = pictures(6)
    with FaceExtractor("none", workers=1) as extractor:
        runs = [extractor.extract(part, Request(size=8)) for part in (items, items[::-1])]
        for one, other in zip(*runs, strict=True):
            assert items.index(Input(one.path)) + items.index(Input(other.path)) == 5


@pytest.mark.usefixtures("children")
def test_faces_come_with_box_and_crop(tmp_path, astronaut):
    Image.fromarray(astronaut).save(tmp_path / "a.png")
    with FaceExtractor("haar", workers=1) as extractor:
        (outcome,) = extractor.extract(list_inputs([tmp_path]).items, Request(size=64))
    face = outcome.frames[0].faces[0]
    x, y, width, height = face.box
    assert x < 224 < x + width and y < 122 < y + height
    assert (face.crop.shape, face.crop.dtype) == ((64, 64, 3), np.uint8)


def test_work_begins_before_the_first_outcome_is_asked_for(endless, children):
    with FaceExtractor("haar", workers=1) as extractor:
        outcomes = extractor.extract([Input(str(endless))], Request())
        (child,) = children()
        until(lambda: has_open(child, endless))
        child.kill()
        assert statuses(outcomes) == ["decode_error"]


@pytest.mark.parametrize(
    ("end", "status", "word"),
    [
        (signal.SIGSEGV, "decode_error", "SIGSEGV"),
        (signal.SIGABRT, "decode_error", "SIGABRT"),
        (signal.SIGKILL, "decode_error", "killed from outside"),
        ("out of memory", "too_large", "ran out of memory"),
    ],
)
def test_a_crash_is_the_outcome_of_its_input_only(endless, pictures, children, monkeypatch, end, status, word):
    if end == "out of memory":  # as the kernel counts
        counts = itertools.count()
        monkeypatch.setattr(pool, "oom_kills", lambda: next(counts))
        end = signal.SIGKILL
    first, *others = pictures(3)
    with FaceExtractor("haar", workers=1) as extractor:
        outcomes = extractor.extract([first, Input(str(endless)), *others], Request())
        assert next(outcomes).status == "no_face"
        (child,) = children()
        until(lambda: has_open(child, endless))
        child.send_signal(end)
        crashed, *rest = outcomes
        assert (crashed.path, crashed.status) == (str(endless), status)
        assert word in crashed.message
        assert statuses(rest) == ["no_face", "no_face"]


def test_processes_killed_for_lack_of_memory_are_counted(monkeypatch):
    assert oom_kills() >= 0
    for text, count in (("pgfault 7\noom_kill 12\noom_kill_disable 3\n", 12), ("pgfault 7\n", 0)):
        monkeypatch.setattr("builtins.open", lambda *_, text=text, **__: io.StringIO(text))
        found = oom_kills()
        monkeypatch.undo()
        assert found == count


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="os.waitid")
def test_a_process_that_died_while_idle_costs_no_input(pictures, children):
    with FaceExtractor("haar", workers=1) as extractor:
        assert statuses(extractor.extract(pictures(1), Request())) == ["no_face"]
        (child,) = children()
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert statuses(extractor.extract(pictures(3), Request())) == ["no_face"] * 3


@pytest.mark.usefixtures("children")
def test_an_input_that_takes_too_long_times_out_promptly_and_alone(endless, pictures):
    items = [Input(str(endless)), *pictures(2)]
    with FaceExtractor("haar", limits=Limits(max_seconds=1.5), workers=1) as extractor:
        outcomes = list(extractor.extract(items, Request()))
    assert statuses(outcomes) == ["timeout", "no_face", "no_face"]
    assert "1.5 s (--max-seconds)" in outcomes[0].message
    assert 1.5 <= outcomes[0].elapsed_s < 1.5 + SOON


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA")
@pytest.mark.usefixtures("children")
def test_an_input_that_takes_too_much_memory_is_too_large_and_alone(tmp_path, pictures):
    Image.new("RGB", (7000, 7000)).save(tmp_path / "large.png")
    items = [Input(str(tmp_path / "large.png")), *pictures(2)]
    with FaceExtractor("haar", limits=Limits(max_memory=400_000_000), workers=1) as extractor:
        outcomes = list(extractor.extract(items, Request()))
    assert statuses(outcomes) == ["too_large", "no_face", "no_face"]
    assert "--max-memory" in outcomes[0].message


@pytest.mark.usefixtures("children")
def test_more_frames_than_an_answer_holds_are_an_error_before_the_work(tmp_path, make_video):
    path = make_video(tmp_path / "a.mp4", [np.zeros((16, 16, 3), np.uint8)] * (MAX_CROPS + 1))
    with FaceExtractor("none", workers=1) as extractor:
        (outcome,) = extractor.extract([Input(str(path))], Request(frames=MAX_CROPS, size=8))
        assert (outcome.status, len(outcome.frames)) == ("ok", MAX_CROPS)
    with pytest.raises(ValueError, match=f"at most {MAX_CROPS}"):
        Request(frames=MAX_CROPS + 1)


PARENT = """
import sys
from tfdfd.extract.pool import FaceExtractor
from tfdfd.extract.extraction import Request
from tfdfd.media.inputs import Input
extractor = FaceExtractor("haar", workers=1)
list(extractor.extract([Input(sys.argv[1])], Request()))
print("idle", flush=True)
list(extractor.extract([Input(sys.argv[2])], Request()))
"""


@pytest.mark.parametrize("busy", [False, True])
def test_a_process_ends_with_its_parent_whatever_it_is_doing(pictures, endless, busy):
    quick = pictures(1)[0].path
    words = [sys.executable, "-c", PARENT, quick, endless if busy else "/dev/zero"]
    if not busy:
        words[2] = PARENT.rsplit("\n", 2)[0] + "\nsys.stdin.read()"
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"idle\n"
        (child,) = psutil.Process(parent.pid).children()
        if busy:
            until(lambda: has_open(child, endless))
        parent.kill()
    try:
        until(lambda: ended(child))
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def test_close_ends_a_process_at_work(endless, children):
    extractor = FaceExtractor("haar", workers=1)
    outcomes = extractor.extract([Input(str(endless))], Request())
    (child,) = children()
    until(lambda: has_open(child, endless))
    begun = time.monotonic()
    extractor.close()
    outcomes.close()
    assert time.monotonic() - begun < SOON


def test_leaving_in_the_middle_does_not_wait_for_the_work(endless, children):
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt), FaceExtractor("haar", workers=1) as extractor:
        outcomes = extractor.extract([Input(str(endless))] * 3, Request())
        (child,) = children()
        until(lambda: has_open(child, endless))
        raise KeyboardInterrupt
    del outcomes
    assert time.monotonic() - begun < SOON


# What the process answers in place of a decoder: started, it says it is ready, and to the first request this.
IMPOSTOR = """
import os, sys, time
out = os.fdopen(os.dup(1), "wb", buffering=0)
out.write({ready!r})
sys.stdin.buffer.readline()
out.write({answer!r})
{then}
"""
STAY = "sys.stdin.buffer.read()"
HUSH = "out.close(); os.close(1); sys.stdin.buffer.read()"
READY = b"".join(worker.pack({"ready": True}))


@pytest.fixture
def picture(tmp_path, monkeypatch):
    """The input `a.png`."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32)).save("a.png")
    return Input("a.png", "image")


@pytest.fixture
def impostor(monkeypatch, children, picture):
    """The outcome of an input whose decoding process answers `answer`."""

    def extract(answer, then=STAY, ready=READY, **limits):
        monkeypatch.setattr(pool, "_BOOT", IMPOSTOR.format(ready=ready, answer=answer, then=then))
        with FaceExtractor("none", limits=Limits(**limits), workers=1) as extractor:
            (outcome,) = extractor.extract([picture], Request(size=8))
        return outcome

    return extract


CROP = bytes(8 * 8 * 3)


def framed(header, crops=b"", crop_bytes=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<II", len(text), len(crops) if crop_bytes is None else crop_bytes) + text + crops


def answer(face=None, frame=None, **fields):
    """A well-formed answer of one face, and then what was asked for in place of parts of it."""
    one_face = {"box": [1, 2, 3, 4], "score": 0.5, "landmarks": None, "measures": {}} | (face or {})
    one_frame = {"index": 0, "time_s": 0.0, "faces": [one_face]} | (frame or {})
    header = {"path": "a.png", "kind": "image", "status": "ok", "message": None, "duration_s": None}
    header |= {"frames_damaged": 0}
    return header | {"frames": [one_frame], "elapsed_s": 0.0} | fields


def test_a_well_formed_answer_is_taken(impostor):
    outcome = impostor(framed(answer(), CROP))
    assert (outcome.status, outcome.frames[0].faces[0].box) == ("ok", (1, 2, 3, 4))


def test_what_is_packed_comes_out_again():
    crop = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    view = np.arange(36, dtype=np.uint8).reshape(2, 6, 3)
    frames = [FrameFaces(3, 0.5, [FaceCrop((1, 2, 3, 4), 0.9, None, crop)], view), FrameFaces(4, 0.6, [])]
    sent = Extraction("a", "video", "ok", "note", 2.5, frames, frame_size=(20, 60))
    request = Request(size=8, views=1, view_side=8)
    data = b"".join(worker.pack(sent))
    header_bytes, crop_bytes = worker.lengths(data[: worker.PREFIX_BYTES])
    header = json.loads(data[worker.PREFIX_BYTES :][:header_bytes])
    worker.check_pixel_bytes(header, crop_bytes, request)
    received = worker.unpack("a", header, data[worker.PREFIX_BYTES + header_bytes :], request)
    np.testing.assert_array_equal(received.frames[0].faces[0].crop, crop)
    np.testing.assert_array_equal(received.frames[0].view, view)
    for each in (sent, received):
        each.frames[0].faces[0].crop = each.frames[0].view = None
    assert received == sent


class Trap:
    def __reduce__(self):
        return os._exit, (99,)


NONSENSE = {
    "oversize header": struct.pack("<II", worker.MAX_HEADER + 1, 0),
    "no JSON": framed(b"{"),
    "no UTF-8": framed(b'{"\xff": 1}'),
    "pickle": framed(pickle.dumps(Trap())),
    "deep JSON": framed(b"[" * 100_000),
    "a list": framed([]),
    "a number": framed(1),
    "null": framed(None),
    "no fields": framed({}),
    "too many crop bytes": framed(answer(), CROP + b"\0"),
    "too few crop bytes": framed(answer(), CROP[:-1]),
    "crops without end": framed(answer(), crop_bytes=0xFFFFFFFF),
    "too many faces": framed(answer(frame={"faces": [{}] * (MAX_CROPS + 1)}), crop_bytes=(MAX_CROPS + 1) * len(CROP)),
    "frames no list": framed(answer(frames=3)),
    "frames of numbers": framed(answer(frames=[3])),
    "faces no list": framed(answer(frame={"faces": 3})),
    "faces of text": framed(answer(frame={"faces": "a"}), CROP),
    "unknown status": framed(answer(status="fine"), CROP),
    "status no text": framed(answer(status=["ok"]), CROP),
    "a score without evidence": framed(answer(frames=[])),
    "evidence without a score": framed(answer(status="no_face"), CROP),
    "unknown kind": framed(answer(kind="virus"), CROP),
    "message no text": framed(answer(message={"a": 1}), CROP),
    "duration no number": framed(answer(duration_s="long"), CROP),
    "damaged frames no number": framed(answer(frames_damaged="some"), CROP),
    "endless duration": framed(answer(duration_s=float("inf")), CROP),
    "index without end": framed(answer(frame={"index": float("inf")}), CROP),
    "negative index": framed(answer(frame={"index": -1}), CROP),
    "time no number": framed(answer(frame={"time_s": float("nan")}), CROP),
    "negative time": framed(answer(frame={"time_s": -1.0}), CROP),
    "time null": framed(answer(frame={"time_s": None}), CROP),
    "time too long for a number": framed(answer(frame={"time_s": 10**400}), CROP),
    "box without end": framed(answer(face={"box": [0, 0, float("inf"), 1]}), CROP),
    "box of three": framed(answer(face={"box": [1, 2, 3]}), CROP),
    "box of text": framed(answer(face={"box": "abcd"}), CROP),
    "box no number": framed(answer(face={"box": [1, 2, 3, float("nan")]}), CROP),
    "score no number": framed(answer(face={"score": float("nan")}), CROP),
    "a view that was not asked for": framed(answer(frame={"view": [8, 8]}), CROP + CROP),
    "a view that is larger than asked for": framed(answer(frame={"view": [8, 10**9]}), CROP + CROP),
    "a view of no size": framed(answer(frame={"view": 3}), CROP),
    "frame size no number": framed(answer(frame_size=["a", 1]), CROP),
    "score text": framed(answer(face={"score": "high"}), CROP),
}


@pytest.mark.parametrize("data", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_from_a_process_is_a_typed_outcome(impostor, data):
    outcome = impostor(data, max_seconds=SOON)
    assert (outcome.path, outcome.kind, outcome.status) == ("a.png", "image", "decode_error")
    assert "malformed response" in outcome.message
    assert not outcome.frames


@pytest.mark.parametrize("kept", [0, 5, 8, 20, -1])
def test_a_process_that_ends_in_the_middle_of_an_answer_has_crashed(impostor, kept):
    outcome = impostor(framed(answer(), CROP)[:kept], then="os._exit(7)")
    assert outcome.status == "decode_error"
    assert "exit code 7" in outcome.message


@pytest.mark.parametrize("then", [STAY, HUSH], ids=["silent", "closed"])
@pytest.mark.parametrize("kept", [0, 5, 20])
def test_a_process_that_says_no_more_is_given_up(impostor, monkeypatch, kept, then):
    monkeypatch.setattr(pool, "DYING_SECONDS", 0.3)
    begun = time.monotonic()
    outcome = impostor(framed(answer(), CROP)[:kept], then=then, max_seconds=0.3)
    assert outcome.status == ("timeout" if then == STAY else "decode_error")
    assert time.monotonic() - begun < SOON


@pytest.mark.usefixtures("children")
def test_a_process_that_does_not_listen_is_given_up(monkeypatch, picture):
    monkeypatch.setattr(pool, "DYING_SECONDS", 0.3)
    deaf = f"import os, select; os.close(0); os.write(1, {READY!r}); select.select([], [], [])"
    monkeypatch.setattr(pool, "_BOOT", deaf)
    with FaceExtractor("none", workers=1) as extractor:
        (outcome,) = extractor.extract([picture], Request())
    assert outcome.status == "decode_error"


@pytest.mark.parametrize(
    ("ready", "error"),
    [
        (b"".join(worker.pack({"fatal": "why", "usage": True})), ValueError),
        (b"".join(worker.pack({"fatal": "why", "usage": False})), RuntimeError),
        (framed(b"why"), RuntimeError),
        (framed([]), RuntimeError),
        (struct.pack("<II", 0xFFFFFFFF, 0), RuntimeError),
    ],
)
def test_a_process_that_does_not_start_is_an_error_of_ours(impostor, ready, error):
    with pytest.raises(error) as caught:
        impostor(b"", ready=ready)
    assert type(caught.value) is error


def bad_inputs(folder):
    """Files and names that cannot be scored, each for its own reason."""
    contents = {
        "empty.mp4": b"",
        "text.mp4": b"text",
        "cut.mp4": b"\0\0\0\x18ftypisom\0\0\2\0isomiso2",
        "cut.jpg": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
        "cut.png": b"\x89PNG\r\n\x1a\n",
        "cut.gif": b"GIF89a",
        "cut.mkv": b"\x1a\x45\xdf\xa3",
        "cut.avi": b"RIFF\xff\0\0\0AVI LIST",
        "cut.ts": b"G" + b"\0" * 187 + b"G" + b"\0" * 187,
        "list.mp4": b"#EXTM3U\n",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "out.mp4").symlink_to("/dev/zero")
    return [folder, folder / "absent.mp4", "/dev/zero", "http://127.0.0.1:9/a.mp4", "a\0.mp4"]


@pytest.mark.usefixtures("children")
def test_a_run_over_bad_inputs_leaves_no_file(tmp_path, monkeypatch, endless):
    work, media = tmp_path / "work", tmp_path / "media"
    work.mkdir()
    media.mkdir()
    for name in ("TMPDIR", "TEMP", "TMP", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(work))
    monkeypatch.chdir(work)
    items = list_inputs(bad_inputs(media)).items
    before = sorted(media.iterdir())
    with FaceExtractor("mtcnn", limits=Limits(max_seconds=1), workers=1) as extractor:
        outcomes = statuses(extractor.extract([*items, Input(str(endless))], Request()))
    assert len(outcomes) == 16
    assert not {"ok", "no_face"} & set(outcomes)
    assert outcomes[-1] == "timeout"
    assert sorted(media.iterdir()) == before
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("failures", [pool.FAILURES, set()], ids=["renewed", "kept"])
def test_file_descriptors_do_not_add_up(tmp_path, pictures, children, make_video, monkeypatch, failures):
    video = Input(str(make_video(tmp_path / "a.mp4", [np.zeros((32, 32, 3), np.uint8)] * 5)))
    bad = list_inputs(bad_inputs(tmp_path)[:1]).items
    good = pictures(3)
    me = psutil.Process()
    monkeypatch.setattr(pool, "FAILURES", failures)
    with FaceExtractor("haar", workers=1) as extractor:
        list(extractor.extract([video, *good], Request()))
        (first,) = children()
        ours, theirs = me.num_fds(), first.num_fds()
        outcomes = list(extractor.extract(([video, *bad, *good] * 4)[:50], Request()))
        assert len(outcomes) == 50
        (child,) = children()
        assert (child == first) == (not failures)
        assert me.num_fds() <= ours
        assert child.num_fds() <= theirs + 1
    assert me.num_fds() < ours
