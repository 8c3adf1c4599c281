"""The source documents reproduced: their contradictions, the verdicts, and the whole path on tiny data."""

import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.made_faces import make_faces
from tests.test_training import Silent
from tfdfd.cli.main import main
from tfdfd.data.crops import faces_of
from tfdfd.data.tables import FaceRow, write_table
from tfdfd.recipes import list_recipes
from tfdfd.reproduce import DOCUMENTS, LOSS, MILLION, SHARE, Entry
from tfdfd.reproduce.contradictions import contradictions, resnext_macs, s2_test_sizes
from tfdfd.reproduce.data import TEST, layout_of, people_in_both, prepare, sources_of
from tfdfd.reproduce.results import CANNOT, DRAWN, NOT_REPRODUCED, REPRODUCED, Measured, Measures, Outcome, judge
from tfdfd.reproduce.runner import Request, plan, reproduce


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    make_faces(folder, videos=36, frames=2)
    return folder


def found(document, place, rows=()):
    return [one for one in contradictions(document, rows) if place in one.place]


def verdict_on(entry, measured, document="s1", **more):
    how = {"datasets": ("celebdf", "dfdc", "ffpp"), "own_test": True, "quick": False} | more
    return judge(entry, DOCUMENTS[document], measured, **how)


# Documents


def test_every_experiment_has_a_recipe_and_every_entry_an_experiment():
    for document in DOCUMENTS.values():
        names = [experiment.name for experiment in document.experiments]
        assert len(set(names)) == len(names)
        assert {experiment.recipe for experiment in document.experiments} <= set(list_recipes())
        assert {entry.experiment for entry in document.entries if entry.experiment} <= set(names)
        assert all(entry.measure or entry.cannot or entry.printed is None for entry in document.entries)


def test_the_tables_have_all_their_cells():
    count = {name: len([e for e in d.entries if e.printed is not None]) for name, d in DOCUMENTS.items()}
    # S2: 10 costs, tables 5.3 and 5.4 of 7 x 10, 7.2 to 7.5 of 7 x 3, 7.6 of 7 x 5, twice each; table 7.7.
    assert count["s2"] == 10 + 2 * 70 + 2 * 21 + 2 * 35 + 5
    assert count["s3"] == 18
    (training,) = [e for e in DOCUMENTS["s4"].entries if e.measure == "train_accuracy"]
    assert (training.experiment, training.printed) == ("s4-mobilenet-v2", 0.9)
    overall = [
        e.printed for e in DOCUMENTS["s2"].entries if e.place == "table 7.6" and e.measure == "test.accuracy.Overall"
    ]
    assert overall == pytest.approx([0.9304, 0.9168, 0.9322, 0.9539, 0.9593])


# Contradictions


def test_s0_clock_is_computed():
    (clock,) = found("s0", "table 3")
    assert clock.is_one
    assert "329 billion cycles" in clock.follows
    assert [one.is_one for one in found("s0", "abstract")] == [True, True]


def test_s1_accuracies_contradict_each_other():
    abstract, both = found("s1", "abstract")
    assert abstract.is_one
    assert both.is_one
    (conclusion,) = [one for one in contradictions("s1") if one.place == "section 5"]
    assert not conclusion.is_one
    assert "66.33 %" in conclusion.follows.replace("66.33%", "66.33 %")
    four, five = found("s1", "section 4.3 and")
    assert "89.8%" in four.follows
    assert "78.2%" in five.follows


def test_s2_macs_of_resnext_are_those_of_299_pixels():
    counted = resnext_macs()
    assert round(counted[299], 2) == 30.51
    assert round(counted[224], 2) == 16.47
    assert found("s2", "table 7.1")[0].is_one


def test_s2_balanced_accuracies_do_not_follow_from_its_table():
    fakes, reals = s2_test_sizes()
    assert fakes[1:] == (140,) * 4
    assert reals == 180
    (one,) = found("s2", "7.7")
    assert "reseption_v1 91.59 %" in one.follows
    assert "resnext" not in one.follows


def test_s3_and_s4():
    assert all(one.is_one for one in contradictions("s3"))
    (majority,) = [one for one in contradictions("s4") if "all fake" in one.follows]
    assert majority.is_one
    assert "86.4%" in majority.follows


def test_people_in_both_parts_of_a_random_split(faces):
    rows = faces_of(faces).rows
    crossing, sources = people_in_both(rows, {"train": 0.5, "val": 0.5})
    assert sources == 36
    assert 9 <= crossing <= 27  # two crops a source: half of them meet again
    assert found("s1", "people", rows)[0].is_one


# Verdicts


def test_a_number_within_the_interval_is_reproduced():
    entry = Entry("table 6", "accuracy", 0.6757, measure="frame.accuracy", experiment="s1-meso4")
    verdict = verdict_on(entry, Measured(0.66, (0.64, 0.68), "here"))
    assert verdict.status == REPRODUCED
    assert verdict.difference == pytest.approx(-0.0157)


def test_a_number_outside_says_by_how_much():
    entry = Entry("table 6", "accuracy", 0.96, measure="frame.accuracy", experiment="s1-meso4")
    verdict = verdict_on(entry, Measured(0.66, (0.64, 0.68), "here"))
    assert verdict.status == NOT_REPRODUCED
    assert verdict.reason == "ours is 30.00 points below, interval [64.00 %, 68.00 %]"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"quick": True}, "--quick"),
        ({"datasets": ("ffpp",)}, "no celebdf, dfdc"),
        ({"shortfall": "900 crops"}, "900 crops"),
    ],
)
def test_what_cannot_be_says_why(more, told):
    entry = Entry("table 6", "accuracy", 0.66, measure="frame.accuracy", experiment="s1-meso4")
    verdict = verdict_on(entry, Measured(0.66, (0.64, 0.68), "here"), **more)
    assert verdict.status == CANNOT
    assert told in verdict.reason


def test_contradictions_absent_trainings_and_figures_have_their_words():
    entry = Entry("a", "b", 0.9, measure="frame.auc", experiment="x")
    assert verdict_on(entry, None, problem="not run: because").reason == "not run: because"
    assert verdict_on(replace(entry, cannot="contradiction: c"), None).reason == "contradiction: c"
    assert verdict_on(replace(entry, printed=None), None).status == DRAWN
    own = verdict_on(entry, Measured(0.9, (0.8, 1.0), ""), "s4", own_test=False)
    assert own.status == CANNOT
    assert "test split" in own.reason


@pytest.mark.parametrize(("ours", "word"), [(16.888, REPRODUCED), (16.8949, REPRODUCED), (16.91, NOT_REPRODUCED)])
def test_counts_are_compared_to_the_printed_digit(ours, word):
    entry = Entry("table 7.1", "parameters", 16.89, MILLION, measure="learned.reseption_v1")
    assert verdict_on(entry, Measured(ours, None, ""), "s2").status == word


def test_measures_are_those_of_the_scores(tmp_path):
    from tfdfd.metrics.scores import ScoreRow, write_scores

    def row(video, label, method, score, dataset="ffpp"):
        return ScoreRow(f"{video}.png", dataset, video, 0, 0, label, method, (), None, "test", score)

    rows = [row("a", 0, "original", 0.2), row("b", 0, "original", 0.7), row("c", 1, "Deepfakes", 0.9)]
    rows += [
        row("d", 1, "Face2Face", 0.4),
        row("e", 1, "Deepfakes", 0.6, "celebdf"),
        row("f", 0, "original", 0.1, "celebdf"),
    ]
    write_scores(tmp_path / "scores.csv", rows)
    measures = Measures({"x": Outcome(tmp_path, {"test": tmp_path})}, {})

    def of(measure):
        ours = measures.of(Entry("", "", 0.5, measure=measure, experiment="x"))
        return ours and ours.value

    assert of("frame.accuracy") == pytest.approx(4 / 6)
    assert of("frame.accuracy@celebdf") == 1
    assert of("frame.accuracy/Face2Face") == pytest.approx(2 / 4)
    assert of("frame.accuracy/FaceSwap") is None
    assert of("frame.recall.fake") == pytest.approx(2 / 3)
    assert of("frame.precision.real") == pytest.approx(2 / 3)
    assert of("test.loss.Face2Face") == pytest.approx(-math.log(0.4))
    assert of("test.accuracy.original_sequences") == pytest.approx(2 / 3)
    assert of("test_crops") == 6


# Data


def test_folders_are_recognized(tmp_path):
    for name, path in (("ffpp", "original_sequences"), ("celebdf", "Celeb-synthesis"), ("folder", "real")):
        (tmp_path / name / path).mkdir(parents=True)
        assert layout_of(tmp_path / name) == name
    (tmp_path / "dfdc/part").mkdir(parents=True)
    (tmp_path / "dfdc/part/metadata.json").write_text("{}")
    assert layout_of(tmp_path / "dfdc") == "dfdc"


def test_a_set_with_one_class_is_left_out_and_the_val_split_becomes_the_test(faces, tmp_path):
    rows = [replace(row, split="val" if row.split == "test" else "train") for row in faces_of(faces).rows]
    write_table(faces / "two.csv", rows, FaceRow)
    make_faces(tmp_path / "genuine", videos=6, frames=2, seed=5, fakes=0)
    data = [str(faces / "two.csv"), f"genuine={tmp_path / 'genuine'}"]
    prepared = prepare(DOCUMENTS["s0"], sources_of(data), tmp_path, lambda text: None)
    assert prepared.datasets == ("made",)
    assert prepared.left_out["genuine"].startswith("only real")
    assert prepared.held_out == "val"
    tested = {row.video for row in prepared.rows if row.split == TEST}
    assert tested == {row.video for row in rows if row.split == "val"}
    counts = {split: [row.label for row in prepared.rows if row.split == split] for split in ("train", "val", "test")}
    assert all(sum(labels) * 2 == len(labels) for labels in counts.values())
    assert len(counts["val"]) < len(counts["train"]) / 4


# The whole path


@pytest.fixture(scope="module")
def reproduced(faces, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "s1"
    code = main(["reproduce", "s1", str(faces), "-o", str(folder), "--only", "meso4", "--quick", "--quiet"])
    return folder, code


def test_one_command_makes_the_page(reproduced):
    folder, code = reproduced
    assert code == 0
    told = json.loads((folder / "report.json").read_text("utf-8"))
    assert told["experiments"]["s1-meso4"]["problem"] is None
    assert told["experiments"]["s1-meso-inception4"]["problem"] == "not run: not among --only"
    (auc,) = [e for e in told["entries"] if e["what"] == "s1-meso4: auc, Deepfakes"]
    assert 0 <= auc["ours"]["value"] <= 1
    assert auc["ours"]["interval"][0] <= auc["ours"]["interval"][1]
    assert auc["verdict"] == "cannot be"
    assert sum(told["counts"].values()) == len(told["entries"])
    page = (folder / "report.html").read_text("utf-8")
    assert "Kernels" in page.title()
    assert page.count("data:image/png;base64,") >= 1
    assert "contradiction" in page
    assert "<script" not in page


def test_a_finished_step_is_not_done_again(reproduced, faces):
    folder, _ = reproduced
    weights = folder / "work/runs/s1-meso4/weights.safetensors"
    before, page = weights.stat().st_mtime_ns, (folder / "report.json").read_bytes()
    report = Silent()
    reproduce(Request("s1", (str(faces),), ("s1-meso4",), quick=True), folder, report)
    assert weights.stat().st_mtime_ns == before
    assert not report.rows
    assert (folder / "report.json").read_bytes() == page


def test_an_experiment_is_added_and_the_others_stay(reproduced, faces):
    folder, _ = reproduced
    answer = reproduce(Request("s1", (str(faces),), ("s1-meso-inception4",), quick=True), folder, Silent())
    problems = {name: one["problem"] for name, one in answer["experiments"].items()}
    assert problems["s1-meso4"] is None
    assert problems["s1-meso-inception4"] is None


def test_a_stopped_run_goes_on_to_the_same_report(reproduced, faces, tmp_path):
    class Stops(Silent):
        def epoch(self, row):
            raise KeyboardInterrupt

    folder, _ = reproduced
    request = Request("s1", (str(faces),), ("s1-meso4",), quick=True)
    with pytest.raises(KeyboardInterrupt):
        reproduce(request, tmp_path / "r", Stops())
    assert not (tmp_path / "r/report.json").exists()
    reproduce(request, tmp_path / "r", Silent())
    found = []
    for where in (folder, tmp_path / "r"):
        told = json.loads((where / "report.json").read_text("utf-8"))
        found.append([entry for entry in told["entries"] if entry["experiment"] == "s1-meso4"])
    assert found[0]
    assert found[0] == found[1]


def test_another_request_is_refused(reproduced, faces):
    folder, _ = reproduced
    with pytest.raises(ValueError, match="quick was True, now False"):
        reproduce(Request("s1", (str(faces),), ("meso4",)), folder, Silent())


def test_what_is_absent_is_said_before_any_work(faces, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    todo = plan(Request("s4", (str(faces),)))
    assert not todo.recipes
    assert "--imagenet vgg16=FILE" in todo.skipped["s4-vgg16"]
    assert main(["reproduce", "s4", str(tmp_path / "nothing"), "-o", str(tmp_path / "r")]) == 2
    assert "holds no face crops" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
    with pytest.raises(ValueError, match="did you mean meso4"):
        plan(Request("s1", (str(faces),), ("mseo4",)))


def test_videos_are_indexed_cut_and_scored(tmp_path):
    for label in ("real", "fake"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for number in range(24):
            _clip(tmp_path / "set" / label / f"{label}{number}.avi", number + 100 * (label == "fake"))
    arguments = ["-o", str(tmp_path / "r"), "--quick", "--quiet", "--only", "meso_inception4", "--detector", "none"]
    assert main(["reproduce", "s0", f"mesonet={tmp_path / 'set'}", *arguments, "--no-costs"]) == 0
    told = json.loads((tmp_path / "r/report.json").read_text("utf-8"))
    assert told["data"]["datasets"] == ["mesonet"]
    assert 0.9 * 24 * 2 * 4 <= told["data"]["crops"] <= 24 * 2 * 4  # balanced in each split
    assert "36.5% test" in told["data"]["split"]
    by_word = {entry["what"]: entry["verdict"] for entry in told["entries"]}
    assert by_word["mobilenet_v3: cycles saved"] == CANNOT


@pytest.mark.slow  # test_recipes runs a recipe on noise
def test_s4_trains_on_the_noise_of_one_kernel(faces, tmp_path):
    settings = ("weights=none", "size=64")
    request = Request("s4", (str(faces),), ("s4-mobilenet-v2-srm",), quick=True, settings=settings)
    answer = reproduce(request, tmp_path / "r", Silent())
    assert "SRM clone, kernel KV" in answer["experiments"]["s4-mobilenet-v2-srm"]["protocol"]
    assert json.loads((tmp_path / "r/work/noise/run.json").read_text())["srm"]["kernels"] == ["KV"]


def test_figures_13_and_14_of_s0_are_one_picture(monkeypatch):
    from tfdfd.reproduce.results import Verdict, draw_removed_blocks

    networks = ("mobilenet_v3", "mobilenet_v3_r1", "mobilenet_v3_r2", "mobilenet_v3_r3")
    entries = [e for e in DOCUMENTS["s0"].entries if e.place == "figure 14"]
    accuracies = {"mobilenet_v3": 0.81, "mobilenet_v3_r2": 0.8, "mobilenet_v3_r3": 0.79}
    verdicts = [
        Verdict(entry, Measured(accuracies[entry.what.partition(":")[0]], None, ""), CANNOT, "") for entry in entries
        if entry.measure
    ]  # fmt: skip
    costs = {f"cost.{name}": Measured(4.0 - number, None, "") for number, name in enumerate(networks)}
    drawn = []
    monkeypatch.setattr("matplotlib.pyplot.close", drawn.append)
    picture = draw_removed_blocks(verdicts, costs)
    assert picture.startswith(b"\x89PNG")
    (cost, accuracy) = ([list(map(float, xy)) for xy in axis.get_lines()[0].get_data()] for axis in drawn[0].axes)
    assert cost == [[0, 1, 2, 3], [4, 3, 2, 1]] and accuracy == [[0, 2, 3], [0.81, 0.8, 0.79]]
    assert draw_removed_blocks([], {}) is None


def _clip(path: Path, seed: int):
    draw = np.random.default_rng(seed)
    noise = cv2.resize(draw.integers(0, 256, (8, 8, 3), np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC)
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 64))
    for shift in range(4):
        video.write(np.roll(noise, 3 * shift, axis=1))
    video.release()


def test_losses_are_printed_as_they_are():
    from tfdfd.reproduce.results import number

    assert number(0.22517, Entry("", "", 0.2, LOSS, 5)) == "0.22517"
    assert number(0.9181, Entry("", "", 0.2, SHARE, 2)) == "91.81 %"
