"""`--engine ray` of `extract` and `detect`: the bytes of the local engine, whatever worker, node or run is lost."""

import errno
import gc
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import psutil
import pytest

from tests.face_clips import ARGUMENTS, CLIPS, bytes_of, command, make_clips
from tfdfd.data import FaceOptions
from tfdfd.data.cut_faces import VERSIONS, FaceWork, VideoJob, VideoRecord
from tfdfd.data.face_set import FaceSet
from tfdfd.data.tables import IndexRow, read_table
from tfdfd.detect.detector import Detector
from tfdfd.detect.record import library_versions
from tfdfd.detect.result_folder import DetectWork, ResultFolder
from tfdfd.extract.engines import MAX_LOST, LocalEngine, RayEngine
from tfdfd.media.inputs import list_inputs

needs_ray = pytest.mark.skipif(
    os.name != "posix" or importlib.util.find_spec("ray") is None,
    reason="Ray is not installed (no wheel for this Python or system): pip install 'tfdfd[cluster]'",
)

# Ray's own: it leaves files open that it hands to its processes.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory, make_video, astronaut):
    return make_clips(tmp_path_factory.mktemp("clips"), make_video, astronaut)


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    """The face set of an uninterrupted run of the local engine."""
    folder = tmp_path_factory.mktemp("whole") / "faces"
    with FaceSet(clips / "index.csv", clips, folder, FaceOptions(**ARGUMENTS), None, LocalEngine(2)) as faces:
        assert {record.status for record in faces.extract()} == {"ok"}
        faces.finish()
    return folder


def started(clips, folder, *words):
    return subprocess.Popen(command(clips, folder, *words), stderr=subprocess.PIPE, start_new_session=True)


def await_videos(process, count):
    """Reads on until the run has told of so many more videos; returns what it told."""
    told = b""
    while count:
        line = process.stderr.readline()
        assert line, f"it ended before it was to be disturbed: {told.decode()}"
        told += line
        count -= line.startswith(b"[")
    return told


def workers_of(process):
    """The workers of an embedded Ray, and the decoding processes that they have."""
    below = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in below if child.name().startswith("ray::_Worker")]
    return workers, [child for worker in workers for child in worker.children()]


def words(clips, tmp_path, *more):
    return ["extract", clips / "index.csv", "--root", clips, "-o", tmp_path / "faces", *more]


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_no_cluster_there_is_an_error_with_its_address(clips, tmp_path, run_tfdfd, address):
    code, out, err = run_tfdfd(*words(clips, tmp_path, "--engine", "ray", "--address", address, "--quiet"))
    assert (code, out) == (1, "") and f"Ray is not available at '{address}'" in err and "Traceback" not in err


def test_without_ray_the_extra_is_named(clips, tmp_path, run_tfdfd, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    code, out, err = run_tfdfd(*words(clips, tmp_path, "--engine", "ray"))
    assert (code, out) == (2, "") and "pip install 'tfdfd[cluster]'" in err
    assert not (tmp_path / "faces").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--address", "auto"], "add --engine ray"),
        (["--engine", "ray", "--workers", "0"], "at least 1; received 0"),
        (["--engine", "spark"], "invalid choice: 'spark'"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(clips, tmp_path, run_tfdfd, more, told):
    code, out, err = run_tfdfd(*words(clips, tmp_path, *more))
    assert (code, out) == (2, "") and told in err


@needs_ray
@pytest.mark.slow  # detect's test kills a worker of the same engine
def test_killed_workers_lose_nothing(clips, whole, tmp_path):
    rng = random.Random(4)
    killed = []
    with started(clips, tmp_path / "faces", "--engine", "ray") as process:
        told = await_videos(process, 2)
        for turn in range(4):
            workers, decoders = workers_of(process)
            victim = rng.choice(sorted(decoders if turn == 1 else workers, key=lambda each: each.pid))
            victim.send_signal(signal.SIGKILL)
            killed.append(victim)
            told += await_videos(process, 3)
            time.sleep(rng.uniform(0, 0.1))
        told += process.stderr.read()
        assert process.wait(60) == 0
    assert len(set(killed)) == 4
    # Nothing but progress is told.
    lines = told.decode().splitlines()
    assert [line.partition("]")[0] for line in lines] == [f"[{n}/{CLIPS}" for n in range(1, CLIPS + 1)]
    assert [line.split()[1] for line in lines] == sorted(line.split()[1] for line in lines)
    assert bytes_of(tmp_path / "faces") == bytes_of(whole)


@needs_ray
@pytest.mark.slow  # detect's test kills a worker of the same engine
@pytest.mark.parametrize("engines", [("ray", "local"), ("local", "ray")])
def test_a_killed_run_goes_on_with_the_other_engine(clips, whole, tmp_path, engines):
    with started(clips, tmp_path / "faces", "--engine", engines[0]) as process:
        await_videos(process, 4)
        workers, _ = workers_of(process)
        process.kill()
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "faces" / "records").rglob("*.json")}
    assert 4 <= len(done) < CLIPS
    # At once: the workers of the killed run may be at their last video still.
    words = command(clips, tmp_path / "faces", "--engine", engines[1], "--workers", "1")
    resumed = subprocess.run(words, capture_output=True, timeout=120)
    assert resumed.returncode == 0, resumed.stderr
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in done.items())
    assert bytes_of(tmp_path / "faces") == bytes_of(whole)
    assert not psutil.wait_procs(workers, timeout=60)[1]
    assert bytes_of(tmp_path / "faces") == bytes_of(whole)


def add_node(cluster, processors):
    """Ray gives a node 30 seconds to start, which it now and then misses on a busy machine."""
    for last in (False, False, True):
        try:
            return cluster.add_node(num_cpus=processors)
        except Exception as error:
            if last or "timed out during startup" not in str(error):
                raise


@pytest.fixture(scope="module")
def cluster():
    """A cluster of a node without processors and those that a test adds."""
    from ray.cluster_utils import Cluster

    # A lost node is given up after two missed answers; Ray's own settings take half a minute.
    settings = {"health_check_period_ms": 1000, "health_check_timeout_ms": 4000, "health_check_failure_threshold": 2}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": settings}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster
    cluster.shutdown()
    gc.collect()  # what Ray left open is told of here, not in another test


@needs_ray
@pytest.mark.slow  # it starts a cluster of two nodes
def test_a_lost_node_of_a_cluster_loses_nothing(clips, whole, tmp_path, cluster):
    nodes = [add_node(cluster, 1) for _ in range(2)]
    with started(clips, tmp_path / "faces", "--engine", "ray", "--address", cluster.address) as process:
        await_videos(process, 3)
        cluster.remove_node(nodes.pop(), allow_graceful=False)
        process.stderr.read()
        assert process.wait(60) == 0
    assert bytes_of(tmp_path / "faces") == bytes_of(whole)


@dataclass(frozen=True)
class Troubled(FaceWork):
    """The work, but a video whose worker is ended without a word, or for which the disk is full."""

    ends: str | None = None
    full: str | None = None

    def do(self, job, extractor):
        if job.row.path == self.ends:
            os.kill(os.getpid(), signal.SIGKILL)
        if job.row.path == self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), job.name)
        return VideoRecord(job.row.path, "ok")


@pytest.fixture
def work(clips, tmp_path):
    (tmp_path / ".partial").mkdir()
    return Troubled(FaceOptions(**ARGUMENTS), clips, tmp_path, None, VERSIONS)


@pytest.fixture
def jobs(clips):
    return [VideoJob(row, row.path) for row in read_table(clips / "index.csv", IndexRow)]


@pytest.fixture(scope="module")
def connected(cluster):
    """This process as a part of the cluster: what an engine without an address then uses, and leaves as it is."""
    import ray

    add_node(cluster, 2)
    ray.init(cluster.address, log_to_driver=False)
    yield ray
    ray.shutdown()


@needs_ray
def test_a_video_that_ends_its_workers_is_one_row(connected, work, jobs):
    records = list(RayEngine(2).run(replace(work, ends=jobs[5].row.path), [jobs[:7], jobs[7:]]))
    assert [record.video for record in records] == [job.row.path for job in jobs]
    assert [record.status for record in records] == ["ok"] * 5 + ["decode_error"] + ["ok"] * (CLIPS - 6)
    assert records[5].message == f"{MAX_LOST} workers were lost while processing this file"
    assert work.record(jobs[5].name) == records[5]
    assert connected.is_initialized()


@needs_ray
def test_an_error_of_a_worker_is_that_of_the_run(connected, work, jobs):
    given = []
    with pytest.raises(OSError, match="No space left on device") as caught:
        given.extend(RayEngine(2).run(replace(work, full=jobs[4].row.path), [jobs]))
    assert caught.value.errno == errno.ENOSPC and len(given) <= 4


@needs_ray
@pytest.mark.parametrize(
    ("otherwise", "told"),
    [
        ({"versions": VERSIONS | {"opencv": "3.1"}}, "Install the same versions"),
        ({"root": "elsewhere"}, "has no folder .*elsewhere"),
    ],
)
def test_a_node_that_would_do_something_else_is_refused(connected, work, jobs, tmp_path, otherwise, told):
    if "root" in otherwise:
        otherwise = {"root": tmp_path / "elsewhere"}
    with pytest.raises(RuntimeError, match=told):
        list(RayEngine(1).run(replace(work, **otherwise), [jobs]))


def results_of(folder):
    """The results and pictures of a folder; of the record, all but the date and the digest."""
    files = {path.name: path.read_bytes() for path in [folder / "results.jsonl", *(folder / "pictures").iterdir()]}
    record = json.loads((folder / "record.json").read_text("utf-8"))
    del record["date"], record["sha256"]
    return files | {"record": record}


@needs_ray
def test_detect_goes_on_with_ray_and_loses_nothing_with_a_worker(clips, toy_weights, run_tfdfd, tmp_path):
    words = ["detect", clips / "real", tmp_path / "absent.mp4", "--model", toy_weights, "--detector", "haar"]
    words += ["--frames", "2", "--workers", "1", "-o"]
    assert run_tfdfd(*words, tmp_path / "whole")[0] == 3
    lines = (tmp_path / "whole" / "results.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "results").mkdir()
    shutil.copy(tmp_path / "whole" / "run.json", tmp_path / "results")
    (tmp_path / "results" / "results.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:40])
    shutil.copytree(tmp_path / "whole" / "pictures", tmp_path / "results" / "pictures")
    for path in sorted((tmp_path / "results" / "pictures").iterdir())[2:]:
        path.unlink()
    command = [sys.executable, "-m", "tfdfd", *words, tmp_path / "results", "--engine", "ray"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as process:
        told = await_videos(process, 1)
        (worker,), _ = workers_of(process)
        worker.kill()
        rest = process.stderr.read()
        assert process.wait(60) == 3, rest
    assert b"2 of 13 were done before" in told and rest.count(b"\n[") >= 8
    assert results_of(tmp_path / "results") == results_of(tmp_path / "whole")


def test_detect_on_a_node_that_would_score_otherwise_is_refused(toy_weights):
    with Detector(toy_weights, "haar", runtime="tensorflow") as detector:
        work = DetectWork(detector.arguments(), detector.settings(), library_versions(), None)
    work.check()
    for other in (
        replace(work, libraries=work.libraries | {"av": "3.1"}),
        replace(work, settings=work.settings | {"tfdfd": "0.0.1"}),
    ):
        with pytest.raises(RuntimeError, match="(av|tfdfd) was .* Install the same versions"):
            other.check()


class Blind:
    """An engine on a machine that sees no file."""

    sandbox_note = None

    def run(self, work, phases):
        with work.open(1) as detector:
            for job in phases[0]:
                yield work.do(replace(job, path=f"/elsewhere{job.path}"), detector)


def test_detect_on_a_node_that_sees_no_input_is_an_error(clips, toy_weights, tmp_path):
    inputs = list_inputs([tmp_path / "absent.mp4", clips])
    with (
        Detector(toy_weights, "haar", runtime="tensorflow") as detector,
        ResultFolder(tmp_path / "results", detector, inputs) as folder,
    ):
        with pytest.raises(RuntimeError, match="has no file .*on a file system that all machines see"):
            list(folder.detect(engine=Blind()))
        assert folder.done == 1  # the one that no machine has


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--engine", "ray"], "give -o DIR, too"),
        (["-o", "results", "--address", "auto"], "add --engine ray"),
        (["-o", "results", "--engine", "ray", "--server", "localhost:1"], "omit it, or --engine"),
    ],
)
def test_detect_with_options_of_an_engine_alone_is_wrong_usage(run_tfdfd, tmp_path, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: True)
    code, out, err = run_tfdfd("detect", "a.png", *more)
    assert (code, out) == (2, "") and message in err and not list(tmp_path.iterdir())


def test_detect_without_ray_names_the_extra(run_tfdfd, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    code, out, err = run_tfdfd("detect", "a.png", "-o", tmp_path / "results", "--engine", "ray")
    assert (code, out) == (2, "") and "pip install 'tfdfd[cluster]'" in err and not list(tmp_path.iterdir())
