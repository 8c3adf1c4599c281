"""Likelihood ratios of scores, their bounds and words, and the range that a model was tested in."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from tfdfd.detect import evidence
from tfdfd.detect.results import Detection, FaceTrack
from tfdfd.detect.verdict import rule_for
from tfdfd.faces.crop import MEASURES, measure_face
from tfdfd.metrics import calibration
from tfdfd.report.page import render_report
from tfdfd.weights import ALIASES, DEFAULT_MODEL, WeightRecord, list_records

CARD = {
    "handle": "tfdfd/toy", "model": "meso4", "file": "toy.safetensors", "sha256": "0" * 64, "bytes": 1, "licence": "x",
    "training_data": "x", "polarity": "fake=1", "threshold": 0.5,
}  # fmt: skip
FITTED = {"domain": "clips", "kinds": ["video"], "n_real": 200, "n_fake": 300, "slope": 0.5, "offset": 0.0,
          "log10_bounds": [-1.5, 1.5]}  # fmt: skip
TESTED = {"measures": {"side": [100, None], "sharpness": [3, 900], "tilt": [None, 20.0]}}


def scores(n_real=400, n_fake=200, distance=2.0, seed=0):
    """Labels and P(fake) whose logits are normal with unit variance, so that the LR is known: ln LR = distance * x."""
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.normal(-distance / 2, 1, n_real), rng.normal(distance / 2, 1, n_fake)])
    return np.repeat([0, 1], [n_real, n_fake]), 1 / (1 + np.exp(-x)), x


def test_the_fitted_ratio_is_that_of_the_distributions_whatever_the_share_of_fakes():
    for n_real, n_fake in ((20_000, 20_000), (20_000, 2_000)):
        fitted = calibration.fit_likelihood_ratio(*scores(n_real, n_fake)[:2])
        assert fitted["slope"] * np.log(10) == pytest.approx(2.0, abs=0.1)
        assert fitted["offset"] == pytest.approx(0, abs=0.05)


def test_no_ratio_exceeds_what_the_number_of_scores_supports():
    labels, separable = np.repeat([0, 1], 50), np.repeat([0.001, 0.999], 50)
    low, high = calibration.fit_likelihood_ratio(labels, separable)["log10_bounds"]
    assert high == pytest.approx(np.log10(51), abs=1e-3) and low == pytest.approx(-np.log10(51), abs=1e-3)
    # By hand: 2 of 10 fakes and 0 of 9 genuine faces reach 1, so an LR of 10^0.3 (2 of 10 over 1 of 10) is supported.
    values, fake = [1.0] * 2 + [-0.1] * 17, [1] * 10 + [0] * 9
    assert calibration.bounds(fake, values)[1] == pytest.approx(np.log10(2))
    # Scores that say nothing support no ratio.
    rng = np.random.default_rng(1)
    assert max(map(abs, calibration.bounds(rng.integers(0, 2, 300), rng.normal(0, 1, 300)))) < 0.5
    labels, probabilities, _ = scores()
    fitted = calibration.fit_likelihood_ratio(labels, probabilities)
    assert calibration.apply(fitted, [0.0, 1.0]).tolist() == fitted["log10_bounds"]
    assert fitted["log10_bounds"][1] <= np.log10(401) and fitted["log10_bounds"][0] >= -np.log10(201)


def test_cllr_by_hand_and_its_minimum():
    assert calibration.cllr([0, 1], [0.0, 0.0]) == pytest.approx(1)
    assert calibration.cllr([1, 0], np.log10([3, 1 / 3])) == pytest.approx(np.log2(4 / 3))
    assert calibration.cllr([1, 0], [-1.0, 1.0]) > 1
    assert calibration.cllr_min([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4]) == 0
    assert calibration.cllr_min([0, 1] * 5, [0.5] * 10) == pytest.approx(1)
    labels, probabilities, x = scores()
    best = calibration.cllr_min(labels, probabilities)
    assert best <= calibration.cllr(labels, 2 * x / np.log(10)) <= best + 0.06


def test_cross_fitting_keeps_a_source_out_of_its_own_calibration():
    labels, probabilities, _ = scores(60, 60)
    sources = np.arange(120) // 2
    values = calibration.cross_fitted(labels, probabilities, sources.tolist())
    moved = probabilities.copy()
    moved[:2] = 1 - moved[:2]  # both of source 0, whose own values follow their scores by the same map
    again = calibration.cross_fitted(labels, moved, sources.tolist())
    order = np.argsort(probabilities)
    assert np.all(values[:2] != again[:2]) and np.corrcoef(values[order], np.arange(120))[0, 1] > 0.9
    curve = calibration.tippett(labels, values)
    assert curve["real"][0] == curve["fake"][0] == 1 and np.all(np.diff(curve["fake"]) <= 0)
    assert len(curve["log10_lr"]) == len(curve["real"]) <= 100


@pytest.mark.parametrize(
    ("value", "words"),
    [(1.9, "no support"), (0.6, "no support"), (2, "weak support for fake over real"),
     (0.5, "weak support for real over fake"), (10, "moderate support for fake"), (1 / 150, "moderately strong"),
     (1e3, "strong"), (1e4, "very strong"), (1e6, "extremely strong")],
)  # fmt: skip
def test_the_verbal_scale_of_enfsi(value, words):
    assert evidence.support(value).startswith(words)


def test_the_ratio_nearest_to_one_counts():
    weak = FITTED | {"domain": "crops", "slope": 0.2}
    record = WeightRecord.from_card(CARD | {"likelihood_ratios": [FITTED, weak]})
    found = evidence.likelihood_ratio(record, "video", 1 / (1 + np.exp(-4)), 1)
    assert [one["value"] for one in found["domains"]] == [31.6, 6.31] and found["value"] == 6.31
    opposed = WeightRecord.from_card(CARD | {"likelihood_ratios": [FITTED, weak | {"offset": -2.0, "slope": 0.1}]})
    assert evidence.likelihood_ratio(opposed, "video", 0.9, 1)["value"] == 1
    for kind, faces, reason in (("image", 1, "kind of input"), ("video", 2, "2 faces"), ("video", 0, "no faces")):
        found = evidence.likelihood_ratio(record, kind, 0.9, faces)
        assert found["value"] is None and found["support"] == "not known" and reason in found["reason"]


@pytest.mark.parametrize(
    "change",
    [{"likelihood_ratios": [FITTED | {"slope": -1}]}, {"likelihood_ratios": [FITTED | {"log10_bounds": [0.5, 1]}]},
     {"likelihood_ratios": [FITTED | {"kinds": ["sound"]}]}, {"likelihood_ratios": "all"},
     {"tested_range": {"measures": {"side": [1]}}}, {"tested_range": [1, 2]}],
)  # fmt: skip
def test_a_card_with_malformed_figures_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        WeightRecord.from_card(CARD | change)


def track(number=0, probability=0.9, **measures):
    return FaceTrack(number, probability, [], measures={"side": 150.0, "sharpness": 50.0} | measures)


def test_a_verdict_that_rests_on_a_face_outside_the_tested_range_is_inconclusive():
    record = WeightRecord.from_card(CARD | {"tested_range": TESTED})
    inside, small, tilted = track(), track(1, side=60.0), track(2, probability=0.1, tilt=45.0)

    def judged(verdict, *faces):
        tested = evidence.compare_with_tested(record, faces)
        return tested["status"], evidence.tested_verdict(verdict, rule_for(record, len(faces)), faces, tested)

    assert judged("fake", inside) == ("inside", "fake") and judged("fake", small) == ("outside", "inconclusive")
    # One face that is fake by itself is enough; all must be real.
    assert judged("fake", inside, tilted) == ("outside", "fake")
    assert judged("real", track(probability=0.1), tilted) == ("outside", "inconclusive")
    assert judged("inconclusive", small) == ("outside", "inconclusive")
    tested = evidence.compare_with_tested(record, [small, tilted])
    note = evidence.outside_note(tested)
    assert note.startswith("outside the tested range: size of the face crop in pixels 60, tested from 100")
    assert "tilt of the head in degrees 45, tested to 20" in note
    unknown = WeightRecord.from_card(CARD)
    assert evidence.compare_with_tested(unknown, [small]) == {"status": "not_known", "outside": []}
    found = Detection("a.mp4", "video", "ok", 0.9, "inconclusive", frames_scored=1, frames_requested=1)
    found.tested_range, found.likelihood_ratio = tested, evidence.likelihood_ratio(unknown, "video", 0.9, 1)
    page = render_report([found], {"threshold": 0.5})
    assert "outside the tested range" in page and "Likelihood ratio" in page and "not known: the model card" in page
    for value, words in ((1, "is as probable for a fake as"), (0.25, "is 4 times as probable for a genuine face as")):
        found.likelihood_ratio = {"value": value, "support": "", "domains": []}
        assert f"A score like this {words}" in render_report([found], {"threshold": 0.5})


def test_measures_follow_what_they_measure():
    rng = np.random.default_rng(0)
    face = cv2.GaussianBlur(rng.integers(0, 256, (256, 256, 3), np.uint8), (0, 0), 1.5)
    points = np.array([[90, 100], [166, 100], [128, 150], [100, 190], [156, 190]], float)
    plain = measure_face(face, face, points)
    assert plain.keys() == MEASURES.keys() and plain["turn"] == 0 and plain["tilt"] == 0 and plain["side"] == 256
    assert measure_face(face, cv2.GaussianBlur(face, (0, 0), 3), points)["sharpness"] < plain["sharpness"] / 10
    blocks = []
    for quality in (90, 30, 8):
        coded = cv2.imdecode(cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
        # The grid is found at any phase.
        values = [measure_face(coded[n:, n:], coded)["blockiness"] for n in (0, 3)]
        assert values[0] == pytest.approx(values[1], rel=0.3)
        blocks.append(values[0])
    assert blocks[0] < blocks[1] < blocks[2] and blocks[2] > 3 * plain["blockiness"]
    turned = points.copy()
    turned[2, 0] += 30
    roll = cv2.getRotationMatrix2D((128, 128), 25, 1)
    rolled = np.column_stack([turned, np.ones(5)]) @ roll.T
    measured = measure_face(face[:40, :50], face, rolled)
    assert measured["tilt"] == pytest.approx(25, abs=0.1) and measured["side"] == 40
    assert measured["turn"] == pytest.approx(30 / 76, abs=0.01)
    assert measure_face(face[:9, :9], face, np.zeros((5, 2))).keys() == {"side", "sharpness"}


def test_groups_come_from_the_names_of_utkface_with_exact_intervals():
    from tools.evidence import _share, utkface_groups

    assert utkface_groups("63_1_2_20170105174847679.jpg.chip.jpg") == [
        ("age", "60 and over"), ("sex", "female"), ("skin group", "Asian"),
    ]  # fmt: skip
    assert utkface_groups("29_0_20170109142408075.jpg")[2] == ("skin group", "not stated")
    row = _share("sex", "male", ["fake"] + ["real"] * 464)
    assert row["fpr_ci95"] == [0.0001, 0.0119] and _share("sex", "male", ["real"] * 20)["fpr_ci95"] == [0.0, 0.1684]


@pytest.mark.parametrize("handle", [DEFAULT_MODEL, ALIASES["fast"]])
def test_a_card_has_these_figures_within_what_its_scores_support(handle):
    record = list_records()[handle]
    assert {kind for one in record.likelihood_ratios for kind in one["kinds"]} == {"image", "video"}
    for one in record.likelihood_ratios:
        low, high = one["log10_bounds"]
        assert high <= np.log10(one["n_real"] + 1) and -low <= np.log10(one["n_fake"] + 1)
    assert record.tested_range["measures"].keys() == MEASURES.keys()
    card = record.card
    assert max(card["tested_range_shares"]["outside"].values()) <= 0.02
    for scored in card["likelihood_ratio_scores"]:
        assert scored["cllr_min"] < scored["cllr"] < 1
    kinds = {group["by"] for group in card["false_positives"]}
    assert kinds == {"data set", *(f"photographs by {one}" for one in ("age", "sex", "skin group"))}


def test_each_heading_of_the_self_assessment_has_the_figures_of_the_card_or_says_not_measured():
    text = (Path(__file__).parent.parent / "docs" / "assessment.md").read_text("utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert rows[0] == ["heading", "what there is", "measured", "what is missing"] and len(rows) == 9
    for heading, _, measured, _ in rows[1:]:
        assert re.search(r"\d", measured) or "not measured" in measured, heading
    card = list_records()[DEFAULT_MODEL].card
    domains = {one["set"]: one for one in card["domains"]}
    stated = [
        "AUC " + shown(domains["ffpp: by video"], "auc"),
        f"fake {domains['ffpp: by video']['real_called_fake']:.3f}",
        f"fake {domains['ffpp: by video']['fake_called_fake']:.3f}",
        "swapped: AUC " + shown(domains["swapped: all"], "auc"),
        "CRF 40: AUC " + shown(domains["degraded: H.264, CRF 40"], "auc"),
        "CRF 32: " + shown(domains["degraded: H.264, CRF 32"], "auc"),
        "sigma 2: " + shown(domains["degraded: Gaussian blur, sigma 2"], "auc"),
        "Cllr " + shown(card["likelihood_ratio_scores"][0], "cllr"),
    ]
    for group in card["false_positives"]:
        if group["by"] == "photographs by sex":
            word = {"female": "women", "male": "men"}[group["group"]]
            stated.append(f"{word} {shown(group, 'fpr')} of {group['n_real']}")
    for kind, words in (("age", "ages"), ("skin group", "skin groups")):
        rates = [group["fpr"] for group in card["false_positives"] if group["by"] == f"photographs by {kind}"]
        stated.append(f"{words} {min(rates):.3f} to {max(rates):.3f}")
    assert [one for one in stated if one not in text] == []


def shown(figures, name):
    low, high = figures[f"{name}_ci95"]
    return f"{figures[name]:.3f} [{low:.3f}, {high:.3f}]"
