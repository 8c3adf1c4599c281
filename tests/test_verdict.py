"""Pooling of single scores into the score and verdict of a clip."""

import math

import numpy as np
import pytest

from tfdfd.detect.results import Detection, FaceTrack, FrameScore, printable_path
from tfdfd.detect.verdict import BOUND, choose_deciding, clip_score, rule_for, verdict_of
from tfdfd.metrics import TooFewError
from tfdfd.metrics.calibration import genuine_tails
from tfdfd.weights import DEFAULT_MODEL, WeightRecord, find_record

SAMPLED = list(range(0, 320, 10))


CARD = {"handle": "tfdfd/meso4.toy", "model": "meso4", "file": "toy.safetensors", "sha256": "0" * 64, "bytes": 1}
CARD |= {"licence": "none", "training_data": "none", "polarity": "fake=1", "threshold": 0.5}


def track(number, indices, probability=0.5, confidence=0.999, side=90):
    frames = [FrameScore(i, i / 25, (0, 0, side, side + 20), confidence, probability) for i in indices]
    return FaceTrack(number, probability, frames)


def deciding(tracks, sampled=(0,), detector="mtcnn"):
    note = choose_deciding(tracks, list(sampled), detector)
    assert all(track.decides == (track.left_out is None) for track in tracks)
    return [track for track in tracks if track.decides], note


@pytest.mark.parametrize(
    ("probability", "threshold", "band", "verdict"),
    [
        (0.5, 0.5, None, "fake"),
        (0.499999, 0.5, None, "real"),
        (1.0, 1.0, None, "fake"),
        (0.0, 0.0, None, "fake"),
        (0.4, 0.5, (0.4, 0.6), "inconclusive"),
        (0.6, 0.5, (0.4, 0.6), "inconclusive"),
        (0.61, 0.5, (0.4, 0.6), "fake"),
        (0.39, 0.5, (0.4, 0.6), "real"),
    ],
)
def test_verdict(probability, threshold, band, verdict):
    assert verdict_of(probability, threshold, band) == verdict


def test_the_worst_of_two_people_decides():
    both = [track(0, SAMPLED, 0.1), track(1, SAMPLED, 0.9)]
    kept, note = deciding(both, SAMPLED)
    assert kept == both and note is None
    assert clip_score(kept) == 0.9


@pytest.mark.parametrize(
    ("other", "left_out"),
    [
        (track(1, SAMPLED[:10]), None),  # a person who leaves
        (track(1, SAMPLED[5:6]), "passing"),  # seen once
        (track(1, SAMPLED, confidence=0.9), "doubtful"),  # the detector itself doubts it
        (track(1, SAMPLED[::3]), "passing"),  # comes and goes, as patterns in the background do
        (track(1, SAMPLED[::2]), None),
        (track(1, SAMPLED, confidence=None), None),  # a detector without confidences is believed
        (track(1, SAMPLED, side=39), "small"),
        (track(1, SAMPLED, side=40), None),
    ],
)
def test_which_second_faces_decide(other, left_out):
    kept, note = deciding([track(0, SAMPLED), other], SAMPLED)
    assert (other.left_out, other in kept) == (left_out, left_out is None)
    assert note == (left_out and f"1 {left_out} face does not decide")


def test_a_small_face_beside_a_large_one_is_a_bystander():
    kept, _ = deciding([track(0, [0], side=200), track(1, [0], side=60), track(2, [0], side=70)])
    assert [each.track for each in kept] == [0, 2]
    kept, _ = deciding([track(0, [0], side=100), track(1, [0], side=60)])
    assert len(kept) == 2


def test_the_longest_track_decides_if_the_detector_is_fairly_sure():
    only = track(0, SAMPLED[3:4], confidence=0.81)
    assert deciding([only], SAMPLED) == ([only], None)
    assert deciding([track(0, SAMPLED, confidence=0.79)], SAMPLED) == ([], "the face is too doubtful to decide")


def test_a_small_face_alone_does_not_decide_however_long_it_is_seen():
    assert deciding([track(0, SAMPLED, side=22)], SAMPLED) == ([], "the face is too small to decide")
    both = [track(0, SAMPLED, side=22), track(1, SAMPLED[4:5], side=80)]
    assert deciding(both, SAMPLED)[0] == both[1:]
    assert "all 2 faces are too small" in deciding([track(0, [0], side=22), track(1, [0], side=30)])[1]


def test_in_an_image_the_surest_face_and_all_sure_ones_decide():
    sure, less, doubtful = track(0, [0], confidence=0.97), track(1, [0], confidence=0.99), track(2, [0], confidence=0.9)
    kept, note = deciding([sure, less, doubtful])
    assert kept == [sure, less] and "1 doubtful" in note


def record_of(**more):
    return WeightRecord.from_card(CARD | more)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize("faces", [2, 4, 6, 9, 30, 200])
@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_groups_of_genuine_faces_are_called_fake_no_more_often_than_promised(faces, spread):
    """Over many validation sets, of two domains; beyond what a set can show, the tail is heavier than a normal one."""
    rng, rates = np.random.default_rng(faces), []
    for _ in range(100):
        easy, hard = sigmoid(rng.normal(-3, spread, 400)), sigmoid(rng.normal(-1, spread, 150))
        rule = rule_for(record_of(genuine_tails=genuine_tails({"easy": easy, "hard": hard})), faces)
        assert rule.correction == "validation"
        worst = sigmoid(rng.normal(-1, spread, (200, faces)).max(1))
        rates.append(np.mean([rule.verdict(score) == "fake" for score in worst]))
    # The plain threshold of 0.5 has up to 100 %.
    assert np.mean(rates) <= BOUND + 2 * np.std(rates) / 10


def test_the_threshold_rises_with_the_faces_and_the_low_end_stays():
    record = find_record(DEFAULT_MODEL)
    low, high = record.inconclusive_band
    one = rule_for(record, 1)
    assert (one.threshold, one.band, one.correction, one.note) == (high, (low, high), "none", None)
    assert rule_for(record, 0) == one
    rules = [rule_for(record, faces) for faces in (1, 2, 3, 6, 12, 50, 1024)]
    thresholds = [rule.threshold for rule in rules]
    assert thresholds == sorted(thresholds) and high < thresholds[1] < 0.95 and thresholds[-1] > 0.999
    assert all(rule.band == (low, rule.threshold) and rule.correction == "validation" for rule in rules[1:])
    assert rules[3].note == f"the threshold is {thresholds[3]:.3f} instead of {high:.3f}, corrected for 6 faces"


def test_a_card_without_tails_is_read_from_its_operating_points():
    points = {"fpr_5": {"threshold": 0.7, "fpr": 0.05}, "fpr_1": {"threshold": 0.9, "fpr": 0.01}}
    record = record_of(operating_points=points, inconclusive_band=[0.3, 0.7])
    rule = rule_for(record, 5)  # of which each may be called fake at a rate of 1.02 %
    assert rule.correction == "operating_points" and rule.band == (0.3, rule.threshold)
    assert rule.threshold == pytest.approx(0.899, abs=2e-3)
    for points in ({"fpr_5": {"threshold": 0.7, "fpr": 0.05}, "fpr_1": {"threshold": None}}, [], {"fpr_5": 1}):
        assert rule_for(record_of(operating_points=points), 5).correction == "odds"


def test_a_card_with_nothing_multiplies_the_odds():
    rule = rule_for(record_of(threshold=0.6), 4)
    assert math.isclose(rule.threshold / (1 - rule.threshold), 4 * 0.6 / 0.4, rel_tol=1e-4)
    # What would be called fake on a face alone is never called real beside others.
    assert rule.band == (0.6, rule.threshold)
    assert [rule.verdict(score) for score in (0.59, 0.6, 0.85, 0.9)] == ["real", "inconclusive", "inconclusive", "fake"]
    assert "by the odds" in rule.note


def test_a_given_threshold_is_not_corrected_and_that_is_said():
    for faces in (1, 6):
        rule = rule_for(find_record(DEFAULT_MODEL), faces, 0.3)
        assert (rule.threshold, rule.band, rule.correction) == (0.3, None, "given")
    assert "without a correction" in rule.note


def test_a_tail_needs_as_many_faces_as_the_promise():
    with pytest.raises(TooFewError, match="19 genuine"):
        genuine_tails({"few": np.linspace(0.1, 0.5, 19)})
    [tail] = genuine_tails({"all": np.linspace(0, 0.999, 1000)})
    assert (tail["n"], tail["n_above"], len(tail["highest"]), tail["highest"][0]) == (1000, 200, 25, 0.999)


@pytest.mark.parametrize(
    "change",
    [{"n": 5}, {"n": 20.0}, {"n": 10**400}, {"highest": []}, {"highest": [0.5, 0.6]}, {"highest": [1.2]},
     {"highest": "0.5"}, {"mean_excess": -1}, {"mean_excess": float("nan")}, {"n_above": 0}, {"n_above": None}],
)  # fmt: skip
def test_a_damaged_tail_is_refused(change):
    tail = {"domain": "x", "n": 20, "highest": [0.6, 0.5], "n_above": 10, "mean_excess": 1}
    assert record_of(genuine_tails=[tail]).genuine_tails == (tail,)
    with pytest.raises(ValueError, match="genuine_tails must have"):
        record_of(genuine_tails=[tail | change])


def test_no_status_but_ok_has_a_score():
    with pytest.raises(ValueError, match="for status 'ok' and for no other"):
        Detection("a.jpg", "image", "no_face", fake_probability=0.5)
    with pytest.raises(ValueError, match="for status 'ok' and for no other"):
        Detection("a.jpg", "image", "ok")
    with pytest.raises(ValueError, match="status must be one of"):
        Detection("a.jpg", "image", "maybe")


def test_any_file_name_becomes_text():
    import os

    assert printable_path(os.fsdecode(b"caf\xe9.mp4")) == r"caf\xe9.mp4"
    assert printable_path("日本.mp4") == "日本.mp4"
    assert printable_path("\ud800.mp4") == r"\ud800.mp4"
