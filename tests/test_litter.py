"""Leftovers of processes: none if they are asked to end; of killed ones, the next call removes them."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from tests.made_faces import make_faces
from tfdfd import files
from tfdfd.files import locked_folder, temporary_folder, write_atomically

_BEGIN = """
import argparse, os, signal, sys, time
from pathlib import Path
from tfdfd.files import temporary_beside, temporary_folder
target = Path(sys.argv[1])
def work(_):
    with temporary_beside(target) as file, temporary_folder() as folder:
        file.write(b"half")
        (folder / "large").write_bytes(b"x")
        print("ready", flush=True)
        time.sleep(60)
"""
_IN_VERB = """
from tfdfd.cli import main
class Parser:
    def parse_args(self, argv):
        return argparse.Namespace(run=work, verb="detect")
main.build_parser = Parser
raise SystemExit(main.main([]))
"""


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A folder to work in, and the system's temporary folder."""
    work, temporary = tmp_path / "work", tmp_path / "temporary"
    work.mkdir(), temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    return work, temporary


def begin(target, code):
    process = subprocess.Popen([sys.executable, "-c", code, target], stdout=subprocess.PIPE, text=True)
    if process.stdout.readline() != "ready\n":
        end(process, signal.SIGKILL)
        pytest.fail("the process did not begin")
    return process


def end(process, number):
    process.send_signal(number)
    process.stdout.close()
    return process.wait(20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_verb_that_is_asked_to_end_leaves_nothing(folders, number):
    code = end(begin(folders[0] / "a.json", _BEGIN + _IN_VERB), number)
    assert code == {signal.SIGINT: 130}.get(number, 128 + number)
    assert not any(list(folder.iterdir()) for folder in folders)


def test_a_signal_that_is_ignored_stays_so(folders):
    process = begin(
        folders[0] / "a.json", "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)" + _BEGIN + _IN_VERB
    )
    process.send_signal(signal.SIGHUP)  # as under nohup
    assert end(process, signal.SIGTERM) == 128 + signal.SIGTERM


def test_what_a_killed_process_left_is_removed_by_the_next(folders):
    work, temporary = folders
    assert end(begin(work / "a.json", _BEGIN + "work(0)"), signal.SIGKILL) == -signal.SIGKILL
    assert len(list(work.iterdir())) == len(list(temporary.iterdir())) == 1
    write_atomically(work / "a.json", "{}")
    with temporary_folder():
        assert len(list(temporary.iterdir())) == 1
    assert os.listdir(work) == ["a.json"] and (work / "a.json").read_text() == "{}"
    assert not list(temporary.iterdir())


def test_what_a_living_process_uses_is_left_alone(folders):
    work, temporary = folders
    process = begin(work / "a.json", _BEGIN + "work(0)")
    try:
        write_atomically(work / "a.json", "{}")
        with temporary_folder():
            assert len(list(temporary.iterdir())) == 2
        assert len(list(temporary.iterdir())) == 1 and (work / "a.json").read_text() == "{}"
    finally:
        end(process, signal.SIGKILL)


def test_many_write_one_file_at_once(tmp_path):
    texts = [str(number) * 10_000 for number in range(10)]
    threads = [threading.Thread(target=write_atomically, args=(tmp_path / "a", text)) for text in texts * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_text() in texts and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("kind", ["link", "second name", "pipe"])
def test_a_file_planted_under_the_temporary_name_is_not_written(tmp_path, kind):
    """In a folder that others may write to, they know the name."""
    write_atomically(tmp_path / "victim", "as it was")
    with files.temporary_beside(tmp_path / "a") as file:
        name = file.name if isinstance(file.name, str) else os.readlink(f"/proc/self/fd/{file.fileno()}")
        file.write(b"1")
    if kind == "link":
        os.symlink(tmp_path / "victim", name)
    elif kind == "pipe":
        os.mkfifo(name)
    else:
        os.link(tmp_path / "victim", name)
    write_atomically(tmp_path / "a", "2")
    assert (tmp_path / "a").read_text() == "2" and (tmp_path / "victim").read_text() == "as it was"


def test_pack_locks_its_folder_and_clears_it(tmp_path, run_tfdfd):
    make_faces(tmp_path / "faces", videos=4, frames=1)
    lock = locked_folder(tmp_path / "packed", "tfdfd pack")
    left = tmp_path / "packed/.train-00000-of-00009.tfrecord.tmp"
    left.write_bytes(b"half")
    try:
        code, _, err = run_tfdfd("pack", tmp_path / "faces", "-o", tmp_path / "packed")
        assert code == 2 and "another 'tfdfd pack' is at work in" in err and left.exists()
    finally:
        os.close(lock)
    assert run_tfdfd("pack", tmp_path / "faces", "-o", tmp_path / "packed", "--quiet")[0] == 0
    assert not [name for name in os.listdir(tmp_path / "packed") if name.startswith(".")]
