"""Standard streams: readers that close them, log lines of libraries, and messages about missing extras."""

import argparse
import configparser
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.made_faces import make_faces
from tfdfd.cli.extras import NEEDS
from tfdfd.log_lines import without_log_lines
from tfdfd.publishing.formats import FORMATS

TFDFD = [sys.executable, "-m", "tfdfd"]
posix = pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")


def environment(**more):
    """Without what other tests' libraries have set."""
    return {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"} | more


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    make_faces(folder, videos=12, frames=1)
    return folder


def without_reader(number, *words):
    """A command whose stream `number` nobody reads, without Python's own buffering."""
    reader, writer = os.pipe()
    os.close(reader)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {{1: "stdout", 2: "stderr"}[number]: writer}
    try:
        command = [*TFDFD, *map(str, words)]
        return subprocess.run(command, timeout=100, env=environment(PYTHONUNBUFFERED="1"), **streams)
    finally:
        os.close(writer)


@posix
@pytest.mark.parametrize("number", [1, 2])
def test_a_reader_that_has_gone_does_not_stop_what_is_written(faces, tmp_path, number):
    for words in (
        ("split", faces / "faces.csv", "-o", tmp_path / "split.csv"),
        ("merge", faces / "faces.csv", "-o", tmp_path / "merged.csv"),
        ("srm", faces, "-o", tmp_path / "srm"),
        ("index", "folder", faces, "--all", "real", "-o", tmp_path / "index.csv"),
    ):
        done = without_reader(number, *words)
        assert done.returncode == 0, done
        assert b"Traceback" not in (done.stderr or b"") and b"BrokenPipe" not in (done.stderr or b"")
        assert (tmp_path / words[-1]).exists()
    assert (tmp_path / "srm" / "faces.csv").exists()


NOISE = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795751375.082356   31671 port.cc:153] oneDNN custom operations are on.
E0000 00:00:1795751390.366631   31671 cuda_platform.cc:52] failed call to cuInit
W1127 03:30:33.718787   32550 log.cc:102] Log level INFO is not suitable
2024-05-01 10:11:12.131415: W external/local_tsl/tsl/framework/bfc_allocator.cc:368] Allocation
To enable the following instructions: AVX2, in other operations, rebuild TensorFlow with the appropriate flags.
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
fully_quantize: 0, inference_type: 6, input_inference_type: FLOAT32
"""
WORDS = """\
F0000 00:00:1795751390.366631   31671 cpu_feature_guard.cc:52] The TensorFlow library was compiled to use AVX
Fatal Python error: Aborted
epoch 1: loss 0.5
E is a letter
"""


def test_log_lines_are_told_from_all_else(monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    assert without_log_lines(NOISE + WORDS + NOISE) == WORDS


# A command that loads a "TensorFlow" which logs as the real one does, also in a child, warns in Python, and may abort.
LOUD = """
import os, sys, types
sys.path.insert(0, {folder!r})
from tfdfd.cli import main
def run(arguments):
    import tensorflow
    import logging, warnings, subprocess
    logging.getLogger("tensorflow").warning("retracing")
    warnings.warn("of a library")
    subprocess.run([sys.executable, "-c", {child!r}])
    sys.stderr.write("our own words\\n")
    if {abort}: os.abort()
    raise ValueError("the reason")
def add_arguments(parser):
    parser.set_defaults(run=run)
main.VERBS = {{"loud": main.Verb("__main__:add_arguments", "logs")}}
raise SystemExit(main.main(["loud"]))
"""


@posix
@pytest.mark.parametrize("abort", [False, True])
@pytest.mark.parametrize("level", [None, "0"])
def test_only_our_own_words_and_the_last_ones_of_a_crash_come_through(tmp_path, abort, level):
    (tmp_path / "tensorflow.py").write_text(f"import os\nos.write(2, {(NOISE + WORDS).encode()!r})\n")
    program = LOUD.format(folder=str(tmp_path), child=f"import os; os.write(2, {NOISE.encode()!r})", abort=abort)
    more = {"TF_CPP_MIN_LOG_LEVEL": level} if level else {}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment(**more))
    assert done.returncode == (-6 if abort else 2), done
    lines = done.stderr.splitlines()
    for line in [*WORDS.splitlines(), "our own words", *([] if abort else ["tfdfd: the reason"])]:
        assert lines.count(line) == 1
    noise = [line for line in NOISE.splitlines() if line in lines]
    assert noise == (NOISE.splitlines() if level else [])
    assert ("retracing" in done.stderr) == bool(level) and "of a library" not in done.stderr


# Runs the command line where some modules cannot be imported, and tells what was imported nevertheless.
BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
from tfdfd.cli.main import main
code = main(sys.argv[1:])
print([name for name in ("tensorflow", "keras", "cv2", "numpy") if name in sys.modules])
raise SystemExit(code)
"""
COMMANDS = {
    "app": ("app", "--runtime", "openvino"),
    "detect": ("detect", "a.png", "--runtime", "openvino"),
    "detect cluster": ("detect", "a.png", "-o", "x", "--engine", "ray"),
    "extract": ("extract", "i.csv", "--root", ".", "-o", "x", "--engine", "ray"),
    "data": ("data", "swap", "x", "-o", "y"),
    "train": ("train", "s1-meso-inception4-svm", "--data", "x", "-o", "y", "--backend", "jax"),
    "finetune": ("finetune", "real", "fake", "-o", "y"),
    "reproduce": ("reproduce", "s1", "x", "-o", "y"),
    "tune": ("tune", "meso4", "--data", "x", "-o", "y", "--tuner", "bayesian", "--backend", "jax"),
    "prune": ("prune", "x", "--data", "x", "-o", "y", "--int8"),
    "evaluate": ("evaluate", "x", "--data", "x", "-o", "y"),
    "web": ("web", "-o", "x"),
    "publish": ("publish", "x", "--to", "y", "--version", "1"),
    "publish sign": ("publish", "x", "--to", "y", "--version", "1", "--sign", "key.pem"),
    "models sign": ("models", "sign", "x", "--key", "key.pem"),
    "serve": ("serve", "--models", "x"),
    "completion": ("completion", "bash"),
    "models": ("models", "table", "--runtime", "openvino"),
    "benchmark": ("benchmark", "slim", "--runtime", "openvino"),
}


def test_the_extra_all_has_every_extra_that_a_command_can_need():
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parent.parent / "setup.cfg")
    extras = setup["options.extras_require"]
    for_developers = {"all", "test", "bench", "docs", "release", "tools", "mtcnn"}
    listed = set(re.search(r"tfdfd\[(.*)\]", extras["all"])[1].split(","))
    assert listed == set(extras) - for_developers
    assert {need.extra for need in NEEDS} - {None} <= listed


def format_that(need):
    """The export format that has this need."""
    return next(format for format in FORMATS if need.when(argparse.Namespace(verb="export", format=format)))


@pytest.mark.parametrize("need", NEEDS, ids=lambda need: f"{need.verb} {need.modules[0]}")
def test_a_missing_extra_is_told_at_once(need, tmp_path):
    words = COMMANDS.get(f"{need.verb} {need.extra}") or COMMANDS.get(need.verb)
    words = words or ("export", "x", "-o", "y", "--format", format_that(need))
    program = BLOCKED.format(blocked=set(need.modules))
    best = 9.0
    for _ in range(5):  # the best counts: the machine may have other work
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", program, *words], capture_output=True, text=True, cwd=tmp_path, env=environment()
        )
        best = min(best, time.perf_counter() - begun)
        if best < 1:
            break
    assert done.returncode == 2, done
    assert done.stdout == "[]\n" and len(done.stderr.splitlines()) == 1
    assert all(name in done.stderr for name in need.modules)
    wanted = f"'tfdfd[{need.extra}]'" if need.extra else need.modules[0]
    assert f"pip install {wanted}" in done.stderr
    assert best < 1
