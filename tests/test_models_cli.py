"""`tfdfd models show` and `table`: what they say of a network, and what they do when one cannot be measured."""

import json

import pytest

from tfdfd.cost import MeasurementError, network_costs, peak_memory, run_isolated
from tfdfd.models import list_models, spec


def test_a_network_is_shown_by_name(run_tfdfd):
    code, stdout, stderr = run_tfdfd("models", "show", "meso_inception4")
    shown, known = json.loads(stdout), spec("meso_inception4")
    assert (code, stderr) == (0, "")
    assert (shown["name"], shown["input"], shown["learned"]) == ("meso_inception4", [256, 256, 3], known.learned)
    assert (shown["parameters"], shown["trainable"], shown["macs"]) == (known.params, known.trainable, known.macs)
    assert {row["handle"]: row["licence"] for row in shown["weights"]}["tfdfd/meso_inception4.df"] == "Apache-2.0"


def test_weights_are_still_shown_by_handle(run_tfdfd):
    code, stdout, _ = run_tfdfd("models", "show", "tfdfd/meso4.df")
    assert code == 0 and json.loads(stdout)["sha256"]


def test_layers_by_name_handle_and_file_are_the_same(run_tfdfd, toy_weights):
    code, stdout, stderr = run_tfdfd("models", "show", "meso4", "--layers")
    assert (code, stderr) == (0, "")
    lines = stdout.splitlines()
    assert lines[0].split()[0] == "layer"
    assert " ".join(lines[1].split()) == "block1_conv Conv2D 3x3 1x1 1 1x1 1 8 256x256 240 14,155,776"
    assert lines[-1].split()[-2:] == ["27,977", "60,047,376"]
    assert run_tfdfd("models", "show", toy_weights, "--layers")[1] == stdout


def test_layers_as_json(run_tfdfd):
    code, stdout, _ = run_tfdfd("models", "show", "tfdfd/meso4.df", "--layers", "--json")
    rows = json.loads(stdout)
    assert code == 0
    assert sum(row["macs"] for row in rows) == spec("meso4").macs
    assert (rows[0]["kernel"], rows[0]["stride"], rows[0]["grid"]) == ([3, 3], [1, 1], [256, 256])


WRONG = [
    (["show", "meso5"], "no network is known as 'meso5'; did you mean meso4"),
    (["show", "meso4", "--json"], "--json is for --layers"),
    (["table", "mesoo4"], "did you mean meso4"),
    (["table", "meso4", "--batch", "0"], "batches must be at least 1; received 0"),
    (["table", "meso4", "--seconds", "-1"], "seconds must be a positive number; received -1"),
    (["table", "meso4", "--seconds", "nan"], "seconds must be a positive number; received nan"),
    (["table", "meso4", "--json", "absent/table.json"], "absent does not exist"),
]


@pytest.mark.parametrize(("words", "told"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_wrong_usage_is_told_before_anything_is_measured(run_tfdfd, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tfdfd.cost.run_isolated", lambda *_, **__: pytest.fail("measured"))
    code, stdout, stderr = run_tfdfd("models", *words)
    assert (code, stdout) == (2, "")
    assert told in stderr


def test_the_table_measures(run_tfdfd, tmp_path):
    target = tmp_path / "table.json"
    words = ["meso4", "--batch", "1", "3", "--seconds", "0.1", "--json", target]
    code, stdout, stderr = run_tfdfd("models", "table", *words)
    assert (code, stderr) == (0, "[1/1] meso4\n")
    hardware, heading, line = stdout.splitlines()
    assert "TensorFlow" in hardware and "ms, batch 3" in heading and len(line) == len(heading)
    assert line.split()[:7] == ["meso4", "256", "x", "256", "27,977", "27,977", "28,073"]
    answer = json.loads(target.read_text())
    row = answer["rows"][0]
    assert answer["hardware"]["keras"] in hardware
    assert (row["macs"], row["thesis_macs"]) == (60_047_376, 61_521_936)
    # 28,073 float32 and a header that names them.
    assert 4 * 28_073 < row["file_bytes"] < 4 * 28_073 + 4096
    one, three = row["latency"]
    assert (one["batch"], three["batch"]) == (1, 3)
    assert min(one["seconds"], three["seconds"]) > 0 and min(one["rounds"], three["rounds"]) >= 3
    assert 50e6 < row["peak_memory_bytes"] < 5e9


@pytest.fixture
def one_fails(monkeypatch):
    def measured(_, name, **arguments):
        if name == "meso4":
            raise MeasurementError("the process was killed (SIGKILL); out of memory?")
        counts = dict.fromkeys(("learned", "trainable", "parameters", "macs", "thesis_macs", "file_bytes"), 1_000_000)
        return {"input": [256, 256, 3], **counts, "latency": [], "peak_memory_bytes": None}

    monkeypatch.setattr("tfdfd.cost.run_isolated", measured)


def test_a_network_that_cannot_be_measured_is_a_row_that_says_so(run_tfdfd, one_fails):
    code, stdout, _ = run_tfdfd("models", "table", "meso4", "meso_inception4", "--no-latency")
    assert code == 3
    assert stdout.splitlines()[-2] == "meso4            not measured: the process was killed (SIGKILL); out of memory?"
    assert stdout.splitlines()[-1].startswith("meso_inception4  256 x 256    1,000,000")
    code, stdout, stderr = run_tfdfd("models", "table", "meso4", "--no-latency", "--json", "-", "--quiet")
    assert (code, stderr) == (1, "")
    assert json.loads(stdout)["rows"] == [
        {"name": "meso4", "error": "the process was killed (SIGKILL); out of memory?"}
    ]


def test_the_table_is_of_all_networks_unless_some_are_named(run_tfdfd, one_fails):
    _, stdout, _ = run_tfdfd("models", "table", "--no-latency", "--json", "-", "--quiet")
    assert [row["name"] for row in json.loads(stdout)["rows"]] == list_models()


def test_rows_come_as_they_are_done(one_fails):
    costs = network_costs(["meso_inception4", "meso4"], [])
    assert next(costs)["name"] == "meso_inception4"


def test_a_process_of_its_own_answers_with_the_result_alone():
    assert run_isolated("json:loads", s="[1, 2]") == [1, 2]
    assert run_isolated("builtins:print", end="chatter") is None


@pytest.mark.parametrize(
    ("target", "arguments", "told"),
    [
        ("json:loads", {"s": "{"}, "JSONDecodeError: Expecting property name"),
        ("os:_exit", {"status": 7}, "the process ended with code 7"),
        ("os:abort", {}, r"killed \(SIGABRT\)"),
        ("tfdfd.cost:layers_of", {"name": "meso5"}, "ValueError: no network is known as 'meso5'"),
    ],
)
def test_a_process_that_fails_says_why(target, arguments, told):
    with pytest.raises(MeasurementError, match=told):
        run_isolated(target, **arguments)


def test_peak_memory_is_of_the_process_itself():
    """Not what the parent held when it started it, which here includes TensorFlow."""
    import keras  # noqa: F401

    assert run_isolated("tfdfd.cost:peak_memory") < peak_memory() / 3
