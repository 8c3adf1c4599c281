"""`tfdfd benchmark slim` on a few images, and its arithmetic on made-up rounds."""

import json
import os
import sys

import numpy as np
import pytest

from tfdfd.cli.reproduce import slim_lines
from tfdfd.cost import NETWORKS, PAPER_SAVES, Crops, compare, count_cycles, why_no_cycles
from tfdfd.models import list_models

MESO = ["--networks", "meso_inception4", "meso4", "--images", "8", "--batch", "3", "--rounds", "1"]


@pytest.mark.slow  # test_models_cli measures networks by the same code
def test_it_measures_each_network_in_one_run(run_tfdfd, tmp_path):
    target = tmp_path / "slim.json"
    code, stdout, stderr = run_tfdfd("benchmark", "slim", *MESO, "--json", target)
    assert (code, stderr) == (0, "[1/2] meso_inception4, round 1\n[2/2] meso4, round 1\n")
    answer = json.loads(target.read_text())
    assert (answer["images"], answer["batch"], answer["runtime"]) == (8, 3, "tensorflow")
    first, second = answer["rows"]
    assert (first["name"], second["name"]) == ("meso_inception4", "meso4")
    assert first["saves_cpu"] is None
    assert second["saves_cpu"] == pytest.approx(100 * (1 - second["cpu_s"] / first["cpu_s"]))
    for row in answer["rows"]:
        assert 0 < row["cpu_s"] < row["start_cpu_s"], "scoring eight images takes less than starting TensorFlow"
        assert 0 < row["wall_s"] < row["start_wall_s"]
        assert row["peak_memory_bytes"] > 50e6
        assert row["holds"] is None, "the paper says nothing of meso4"
    assert "8 images, 3 per call, tensorflow, best of 1 round" in stdout
    assert (why_no_cycles() is None) == ("cycles: not available" not in stdout)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--networks", "mobilenet_v4"], "did you mean"),
        (["--images", "0"], "images must be at least 1; received 0"),
        (["--batch", "-1"], "batch must be at least 1; received -1"),
        (["--rounds", "0"], "rounds must be at least 1; received 0"),
        (["--runtime", "tensorflw"], "did you mean tensorflow"),
        (["--json", "absent/slim.json"], "absent does not exist"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_told_before_anything_is_measured(run_tfdfd, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tfdfd.cost.run_isolated", lambda *_, **__: pytest.fail("measured"))
    code, stdout, stderr = run_tfdfd("benchmark", "slim", *words)
    assert (code, stdout) == (2, "")
    assert told in stderr


def test_the_papers_networks_are_there():
    assert set(NETWORKS) <= set(list_models())


def round_of(name, cpu, cycles=None, number=1):
    times = {"user_s": cpu - 1, "system_s": 1, "wall_s": cpu / 2, "start_cpu_s": 5, "start_wall_s": 4}
    return {"name": name, "round": number, **times, "cycles": cycles, "peak_memory_bytes": 10**9}


def test_the_best_round_of_each_counts():
    rows = compare([round_of(name, cpu) for cpu in (12, 10, 11) for name in NETWORKS[:1]])
    assert (rows[0]["cpu_s"], rows[0]["rounds"]) == (10, 3)


def test_what_misses_the_paper_is_said():
    measured = [round_of("meso_inception4", 10), round_of("mobilenet_v3_r1", 8), round_of("mobilenet_v3_r2", 8)]
    measured += [round_of("mobilenet_v3_r3", 12), {"name": "mobilenet_v3", "round": 1, "error": "ValueError: no"}]
    rows = {row["name"]: row for row in compare(measured)}
    assert rows["mobilenet_v3_r1"]["saves_cpu"] == pytest.approx(20) and rows["mobilenet_v3_r1"]["holds"]
    assert rows["mobilenet_v3_r2"]["holds"] is False and rows["mobilenet_v3_r3"]["holds"] is False
    lines = slim_lines(list(rows.values()), "perf is not installed")
    assert [line.split()[-1] for line in lines[2:5]] == ["holds", "MISSED", "MISSED"]
    assert lines[5] == "mobilenet_v3     not measured: ValueError: no"
    assert lines[6] == "cycles: not available, perf is not installed; CPU time stands in for them"
    told = "needs 20.00 % less CPU time than meso_inception4; the paper's needs 23.75 % fewer cycles: missed"
    assert lines[7] == f"mobilenet_v3_r2 {told}"
    assert "needs 20.00 % more CPU time" in lines[8]


def test_cycles_decide_where_they_are_counted():
    rows = compare([round_of("meso_inception4", 10, 10**9), round_of("mobilenet_v3", 5, 95 * 10**7)])
    assert rows[1]["saves_cycles"] == pytest.approx(5) and rows[1]["holds"] is False
    lines = slim_lines(rows, None)
    assert lines[-1] == (
        "mobilenet_v3 needs 5.00 % less cycles than meso_inception4; the paper's needs 6.78 % fewer cycles: missed"
    )


def test_without_the_papers_reference_nothing_is_held_against_it():
    rows = compare([round_of("meso4", 10), round_of("mobilenet_v3", 5)])
    assert (rows[1]["saves_cpu"], rows[1]["paper_saves"], rows[1]["holds"]) == (50, None, None)


def test_the_papers_savings():
    assert list(PAPER_SAVES.values()) == [6.78, 19.56, 23.75, 29.44]


def test_the_images_are_the_same_for_every_batch_and_size():
    crops = Crops(20, 64, 48)
    images = crops.batch(0, 20)
    assert images.shape == (20, 64, 48, 3) and images.dtype == np.uint8
    assert images.min() == 0 and images.max() == 255
    np.testing.assert_array_equal(crops.batch(7, 9), images[7:9])
    assert len({image.tobytes() for image in images}) == 20
    np.testing.assert_allclose(Crops(20, 128, 96).batch(0, 20)[:, ::2, ::2].mean(), images.mean(), atol=3)


FAKE_PERF = """#!{python}
import signal, sys
if "-p" in sys.argv:
    # As perf does: a shell's background jobs start with SIGINT ignored.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.sigwait([signal.SIGINT])
print("{answer}", file=sys.stderr)
"""


@pytest.fixture
def perf(tmp_path, monkeypatch):
    """A stand-in for perf, since most machines that tests run on count no cycles: prints `answer` at the end."""

    def install(answer):
        file = tmp_path / "perf"
        file.write_text(FAKE_PERF.format(python=sys.executable, answer=answer))
        file.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return install


def test_cycles_are_read_from_perf(perf):
    perf("123456789,,cycles:u,1000,100.00,,")
    done = []
    assert why_no_cycles() is None
    assert count_cycles(lambda: done.append(1)) == 123_456_789
    assert done == [1]


def test_perf_that_counts_nothing_is_said(perf):
    perf("<not supported>,,cycles,0,100.00,,")
    assert why_no_cycles() == "perf stat counts none on this machine (<not supported>)"
    assert count_cycles(lambda: None) is None


def test_work_that_fails_does_not_leave_perf_behind(perf):
    perf("1,,cycles,0,100.00,,")
    with pytest.raises(ZeroDivisionError):
        count_cycles(lambda: 1 // 0)


def test_no_perf_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert why_no_cycles() == "perf is not installed"
