"""Reports from scores alone: the tables by hand, every form says the same, and names of strangers stay text."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import pytest

from tfdfd.evaluation import evaluate as evaluation
from tfdfd.evaluation import report as report_module
from tfdfd.evaluation import tables
from tfdfd.evaluation.evaluate import Options, evaluate_scores, write_report
from tfdfd.evaluation.report import (
    as_json,
    as_markdown_report,
    make_report,
    score_histogram,
    stored_pictures,
    thumbnails,
)
from tfdfd.evaluation.tables import Table, as_markdown, as_text
from tfdfd.metrics import METRICS, Metric, MetricError
from tfdfd.metrics.scores import ScoreRow, write_scores

SCHEMA = json.loads(Path(report_module.__file__).with_name("report.schema.json").read_text("utf-8"))
MODEL = {"handle": "tfdfd/meso4.x", "network": "meso4", "sha256": "9f" * 32, "threshold": 0.5}
HOSTILE = "<script>alert(1)</script>|`x`[a](http://b)\u202e\n# head.mp4"


def row(video, label, score, frame=0, method=None, dataset="ffpp", status="ok", track=0, file=True):
    name = f"crops/{video}/{frame}-{track}.png" if file else None
    method = method or ("Deepfakes" if label else "original")
    places = (frame, track) if file else (None, None)
    return ScoreRow(name, dataset, video, *places, label, method, (video,), "c23", "test", score, status)


def report_of(rows, **options):
    return make_report([(MODEL, rows)], [], **{"resamples": 50} | options)


# Frames: fakes 0.9 0.8 | 0.4 0.2 | 0.7, reals 0.1 0.3 | 0.6 0.6. Videos by mean: fakes 0.85, 0.3, 0.7, reals 0.2, 0.6.
ROWS = [
    row("f1.mp4", 1, 0.9), row("f1.mp4", 1, 0.8, 1), row("f2.mp4", 1, 0.4, 0, "Face2Face"),
    row("f2.mp4", 1, 0.2, 1, "Face2Face"), row("f3.mp4", 1, 0.7), row("r1.mp4", 0, 0.1), row("r1.mp4", 0, 0.3, 1),
    row("r2.mp4", 0, 0.6), row("r2.mp4", 0, 0.6, 1),
]  # fmt: skip


def tables_of(document, rows=ROWS, **options):
    return report_of(rows, table=document, **options)["tables"]


def test_s0_is_the_confusion_of_frames_with_fake_as_positive():
    (table,) = tables_of("s0")
    assert table["columns"] == ["tfdfd/meso4.x", "positive", "negative"]
    assert table["rows"] == [["positive", "3", "2"], ["negative", "2", "2"]]
    assert "pos/pos 3, pos/neg 2, neg/pos 2, neg/neg 2" in table["notes"][0]
    assert "accuracy 55.56 %, majority baseline 55.56 %" in table["notes"][1]


def test_s1_has_precision_recall_and_f1_of_frames():
    table, deepfakes, face2face, accuracies = tables_of("s1")
    assert table["rows"] == [
        ["0 (real)", "0.50", "0.50", "0.50", "4"],
        ["1 (fake)", "0.60", "0.60", "0.60", "5"],
        ["Accuracy", "", "", "0.56", "9"],
        ["Macro avg", "0.55", "0.55", "0.55", "9"],
        ["weighted avg", "0.56", "0.56", "0.56", "9"],
    ]
    # AUC of frames, of each method's fakes with all real ones: of 12 pairs 4 + 4 + 4, of 8 pairs 2 + 1 are in order.
    assert deepfakes["title"] == "S1, table 6: Deepfakes of ffpp"
    assert deepfakes["rows"] == [["tfdfd/meso4.x", "71.43 %", "100.00 %"]]
    assert face2face["title"] == "S1, table 7: Face2Face of ffpp"
    assert face2face["rows"] == [["tfdfd/meso4.x", "33.33 %", "37.50 %"]]
    # Both sets of accuracies of the document beside ours.
    assert accuracies["rows"] == [
        ["Deepfakes", "96.00 %", "67.00 %", "71.43 %"],
        ["FaceForensics++", "93.00 %", "62.00 %", "55.56 %"],
        ["Celeb-DF", "96.00 %", "70.00 %", "–"],
        ["combined set", "66.70 %", "66.33 %", "55.56 %"],
    ]


def test_a_table_takes_any_number_of_models():
    """S4's has six: three networks, each without and with SRM."""
    names = [f"{srm}{network}" for network in ("mobilenet_v2", "vgg16", "resnet50v2") for srm in ("", "srm_")]
    scored = [(MODEL | {"handle": f"tfdfd/{name}.x", "network": name}, ROWS) for name in names]
    report = make_report(scored, [], table="s4", resamples=50)
    assert report["tables"][0]["rows"] == [[name, "75 %", "75 %"] for name in ("mobilenet_v2", "vgg16", "resnet50v2")]
    assert [one["model"]["network"] for one in report["others"]] == names[2:]
    jsonschema.validate(report, SCHEMA)
    s1 = make_report(scored[:3], [], table="s1", resamples=50)["tables"]
    assert len(s1[-1]["columns"]) == 3 + 3


def test_s2_has_loss_of_frames_and_accuracy_of_videos_by_method():
    by_method, balanced, worst = tables_of("s2")
    losses = {
        "Deepfakes": -math.log(0.9 * 0.8 * 0.7) / 3,
        "Face2Face": -math.log(0.4 * 0.2) / 2,
        "original_sequences": -math.log(0.9 * 0.7 * 0.4 * 0.4) / 4,
        "Overall": -math.log(0.9 * 0.8 * 0.7 * 0.4 * 0.2 * 0.9 * 0.7 * 0.4 * 0.4) / 9,
    }
    shares = {"Deepfakes": "100.00 %", "Face2Face": "0.00 %", "original_sequences": "50.00 %", "Overall": "60.00 %"}
    assert by_method["rows"] == [[name, f"{losses[name]:.5f}", shares[name]] for name in losses]
    assert balanced["rows"] == [["tfdfd/meso4.x", f"{(2 / 3 + 1 / 2) / 2:.2%}".replace("%", " %")]]
    assert worst["rows"][0] == ["Face2Face", "f2.mp4", f"{losses['Face2Face']:.2f}"]
    assert [cells[1] for cells in worst["rows"]] == ["f2.mp4", "r2.mp4", "f3.mp4", "r1.mp4", "f1.mp4"]


def test_s3_lays_training_beside_test():
    trained = {"train_accuracy": 1.0, "val_accuracy": 0.97, "train_loss": 0.0123, "seconds": 160.0}
    (table,) = tables_of("s3", training=[trained])
    assert table["rows"] == [["tfdfd/meso4.x", "100.00 %", "97.00 %", "55.56 %", "0.0123", "2:40", "9"]]
    (unknown,) = tables_of("s3")
    assert unknown["rows"][0][1:3] == ["–", "–"] and "is not a run of" in " ".join(unknown["notes"])


def test_s4_has_a_column_without_and_one_with_srm():
    other = MODEL | {"handle": "tfdfd/srm_vgg16.x", "network": "srm_vgg16"}
    scored = [(MODEL | {"network": "vgg16"}, ROWS), (other, ROWS)]
    told = make_report(scored, [], table="s4", resamples=50)["tables"]
    assert told[0]["rows"] == [["vgg16", "75 %", "75 %"]]
    with pytest.raises(ValueError, match="one cell per network, and both models are vgg16"):
        make_report([scored[0], scored[0]], [], table="s4", resamples=50)


def test_every_document_table_stands_in_every_form(tmp_path):
    for document in tables.DOCUMENTS:
        report = report_of(ROWS, table=document)
        write_report(tmp_path, report, stored_pictures([]), plots=False)
        for form in ("report.json", "report.md", "report.html"):
            for table in report["tables"]:
                assert table["title"] in (tmp_path / form).read_text("utf-8"), (document, form)


def test_a_constant_answer_is_named_in_every_form(tmp_path):
    rows = [row(f"{n}.mp4", int(n >= 14), 0.97) for n in range(100)]
    report = report_of(rows)
    for level in ("video", "frame"):
        found = report["judged"][level]
        assert found["auc"]["value"] == found["balanced_accuracy"]["value"] == 0.5
        assert found["accuracy"]["value"] == found["majority"] == 0.86
    (loud,) = [w for w in report["warnings"] if w["code"] == "no_better_than_majority" and w["where"] == "videos"]
    write_report(tmp_path, report, stored_pictures([]))
    for form in ("report.json", "report.md", "report.html"):
        assert loud["message"] in (tmp_path / form).read_text("utf-8"), form
    markdown = (tmp_path / "report.md").read_text("utf-8")
    assert "| accuracy | 0.860 (majority: 0.860) | 0.860 (majority: 0.860) |" in markdown.replace("\\", "")


def test_report_json_keeps_its_schema(tmp_path):
    other = [one for one in ROWS if one.video != "f3.mp4"]
    reports = [
        report_of(ROWS),
        report_of([*ROWS, row("gone.mp4", 1, None, file=False, status="decode_error")], missing="as-real", table="s2"),
        make_report([(MODEL, ROWS), (MODEL, other)], [], resamples=50),
        report_of([row("r.mp4", 0, 0.2), row("s.mp4", 0, 0.7)]),
        report_of([row("gone.mp4", 1, None, file=False, status="no_face")]),
    ]
    for report in reports:
        jsonschema.validate(json.loads(as_json(report)), SCHEMA)
        write_report(tmp_path, report, stored_pictures([]), plots=False)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(reports[0] | {"surprise": 1}, SCHEMA)


def test_one_class_gives_null_with_a_reason_and_no_picture_of_a_curve(tmp_path):
    report = report_of([row("r.mp4", 0, 0.2), row("s.mp4", 0, 0.7)])
    assert report["judged"]["video"]["auc"]["value"] is None and "real" in report["judged"]["video"]["auc"]["reason"]
    write_report(tmp_path, report, stored_pictures([]))
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"reliability.png", "confusion.png", "scores.png"}
    assert report["judged"]["video"]["auc"]["reason"] in (tmp_path / "report.html").read_text("utf-8")


def test_coverage_counts_videos_and_crops_and_says_what_the_missing_count_as():
    rows = [
        *ROWS,
        row("f1.mp4", 1, None, 2, status="decode_error"),
        row("gone.mp4", 1, None, file=False, status="no_face"),
        row("cut.mp4", 0, None, file=False, status="decode_error"),
    ]
    report = report_of(rows, missing="as-fake")
    found = report["judged"]["coverage"]
    assert (found["expected"], found["scored"], found["no_face"], found["broken"]) == (7, 5, 1, 1)
    assert report["crops"]["expected"] == 10 and report["crops"]["broken"] == 1
    assert "crops/f1.mp4/2-0.png: decode_error" in report["crops"]["unscored"]
    assert (report["judged"]["video"]["n_real"], report["judged"]["video"]["n_fake"]) == (3, 4)
    text = as_markdown_report(report, [], [[]] * len(report["judged"]["hardest"]))
    assert "count as P(fake) 1" in text and "| broken or missing | 1 | 1 |" in text
    assert report["judged"]["frame"]["n"] == 9


def test_two_models_are_compared_on_the_same_videos():
    better = [row(one.video, one.label, 0.9 if one.label else 0.1, one.frame, one.method) for one in ROWS]
    report = make_report([(MODEL, ROWS), (MODEL | {"handle": "tfdfd/other"}, better)], [], resamples=50)
    assert report["comparison"]["auc"]["values"] == [pytest.approx(5 / 6), 1.0]
    text = as_markdown_report(report, [], [[]] * 5)
    assert "Two models on the same videos" in text and "DeLong" in text and "tfdfd/other" in text
    assert any(one["where"].startswith("tfdfd/other") for one in report["warnings"])


def test_the_histogram_has_every_score_once():
    told = score_histogram([*ROWS, row("one.mp4", 1, 1.0), row("zero.mp4", 0, 0.0)], "mean", "exclude")
    assert [sum(told["frame"][kind]) for kind in ("real", "fake")] == [5, 6]
    assert [sum(told["video"][kind]) for kind in ("real", "fake")] == [3, 4]
    assert told["video"]["fake"][-1] == 1 and told["video"]["real"][0] == 1


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.text = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_needs_nothing_else_and_names_stay_text(tmp_path):
    crops = tmp_path / "set"
    rows = [row(HOSTILE, 0, 0.99), *ROWS]
    for one in rows:
        path = crops / one.file
        if "script" not in one.file:
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.full((200, 100, 3), 90, np.uint8))
    report = report_of(rows)
    told = [{"names": ["ffpp"], "root": str(crops)}]
    write_report(tmp_path, report, stored_pictures(told))
    text = (tmp_path / "report.html").read_text("utf-8")
    page = Page(text)
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "form", "base"}
    assert page.addresses and all(address.startswith("data:image/") for address in page.addresses)
    assert "default-src 'none'" in text and "\u202e" not in text
    assert "<script>alert(1)</script>" in "".join(page.text)
    markdown = (tmp_path / "report.md").read_text("utf-8")
    assert "<script>" not in markdown.replace("`<script>", "") and "\n# head" not in markdown
    links = re.findall(r"!\[[^\]]*\]\(((?:hardest|plots)/[^)]+)\)", markdown)
    assert len(links) == 5 + len(list((tmp_path / "hardest").iterdir())) == 5 + 9
    assert all((tmp_path / link).is_file() for link in links)


def test_thumbnails_are_small_and_what_is_not_at_hand_is_left_out(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((300, 150, 3), 90, np.uint8))
    one = {"dataset": "d", "method": "original", "files": ["a.png", "gone.png"]}
    told = [{"names": ["d"], "root": str(tmp_path)}]
    ((jpeg,),) = thumbnails([one], stored_pictures(told))
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape == (128, 64, 3)
    assert thumbnails([one | {"method": "self-blended"}, one | {"dataset": "e"}], stored_pictures(told)) == [[], []]


def test_the_same_scores_give_the_same_bytes_in_whatever_order(tmp_path):
    for name, rows in (("a", ROWS), ("b", ROWS[::-1])):
        write_report(tmp_path / name, report_of(rows, table="s2"), stored_pictures([]))
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(files) == 3 + 5
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_what_an_earlier_report_has_left_is_gone(tmp_path):
    write_report(tmp_path, report_of(ROWS), stored_pictures([]))
    write_report(tmp_path, report_of(ROWS), stored_pictures([]), plots=False)
    assert not (tmp_path / "plots").exists()
    assert "plots/" not in (tmp_path / "report.md").read_text("utf-8")


def test_scores_are_judged_again_without_a_network(tmp_path):
    write_scores(tmp_path / "scores.csv", ROWS)
    with pytest.raises(ValueError, match="no threshold is known for scores.csv"):
        evaluate_scores(tmp_path / "scores.csv", tmp_path / "out", Options(split=None, resamples=20))
    report = evaluate_scores(
        tmp_path / "scores.csv", tmp_path / "out", Options(split=None, threshold=0.65, resamples=20)
    )
    assert report["threshold"] == {"value": 0.65, "source": "given"}
    assert report["judged"]["video"]["confusion"]["fake_as_fake"] == 2
    (tmp_path / "scores.json").write_text(json.dumps({"schema": 1, "model": MODEL, "sets": []}), "utf-8")
    report = evaluate_scores(tmp_path / "scores.csv", tmp_path / "out", Options(split="test", resamples=20))
    assert report["model"] == MODEL and report["threshold"]["value"] == 0.5
    with pytest.raises(ValueError, match="has no scores of split 'train'"):
        evaluate_scores(tmp_path / "scores.csv", tmp_path / "out", Options(split="train"))
    (tmp_path / "scores.json").write_text("[]", "utf-8")
    with pytest.raises(ValueError, match="does not describe the scores"):
        evaluate_scores(tmp_path / "scores.csv", tmp_path / "out", Options(split=None))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregation": "meen"}, "aggregation must be one of mean, .*received 'meen'"),
        ({"missing": "drop"}, "missing must be one of exclude, .*received 'drop'"),
        ({"threshold": 1.2}, r"threshold must be in \[0, 1\]; received 1.2"),
        ({"resamples": -1}, "at least 0; received -1"),
    ],
)
def test_options_are_checked_before_an_hour_of_scoring(options, message):
    with pytest.raises(ValueError, match=message):
        Options(**options)


def test_without_matplotlib_the_extra_is_named_before_the_work(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"tfdfd\[train\].*--no-plots"):
        evaluation.evaluate("tfdfd/none", [tmp_path], tmp_path / "out")


def test_no_rows_and_no_document_are_errors():
    with pytest.raises(MetricError):
        report_of([])
    with pytest.raises(ValueError, match="s0, s1, s2, s3, s4; received 's9'"):
        report_of(ROWS, table="s9")


def test_tables_as_text_and_markdown():
    table = Table("T", "how", ("", "a|b"), (("x\ny", "1"), ("long name", "22")), ("note *",))
    assert list(as_text(table)) == ["T", "           a|b", "x\\ny         1", "long name   22", "  how", "  note *"]
    lines = list(as_markdown(table))
    assert lines[:4] == ["### T", "", "*how*", ""]
    assert "|  | a\\|b |" in lines and "| x\\\\ny | 1 |" in lines and "- note \\*" in lines


def test_a_metric_is_one_function_and_one_row(monkeypatch, tmp_path):
    row = Metric(lambda labels, scores: float(np.mean(scores)), "toy metric", compared=True, by_part=True)
    monkeypatch.setitem(METRICS, "toy", row)
    report = make_report([(MODEL, ROWS), (MODEL, ROWS)], [], resamples=20)
    mean = np.mean([row.fake_probability for row in ROWS if row.status == "ok"])
    assert report["judged"]["frame"]["toy"]["value"] == pytest.approx(mean)
    assert report["judged"]["per_method"][0]["video"]["toy"]["value"] and report["comparison"]["toy"]["p"] == 1
    jsonschema.validate(json.loads(as_json(report)), SCHEMA)
    write_report(tmp_path, report, stored_pictures([]), plots=False)
    for name in ("report.md", "report.html"):
        assert (tmp_path / name).read_text("utf-8").count("toy metric") >= 4  # main, parts, comparison
