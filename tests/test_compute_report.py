"""The judgement of a model: nothing hides in it, and what cannot be told is not made up."""

import json
import random
import time

import numpy as np
import pytest
from sklearn.metrics import auc as area_below

from tfdfd.metrics import LabelError, LengthError, ScoreError, auc
from tfdfd.metrics.calibration import Platt, Temperature
from tfdfd.metrics.intervals import compare
from tfdfd.metrics.report import compute_report
from tfdfd.metrics.scores import ScoreRow, aggregate_videos

QUICK = {"resamples": 200}


def scored(reals, fakes, score, *, dataset="ffpp", method="Deepfakes", frames=4, seed=0, compression=None):
    """A set whose crops have `score(label, rng)`; each video's fake is of the source of its number."""
    rng = np.random.default_rng(seed)
    rows = []
    for label, count in ((0, reals), (1, fakes)):
        name = method if label else "original"
        for number in range(count):
            video = f"{compression}/{name}/{number}.mp4"
            of_video = score(label, rng)
            for frame in range(frames):
                value = float(np.clip(of_video + rng.normal(0, 0.02), 0, 1))
                rows.append(
                    ScoreRow(
                        f"{video}/{frame}.png", dataset, video, frame, 0, label, name, (str(number),),
                        compression, "test", value,
                    )
                )  # fmt: skip
    return rows


def good(label, rng):
    return rng.normal(0.3 + 0.4 * label, 0.12)


def chance(label, rng):
    return rng.uniform(0.2, 0.8)


def constant(rows, value):
    return [ScoreRow(**(vars(row) | {"fake_probability": value})) for row in rows]


def without(video, status, label=1, dataset="ffpp"):
    name = "Deepfakes" if label else "original"
    return ScoreRow(None, dataset, video, None, None, label, name, (), None, "test", None, status)


def codes(found):
    return {(warning["code"], warning["where"]) for warning in found["warnings"]}


def plain(found):
    return json.loads(json.dumps(found, allow_nan=False))


def test_a_model_that_says_fake_to_everything_is_found_out():
    """Document S4: 86 % accuracy, and every confusion matrix "all fake"."""
    found = plain(compute_report(constant(scored(140, 860, chance, frames=2), 0.97), 0.5, **QUICK))
    for level in ("video", "frame"):
        told = found[level]
        assert told["auc"]["value"] == told["balanced_accuracy"]["value"] == 0.5
        assert told["accuracy"]["value"] == told["majority"] == 0.86
        assert told["confusion"]["real_as_real"] == told["confusion"]["fake_as_real"] == 0
        assert told["classes"]["real"]["recall"] == 0 and told["classes"]["real"]["precision"] is None
        assert told["auc"]["interval"] is None and "all resamples give 0.5" in told["auc"]["interval_reason"]
    for where in ("videos", "frames"):
        for code in ("no_better_than_majority", "no_better_than_chance", "one_verdict"):
            assert (code, where) in codes(found)
    loud = next(w["message"] for w in found["warnings"] if w["code"] == "no_better_than_majority")
    assert loud == (
        "videos: NO BETTER THAN THE MAJORITY: accuracy 0.860; calling everything fake has 0.860. Balanced "
        "accuracy 0.500, where 0.5 is chance."
    )


def test_nearly_all_fake_and_chance_are_found_out_too():
    rows = scored(14, 86, lambda label, rng: rng.uniform(0.45, 1.0))
    assert {("no_better_than_majority", "videos"), ("no_better_than_chance", "videos")} <= codes(
        compute_report(rows, 0.5, **QUICK)
    )
    rows = scored(200, 200, chance)
    assert {("no_better_than_majority", "videos"), ("no_better_than_chance", "videos")} <= codes(
        compute_report(rows, 0.5, **QUICK)
    )
    wrong_way = compute_report(scored(60, 60, lambda label, rng: good(1 - label, rng)), 0.5, **QUICK)
    assert ("worse_than_chance", "videos") in codes(wrong_way)


def test_a_good_model_has_no_warnings_and_figures_of_videos():
    rows = scored(100, 150, good)
    found = plain(compute_report(rows, 0.5, **QUICK))
    assert found["warnings"] == []
    videos = aggregate_videos(rows)
    expected = auc([v.label for v in videos], [v.fake_probability for v in videos])
    assert found["video"]["auc"]["value"] == expected
    low, high = found["video"]["auc"]["interval"]
    assert 0.9 < low < expected < high <= 1
    assert found["video"]["auc"]["delong"] == pytest.approx([low, high], abs=0.02)
    for name in ("eer", "average_precision", "balanced_accuracy", "log_loss", "brier", "ece", "tpr_at_fpr_1"):
        low, high = found["video"][name]["interval"]
        assert low < high
    assert found["frame"]["n"] == 1000 and "delong" not in found["frame"]["auc"]
    assert found["protocol"] == {
        "positive": "fake = 1", "threshold": 0.5, "aggregation": "mean", "calibration": None, "missing": "exclude",
        "datasets": ["ffpp"], "splits": ["test"], "videos": 250, "frames": 1000,
        "bootstrap": {"resamples": 200, "level": 0.95, "over": "video", "seed": 0},
    }  # fmt: skip
    curve = found["curves"]["video"]["roc"]
    area = area_below(curve["fpr"], curve["tpr"])
    assert area == pytest.approx(expected, abs=1e-9) and curve["threshold"][0] is None
    assert sum(part["count"] for part in found["curves"]["frame"]["reliability"]) == 1000


def test_the_order_of_rows_changes_nothing():
    rows = scored(20, 30, good) + scored(20, 30, chance, dataset="dfdc", method="dfdc")
    mixed = list(rows)
    random.Random(0).shuffle(mixed)
    for cluster in ("video", "source"):
        assert plain(compute_report(rows, 0.5, cluster=cluster, **QUICK)) == plain(
            compute_report(mixed, 0.5, cluster=cluster, **QUICK)
        )


def test_each_method_stands_against_all_real_ones_of_its_data_set():
    rows = scored(60, 60, good)
    rows += scored(0, 40, chance, method="NeuralTextures", seed=1)
    rows += scored(50, 35, good, dataset="dfdc", method="dfdc", seed=2)
    found = plain(compute_report(rows, 0.5, **QUICK))
    table = {(row["dataset"], row["method"]): row["video"] for row in found["per_method"]}
    assert {key: (told["n_real"], told["n_fake"]) for key, told in table.items()} == {
        ("dfdc", "dfdc"): (50, 35), ("ffpp", "Deepfakes"): (60, 60), ("ffpp", "NeuralTextures"): (60, 40)
    }  # fmt: skip
    assert table["ffpp", "Deepfakes"]["auc"]["value"] > 0.95 > 0.9 > table["ffpp", "NeuralTextures"]["auc"]["value"]
    assert table["ffpp", "Deepfakes"]["auc"]["interval"] and "interval" not in table["ffpp", "Deepfakes"]["eer"]
    assert [(row["dataset"], row["video"]["n"]) for row in found["per_dataset"]] == [("dfdc", 85), ("ffpp", 160)]
    assert found["per_compression"] == []
    only = compute_report(scored(60, 60, good), 0.5, **QUICK)
    assert only["per_dataset"][0]["video"]["auc"] == only["per_method"][0]["video"]["auc"]


def test_compressions_stand_each_against_their_own_real_ones():
    rows = scored(40, 40, good, compression="c23") + scored(30, 50, chance, compression="c40", seed=3)
    table = {row["compression"]: row["video"] for row in compute_report(rows, 0.5, **QUICK)["per_compression"]}
    assert {name: (told["n_real"], told["n_fake"]) for name, told in table.items()} == {
        "c23": (40, 40), "c40": (30, 50)
    }  # fmt: skip
    assert table["c23"]["auc"]["value"] > 0.9 > table["c40"]["auc"]["value"]


def test_a_set_that_is_at_chance_is_told_among_others():
    rows = scored(90, 90, good) + scored(90, 90, chance, dataset="celebdf", method="celebdf")
    found = compute_report(rows, 0.5, **QUICK)
    assert ("no_better_than_chance", "videos of celebdf") in codes(found)
    assert ("no_better_than_chance", "videos of ffpp") not in codes(found)


@pytest.mark.parametrize(("reals", "fakes"), [(0, 40), (40, 0), (1, 40), (1, 1)])
def test_one_class_and_single_videos_give_null_and_the_reason(reals, fakes):
    found = plain(compute_report(scored(reals, fakes, chance), 0.5, **QUICK))
    told = found["video"]
    if reals and fakes:
        assert told["auc"]["value"] is not None
        assert (
            told["auc"]["interval"] is None and "all real examples are of one video" in told["auc"]["interval_reason"]
        )
        assert ("too_few", "videos") in codes(found)
        assert told["auc"]["delong"] is None and "has no variance" in told["auc"]["delong_reason"]
        return
    for name in ("auc", "eer", "average_precision", "balanced_accuracy", "tpr_at_fpr_5"):
        assert told[name]["value"] is None and "all 40 examples are" in told[name]["reason"]
    for name in ("accuracy", "log_loss", "brier", "ece"):
        assert told[name]["value"] is not None and told[name]["interval"]
    assert found["curves"]["video"]["roc"] is None and "all 40" in found["curves"]["video"]["roc_reason"]
    assert found["curves"]["video"]["reliability"]
    assert ("one_class", "videos") in codes(found) and ("no_better_than_majority", "videos") not in codes(found)


def test_a_set_without_any_score_is_told():
    found = plain(compute_report([without("a.mp4", "no_face"), without("b.mp4", "timeout", 0)], 0.5, **QUICK))
    assert codes(found) == {("low_coverage", "videos"), ("no_scores", "videos"), ("no_scores", "frames")}
    assert found["video"]["n"] == 0 and found["video"]["confusion"] is None
    assert found["video"]["accuracy"]["value"] is None and "n of at least 1" in found["video"]["accuracy"]["reason"]
    assert found["hardest"] == [] and found["per_dataset"] == []


def test_missing_videos_are_counted_and_count_as_asked():
    rows = scored(50, 45, good) + [without(f"gone{n}.mp4", "no_face") for n in range(4)]
    rows.append(without("broken.mp4", "decode_error"))
    found = compute_report(rows, 0.5, **QUICK)
    assert found["coverage"] == {
        "expected": 100, "scored": 95, "no_face": 4, "left_out": 0, "broken": 1, "share": 0.95
    }  # fmt: skip
    assert ("low_coverage", "videos") in codes(found) and found["video"]["n_fake"] == 45
    recalls = {}
    for missing in ("exclude", "as-real", "as-fake", "as-chance"):
        found = compute_report(rows, 0.5, missing=missing, **QUICK)
        recalls[missing] = found["video"]["classes"]["fake"]["recall"]
        assert found["protocol"]["missing"] == missing
        assert found["frame"]["n"] == 380 and len(found["hardest"]) == 10
        assert not any("gone" in video["video"] for video in found["hardest"])
    assert recalls["as-real"] == pytest.approx(recalls["exclude"] * 0.9)
    assert recalls["as-fake"] == recalls["as-chance"] == pytest.approx(recalls["exclude"] * 0.9 + 0.1)


def test_the_hardest_are_the_most_surely_wrong_with_their_crops():
    rows = scored(30, 30, lambda label, rng: 0.2 + 0.6 * label)
    for number, score in ((3, 0.99), (7, 0.75)):
        video = f"None/original/{number}.mp4"
        rows = [row for row in rows if row.video != video]
        rows += [
            ScoreRow(f"x/{number}/{f}.png", "ffpp", video, f, 0, 0, "original", (), None, "test", s)
            for f, s in enumerate([score, score - 0.1, score + 0.005, score, score - 0.2])
        ]  # fmt: skip
    found = compute_report(rows, 0.5, **QUICK)["hardest"]
    assert len(found) == 10
    assert [(video["video"], video["wrong"]) for video in found[:2]] == [
        ("None/original/3.mp4", True), ("None/original/7.mp4", True)
    ]  # fmt: skip
    assert found[0]["files"] == ["x/3/2.png", "x/3/0.png", "x/3/3.png", "x/3/1.png"]
    assert not any(video["wrong"] for video in found[2:])
    # At a high threshold it is fakes that are called real.
    assert compute_report(rows, 0.9, **QUICK)["hardest"][0]["wrong"]


def test_calibration_is_of_crops_and_told():
    rows = scored(50, 50, good)
    calibrator = Platt(2.0, -1.0, "validation (10 real, 10 fake)")
    found = compute_report(rows, 0.5, calibrator=calibrator, **QUICK)
    by_hand = [
        ScoreRow(**(vars(row) | {"fake_probability": float(calibrator.apply([row.fake_probability])[0])}))
        for row in rows
    ]
    assert found["video"] == compute_report(by_hand, 0.5, **QUICK)["video"]
    assert found["protocol"]["calibration"] == {
        "method": "platt", "slope": 2.0, "offset": -1.0, "fitted_on": "validation (10 real, 10 fake)"
    }  # fmt: skip
    plainly = compute_report(rows, 0.5, **QUICK)
    sharpened = compute_report(rows, 0.5, calibrator=Temperature(0.2, "validation"), **QUICK)
    assert sharpened["frame"]["auc"] == plainly["frame"]["auc"]
    assert sharpened["frame"]["log_loss"] != plainly["frame"]["log_loss"]


def test_intervals_over_sources_are_wider_where_videos_share_them():
    rng = np.random.default_rng(0)
    shown = rng.normal(0, 0.25, 40)
    rows = []
    for label in (0, 1):
        for number in range(400):
            source, video = str(number % 40), f"{label}/{number}.mp4"
            score = float(np.clip(0.45 + 0.1 * label + (1 - label) * shown[number % 40], 0, 1))
            method = "x" if label else "original"
            rows.append(ScoreRow(video, "d", video, 0, 0, label, method, (source,), None, None, score))
    by_source, by_video = (compute_report(rows, 0.5, cluster=cluster, **QUICK) for cluster in ("source", "video"))
    for level in ("video", "frame"):
        wide, narrow = (np.ptp(found[level]["auc"]["interval"]) for found in (by_source, by_video))
        assert wide > 1.5 * narrow
    assert "delong" not in by_source["video"]["auc"]


def test_many_videos_in_time():
    rows = scored(300, 700, good, frames=8)
    start = time.process_time()
    compute_report(rows, 0.5)
    assert time.process_time() - start < 25


def test_what_is_refused():
    rows = scored(3, 3, good)
    with pytest.raises(LengthError, match="no scores to evaluate"):
        compute_report([], 0.5)
    with pytest.raises(ScoreError, match="threshold"):
        compute_report(rows, 1.5)
    with pytest.raises(ValueError, match="cluster must be one of video, source; received 'frame'"):
        compute_report(rows, 0.5, cluster="frame")
    with pytest.raises(ValueError, match="missing must be one of"):
        compute_report(rows, 0.5, missing="zero")
    with pytest.raises(ValueError, match="did you mean trimmed"):
        compute_report(rows, 0.5, aggregation="trimed")


def test_two_models_on_the_same_videos():
    rows = scored(60, 80, good)
    rng = np.random.default_rng(9)
    worse = [
        ScoreRow(**(vars(row) | {"fake_probability": float(np.clip(row.fake_probability + noise, 0, 1))}))
        for row, noise in zip(rows, np.repeat(rng.normal(0, 0.3, 140), 4), strict=True)
    ]
    found = plain(compare(rows, worse[4:], **QUICK))
    assert found["videos"] == {"both": 139, "first_only": 1, "second_only": 0}
    assert found["delong"]["p"] < 0.01 and found["delong"]["difference"] > 0
    assert found["auc"]["difference"] == pytest.approx(found["delong"]["difference"], abs=1e-12)
    assert found["auc"]["interval"] == pytest.approx(found["delong"]["interval"], abs=0.03)
    assert found["auc"]["p"] < 0.05 and found["log_loss"]["difference"] < 0 and found["brier"]["interval"][1] < 0
    back = compare(worse[4:], rows, **QUICK)
    assert back["auc"]["difference"] == -found["auc"]["difference"]
    assert compare(rows, rows, **QUICK)["delong"]["p"] == 1
    only = plain(compare(rows[:100], worse[:100], **QUICK))
    assert only["auc"] is None and "all 25 examples are real" in only["auc_reason"]
    assert only["brier"]["difference"] < 0
    with pytest.raises(LengthError, match="no video is scored by both models: the first has 60, the second 80"):
        compare(rows[:240], rows[240:])
    flipped = [ScoreRow(**(vars(row) | {"label": 1 - row.label})) for row in rows]
    with pytest.raises(LabelError, match="140 videos are real in one table and fake in the other"):
        compare(rows, flipped)
