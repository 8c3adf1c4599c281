"""Killed commands, full disks and read-only folders: nothing is lost, doubled or corrupt.

`make bench` kills more often. All but a few verbs are slow; their commands are in `benchmarks/kills.py`.
"""

import os
import shutil

import pytest

from benchmarks import kills
from tfdfd.cli.main import VERBS

# Those that begin without TensorFlow.
SOON = ("merge", "check-leaks", "srm", "pull")
# What is not in the table, and why.
ELSEWHERE = {
    "recipes": "prints",
    "completion": "prints",
    "verify": "prints",
    "app": "keeps nothing",
    "serve": "writes no results",
    "web": "as export",
    "benchmark": "prints",
    "reproduce": "consists of index, extract, split, train and evaluate",
    "data": "as landmarks, blend and preview",
    "models": "as pull",
}


@pytest.fixture(scope="module")
def inputs(request, tmp_path_factory):
    """What the commands of the selected tests read."""
    folder = tmp_path_factory.mktemp("kills") / "inputs"
    selected = {item.callspec.params.get("name") for item in request.session.items if hasattr(item, "callspec")}
    kills.make_inputs(folder, tuple(name for name in kills.VERBS if name in selected))
    return folder


@pytest.mark.skipif(not kills.can_mount(), reason="no file system may be mounted here")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SOON else pytest.mark.slow) for name in kills.VERBS]
)
def test_a_full_disk_and_a_read_only_folder_are_errors_that_name_the_place(name, inputs, tmp_path):
    *_, faults = kills.disk(name, inputs, tmp_path / "work")
    assert not faults


@pytest.mark.skipif(os.name != "posix", reason="process groups")
@pytest.mark.parametrize("name", ["srm", *(pytest.param(name, marks=pytest.mark.slow) for name in kills.KILLED)])
def test_a_killed_command_that_is_repeated_gives_the_same_bytes(name, inputs, tmp_path):
    (tmp_path / "work").mkdir()
    _, faults = kills.kill(name, 3, inputs, tmp_path / "work")
    assert not faults


def test_litter_losses_and_other_bytes_are_faults(tmp_path):
    whole = kills.World(tmp_path, tmp_path / "whole")
    whole.out.mkdir()
    (whole.out / "a.json").write_text('{"score": 1, "elapsed_s": 2.0}')
    (whole.out / "b.bin").write_bytes(b"whole")
    (whole.out / "c.html").write_text("Seconds: 1.0, made in 2 s at 2026-11-27T17:44:54Z")
    shutil.copytree(whole.out, tmp_path / "now")
    now = kills.World(tmp_path, tmp_path / "now")
    (now.out / "a.json").write_text('{"score": 1, "elapsed_s": 3.5}')
    (now.out / "c.html").write_text("Seconds: 1.5, made in 31 s at 2026-11-28T01:02:03.5Z")
    assert kills.differences(kills.contents(whole), kills.contents(now)) == []
    (now.out / "a.json").write_text('{"score": 2, "elapsed_s": 2.0}')
    (now.out / "b.bin").unlink()
    (now.out / ".tfdfd-0.tmp").write_bytes(b"half")
    assert kills.differences(kills.contents(whole), kills.contents(now)) == [
        "lacks b.bin",
        "has .tfdfd-0.tmp besides",
        "a.json differs",
    ]


def test_every_verb_that_writes_is_in_the_table():
    assert set(VERBS) - set(kills.VERBS) == set(ELSEWHERE)
