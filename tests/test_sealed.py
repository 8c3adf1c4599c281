"""A decoding process can do nothing but decode, and what one input leaves behind changes nothing of the next."""

import dataclasses
import gc
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tfdfd import files
from tfdfd.data.tables import IndexRow, write_table
from tfdfd.detect.detector import Detector
from tfdfd.extract import extraction, pool, sandbox
from tfdfd.extract.extraction import Request, extract_faces
from tfdfd.extract.pool import FaceExtractor
from tfdfd.media import Limits, MediaError
from tfdfd.media.decode import read_media
from tfdfd.media.inputs import Input

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Landlock and seccomp")
SAMPLE = files.PACKAGE / "samples" / "genuine.mp4"


def kernel_seals():
    """Whether a process of this machine can be sealed."""
    code = "from tfdfd.extract.sandbox import seal; seal()"
    return not subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL).returncode


@pytest.fixture(scope="module")
def sealing():
    if not kernel_seals():
        pytest.skip("this kernel has no Landlock or seccomp")


# In the process, in place of reading the file: tries everything, and answers with what came of it.
PROBE = """
def probe(file, detector, request, limits):
    import ctypes, json, os, signal, socket, threading
    from tfdfd.extract.extraction import Extraction
    libc = ctypes.CDLL(None, use_errno=True)
    def raw(number, *arguments):
        if libc.syscall(number, *arguments) < 0:
            raise OSError(ctypes.get_errno(), "refused")
    thread = threading.Thread(target=lambda: None)
    attempts = {
        "open": lambda: open("/etc/passwd"),
        "open the package": lambda: open(extraction.__file__),
        "open itself": lambda: open("/proc/self/environ"),
        "listdir": lambda: os.listdir("/"),
        "stat": lambda: os.stat("/etc/passwd"),
        "write": lambda: open("/tmp/tfdfd-probe", "w"),
        "write the input": lambda: os.write(file.fileno(), b"x"),
        "mkdir": lambda: os.mkdir("/tmp/tfdfd-probe"),
        "unlink": lambda: os.unlink("/tmp/tfdfd-victim"),
        "rename": lambda: os.rename("/tmp/tfdfd-victim", "/tmp/tfdfd-probe"),
        "chmod": lambda: os.chmod("/tmp/tfdfd-victim", 0o777),
        "truncate": lambda: os.truncate("/tmp/tfdfd-victim", 0),
        "memfd": lambda: os.memfd_create("x"),
        "socket": lambda: socket.socket(),
        "unix socket": lambda: socket.socket(socket.AF_UNIX),
        "socketpair": lambda: socket.socketpair(),
        "fork": lambda: os.fork() or os._exit(0),
        "exec": lambda: os.execv("/bin/true", ["true"]),
        "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
        "kill": lambda: os.kill(os.getppid(), 0),
        "ptrace": lambda: raw(PTRACE, 16, os.getppid(), 0, 0),
        "setuid": lambda: os.setuid(12345),
        "more memory": lambda: __import__("resource").setrlimit(2, (1 << 40, 1 << 40)),
        "executable memory": lambda: __import__("mmap").mmap(-1, 4096, prot=7),
        "exec by number": lambda: raw(EXECVE, b"/bin/true", None, None),
        "open by number": lambda: raw(OPENAT, -100, b"/etc/passwd", 0),
        "32-bit calls": lambda: raw(0x40000000 + 257, -100, b"/etc/passwd", 0),
        "a thread": lambda: (thread.start(), thread.join()),
        "read the input": lambda: os.pread(file.fileno(), 16, 0),
    }
    result = {}
    for name, attempt in attempts.items():
        if name in LEFT_OUT:
            continue
        try:
            attempt()
            result[name] = "done"
        except (OSError, ValueError, PermissionError) as error:
            result[name] = type(error).__name__
    return Extraction("", None, "no_face", json.dumps([result, sorted(os.environ)]))
import os
PTRACE, EXECVE, OPENAT = (101, 59, 257) if os.uname().machine == "x86_64" else (117, 221, 56)
import resource, mmap, socket, ctypes
from tfdfd.extract import extraction
extraction.extract_faces = probe
"""
PERMITTED = {"a thread", "read the input"}


@pytest.fixture
def probe(monkeypatch):
    """What the attempts in a decoding process came to, and the names of its variables; `tasks` is called meanwhile."""

    def run(left_out=(), **options):
        start, _ = pool._BOOT.split("from tfdfd.extract.worker")
        code = f"LEFT_OUT = {left_out}\n{PROBE}"
        boot = f"{start}\nexec({code!r})\nfrom tfdfd.extract.worker import main; main(config)"
        monkeypatch.setattr(pool, "_BOOT", boot)
        with FaceExtractor("mtcnn", workers=1, **options) as extractor:
            (outcome,) = extractor.extract([Input(str(SAMPLE), "video")], Request())
            (process,) = extractor._idle
            tasks = [task.read_text() for task in Path(f"/proc/{process._popen.pid}/task").glob("*/status")]
            return (*json.loads(outcome.message), tasks, extractor.sandbox_note)

    return run


@pytest.mark.usefixtures("sealing")
def test_each_way_out_of_a_sealed_process_is_closed(probe):
    attempts, _, tasks, note = probe()
    assert {name for name, result in attempts.items() if result == "done"} == PERMITTED
    assert attempts.pop("write the input") == "OSError"  # it is open for reading
    assert attempts.pop("more memory") == "ValueError"  # Python's word for a limit that may not be raised
    assert set(attempts.values()) == {"done", "PermissionError"}, attempts
    assert len(tasks) > 1 and note is None
    for task in tasks:  # threads that began before, too
        assert "NoNewPrivs:\t1" in task and "Seccomp:\t2" in task


LASTING = ("exec", "exec by number", "spawn", "setuid", "ptrace", "mkdir", "write")


def test_without_the_seal_the_same_attempts_succeed(probe):
    attempts = probe(LASTING, sandbox="off")[0]
    assert {"open", "listdir", "socket", "fork", "memfd"} <= {k for k, result in attempts.items() if result == "done"}


def test_no_variable_of_the_caller_reaches_a_process(probe, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("LANG", "C.UTF-8")
    names = probe(LASTING, sandbox="off")[1]
    assert set(names) <= set(sandbox._INHERITED) | {
        "OPENCV_IO_MAX_IMAGE_PIXELS",
        "OPENCV_LOG_LEVEL",
        "OPENBLAS_NUM_THREADS",
        *("QT_QPA_PLATFORM_PLUGIN_PATH", "QT_QPA_FONTDIR"),  # set by OpenCV
        "LC_CTYPE",  # Python's own, where there is no other
    }
    assert "LANG" in names


@pytest.mark.usefixtures("sealing")
def test_a_sealed_process_gives_the_same_crops(tmp_path, astronaut):
    from PIL import Image

    Image.fromarray(astronaut).save(tmp_path / "a.jpg")
    items = [Input(str(SAMPLE), "video"), Input(str(tmp_path / "a.jpg"), "image")]
    results = {}
    for mode in ("require", "off"):
        with FaceExtractor("mtcnn", workers=1, sandbox=mode) as extractor:
            results[mode] = [dataclasses.asdict(one) for one in extractor.extract(items, Request(frames=8))]
    for sealed, open_ in zip(*results.values(), strict=True):
        assert sealed["status"] == "ok" and len(sealed["frames"]) == len(open_["frames"])
        for frame, other in zip(sealed.pop("frames"), open_.pop("frames"), strict=True):
            for face, same in zip(frame.pop("faces"), other.pop("faces"), strict=True):
                np.testing.assert_array_equal(face.pop("crop"), same.pop("crop"))
                assert face == same
            assert frame == other
        assert sealed.pop("seconds").keys() == open_.pop("seconds").keys()
        assert sealed.pop("elapsed_s") and open_.pop("elapsed_s") and sealed == open_


@pytest.mark.usefixtures("sealing")
@pytest.mark.parametrize("detector", ["haar", "none"])
def test_faces_are_measured_in_a_sealed_process(detector, tmp_path, astronaut, make_video):
    """NumPy imports a part of itself at the first median; MTCNN's networks do so before the process is sealed."""
    clip = make_video(tmp_path / "a.mp4", [astronaut[:256, 96:352]] * 3)
    with FaceExtractor(detector, sandbox="require") as extractor:
        (found,) = extractor.extract([Input(str(clip))], Request(2, measure=True))
    assert found.status == "ok", found.message
    assert {"side", "sharpness", "blockiness"} <= found.frames[0].faces[0].measures.keys()


LACKING = "import tfdfd.extract.sandbox as s; s._CREATE_RULESET = 1 << 20; "


def test_a_kernel_that_cannot_seal_is_named_once_or_refused(monkeypatch, run_tfdfd, toy_weights, tmp_path, astronaut):
    from PIL import Image

    for name in "ab":
        Image.fromarray(astronaut[:256, 96:352]).save(tmp_path / f"{name}.png")
    monkeypatch.setattr(
        pool, "_BOOT", pool._BOOT.replace("from tfdfd.extract.worker", f"{LACKING}from tfdfd.extract.worker")
    )
    arguments = "detect", tmp_path, "--model", toy_weights, "--detector", "none", "--quiet", "--runtime", "tensorflow"
    detector = Detector(toy_weights, "none", runtime="tensorflow")
    with detector, pytest.warns(RuntimeWarning, match="not sealed"):
        detector.detect(tmp_path / "a.png")
    code, _, stderr = run_tfdfd(*arguments)
    assert (code, stderr.count("not sealed against the system: Landlock")) == (0, 1)
    code, stdout, stderr = run_tfdfd(*arguments, "--sandbox", "require")
    assert (code, stdout) == (2, "") and "cannot be sealed: Landlock" in stderr and "--sandbox auto" in stderr
    index_row = IndexRow("a.png", "folder", "image", 0, "original", ("a", "b"), "c23", None, split="val")
    write_table(tmp_path / "index.csv", [index_row], IndexRow)
    words = ("extract", tmp_path / "index.csv", "--root", tmp_path, "-o", tmp_path / "faces", "--detector", "none")
    code, _, stderr = run_tfdfd(*words, "--quiet")
    assert (code, stderr.count("not sealed against the system: Landlock")) == (0, 1)
    with pytest.raises(ValueError, match="auto, require, off; received 'of'"):
        Detector(toy_weights, sandbox="of")


@pytest.mark.usefixtures("sealing")
def test_an_image_may_be_followed_by_a_video_and_by_heic(tmp_path):
    """The first process has not loaded FFmpeg; a sealed one cannot load it."""
    from PIL import Image

    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "video.png").write_bytes(SAMPLE.read_bytes())
    (tmp_path / "heic.png").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    items = [Input(str(tmp_path / name), "image") for name in ("a.png", "video.png", "a.png", "heic.png")]
    with FaceExtractor("none", workers=1, sandbox="require") as extractor:
        outcomes = list(extractor.extract(items, Request(frames=2, size=8)))
    assert [one.status for one in outcomes[:3]] == ["ok", "ok", "ok"] and outcomes[1].kind == "video"
    assert outcomes[3].status in ("unsupported", "decode_error") and "unforeseen" not in outcomes[3].message


@pytest.mark.usefixtures("sealing")
def test_heic_is_read_in_a_sealed_process(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra heif")
    from PIL import Image

    pillow_heif.from_pillow(Image.new("RGB", (64, 64), (200, 40, 90))).save(tmp_path / "a.heic")
    with FaceExtractor("none", workers=1, sandbox="require") as extractor:
        (outcome,) = extractor.extract([Input(str(tmp_path / "a.heic"), "image")], Request(size=8))
    assert outcome.status == "ok" and outcome.frames[0].faces[0].crop.reshape(-1, 3).mean(0) == pytest.approx(
        (200, 40, 90), abs=6
    )


def test_a_failed_input_is_freed_without_a_garbage_collection(tmp_path, make_video):
    import av

    class Marked(np.ndarray):
        """An array that can be counted."""

    path = make_video(tmp_path / "a.mp4", [np.full((64, 96, 3), 9 * i, np.uint8) for i in range(12)])

    class Failing:
        def detect(self, frames, scales):
            return [[] for _ in frames]

    def failing(*_):
        yield from list(read_media(str(path), 12, Limits()))[:10]
        big = np.zeros(1000).view(Marked)
        raise MediaError("too_large", f"{len(big)}")

    assert av
    gc.collect()
    gc.disable()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, "read_media", failing)
        try:
            outcome = extract_faces(str(path), Failing(), Request(), Limits())
            alive = sum(isinstance(thing, Marked) for thing in gc.get_objects())
            alive += sum(type(thing).__name__ == "Frame" for thing in gc.get_objects())
        finally:
            gc.enable()
    assert outcome.status == "too_large" and alive == 0


@pytest.mark.parametrize("error", ["std::bad_alloc", "OpenCV(4.14) Insufficient memory", "can't start new thread"])
def test_failed_allocations_of_libraries_are_out_of_memory(tmp_path, monkeypatch, error):
    import cv2
    from PIL import Image

    def failing(*_):
        raise cv2.error(error)

    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr("tfdfd.media.decode.cv2.imdecode", failing)
    outcome = extract_faces(str(tmp_path / "a.png"), None, Request(), Limits())
    assert outcome.status == "too_large" and "--max-memory" in outcome.message


def test_a_process_that_failed_reads_no_other_input(tmp_path):
    from PIL import Image

    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with FaceExtractor("none", workers=1) as extractor:
        pids = []
        for name in ("a.png", "a.png", "cut.png", "a.png"):
            (outcome,) = extractor.extract([Input(str(tmp_path / name), "image")], Request(size=8))
            assert outcome.status == ("decode_error" if name == "cut.png" else "ok")
            pids += [process._popen.pid for process in extractor._idle if process._popen]
    assert len(pids) == 3 and pids[0] == pids[1] != pids[2]


def box(kind, content):
    return struct.pack(">I4s", 8 + len(content), kind) + content


def test_a_video_of_more_than_2_gib_is_read_like_a_smaller_one(tmp_path, make_video):
    """Fragments whose places are relative, moved behind a gap that is written nowhere."""
    import av

    frames = [np.full((64, 96, 3), 10 + 20 * number, np.uint8) for number in range(12)]
    small, large = tmp_path / "small.mp4", tmp_path / "large.mp4"
    with av.open(str(small), "w", options={"movflags": "frag_keyframe+empty_moov+default_base_moof"}) as file:
        stream = file.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for pixels in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())
    data = small.read_bytes()
    place = data.index(b"moof") - 4
    gap = 2**31 + 12345
    with open(large, "wb") as file:
        file.write(data[:place] + struct.pack(">I4sQ", 1, b"free", gap))
        file.seek(place + gap)
        file.write(data[place:])
    assert large.stat().st_size > 2**31 and large.stat().st_blocks < 10_000
    with FaceExtractor("none", workers=1) as extractor:
        outcomes = list(extractor.extract([Input(str(small), "video"), Input(str(large), "video")], Request(frames=4)))
    crops = [[face.crop for frame in one.frames for face in frame.faces] for one in outcomes]
    assert [one.status for one in outcomes] == ["ok", "ok"] and len(crops[0]) == 4
    np.testing.assert_array_equal(*crops)


@pytest.fixture(scope="module")
def security_cases():
    folder = Path(os.environ.get("TFDFD_TEST_DATA", files.PACKAGE.parent.parent / "shared" / "data")).parent
    if not (folder / "cases" / "security").is_dir():
        pytest.skip(f"no {folder / 'cases' / 'security'}")
    return folder / "cases" / "security"


def first_packets(source, target, count):
    import av

    with av.open(str(source)) as clip, av.open(str(target), "w") as file:
        stream = file.add_stream_from_template(clip.streams.video[0])
        for packet in list(clip.demux(video=0))[:count]:
            packet.stream = stream
            file.mux(packet)
    return target


@pytest.mark.parametrize("frames", [24, pytest.param(200, marks=pytest.mark.slow)])
def test_an_8k_clip_fits_the_default_limits_and_spoils_nothing(tmp_path, security_cases, frames):
    from PIL import Image

    clip = first_packets(security_cases / "ffv1_7k_200.mkv", tmp_path / "8k.mkv", frames)
    Image.new("RGB", (8000, 6000), (90, 80, 70)).save(tmp_path / "large.jpg")
    items = [Input(str(clip), "video"), Input(str(tmp_path / "large.jpg"), "image")]
    with FaceExtractor("none", workers=1) as extractor:
        outcomes = list(extractor.extract(items, Request(frames=24)))
    assert [(one.status, one.message) for one in outcomes] == [("ok", None)] * 2
