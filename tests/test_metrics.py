"""Metrics against scikit-learn, against cases counted by hand, and against what they must be by definition."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.optimize import brentq
from sklearn import metrics as reference

from tfdfd.metrics import (
    METRICS,
    Confusion,
    LabelError,
    LengthError,
    MetricError,
    OneClassError,
    ScoreError,
    TooFewError,
    accuracy,
    auc,
    average_precision,
    balanced_accuracy,
    brier,
    calibration_error,
    class_table,
    confusion,
    equal_error_rate,
    log_loss,
    no_better_than_majority,
    precision_recall_curve,
    reliability,
    roc_curve,
    thinned,
    tpr_at_fpr,
)

EXACT = {"rel": 0, "abs": 1e-9}
# Two real and three fake ones; one real and one fake have the same score.
LABELS = [0, 0, 1, 1, 1]
SCORES = [0.2, 0.6, 0.6, 0.7, 0.1]


def at(metric, threshold=0.5):
    return lambda labels, scores: metric(labels, scores, threshold)


# A new row of the registry takes part in every test over ALL.
ALL = {name: at(metric.function) if metric.at_threshold else metric.function for name, metric in METRICS.items()}
ALL["tpr_at_fpr_50"] = at(tpr_at_fpr, 0.5)
NEED_BOTH_CLASSES = ("auc", "eer", "average_precision", "balanced_accuracy", "tpr_at_fpr_50")
DEFINED_FOR_ONE_CLASS = ("accuracy", "log_loss", "brier", "ece", "ece_debiased")
debiased_calibration_error = METRICS["ece_debiased"].function


@st.composite
def judged(draw, grid=None):
    """Labels with both classes, and scores, of which many are equal."""
    size = draw(st.integers(2, 60))
    labels = draw(arrays.arrays(np.int64, size, elements=st.integers(0, 1)))
    assume(0 < labels.sum() < size)
    steps = grid or draw(st.sampled_from([1, 3, 10, 10**6]))
    return labels, draw(arrays.arrays(np.int64, size, elements=st.integers(0, steps))) / steps


def test_hand_counted():
    # Six pairs: the fake is above in 0.6>0.2, 0.7>0.2, 0.7>0.6, even in 0.6=0.6.
    assert auc(LABELS, SCORES) == pytest.approx(3.5 / 6, **EXACT)
    curve = roc_curve(LABELS, SCORES)
    assert curve.thresholds.tolist() == [math.inf, 0.7, 0.6, 0.2, 0.1]
    assert curve.fpr.tolist() == [0, 0, 0.5, 1, 1]
    assert curve.tpr == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 1], **EXACT)
    # From (0, 1/3) to (1/2, 2/3) the line is tpr = 1/3 + 2/3 fpr, which is 1 - fpr at 2/5.
    assert equal_error_rate(LABELS, SCORES) == pytest.approx(0.4, **EXACT)
    # Recall steps of 1/3 at precisions 1, 2/3 and 3/5.
    assert average_precision(LABELS, SCORES) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3, **EXACT)
    assert confusion(LABELS, SCORES, 0.6) == Confusion(1, 1, 1, 2)
    assert accuracy(LABELS, SCORES, 0.6) == pytest.approx(3 / 5, **EXACT)
    assert balanced_accuracy(LABELS, SCORES, 0.6) == pytest.approx((1 / 2 + 2 / 3) / 2, **EXACT)
    assert tpr_at_fpr(LABELS, SCORES, 0.5) == pytest.approx(2 / 3, **EXACT)
    assert log_loss(LABELS, SCORES) == pytest.approx(-math.log(0.8 * 0.4 * 0.6 * 0.7 * 0.1) / 5, **EXACT)
    assert brier(LABELS, SCORES) == pytest.approx((0.04 + 0.36 + 0.16 + 0.09 + 0.81) / 5, **EXACT)
    # Bins of five different places but for the equal two: |0.1-1| + |0.2-0| + 2 |0.6-1/2| + |0.7-1|.
    assert calibration_error(LABELS, SCORES) == pytest.approx((0.9 + 0.2 + 0.2 + 0.3) / 5, **EXACT)


@settings(max_examples=100, deadline=None)
@given(judged(), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_as_scikit_learn(case, threshold):
    labels, scores = case
    assert auc(labels, scores) == pytest.approx(reference.roc_auc_score(labels, scores), **EXACT)
    assert average_precision(labels, scores) == pytest.approx(
        reference.average_precision_score(labels, scores), **EXACT
    )
    assert brier(labels, scores) == pytest.approx(reference.brier_score_loss(labels, scores), **EXACT)
    inner = np.clip(scores, 1e-6, 1 - 1e-6)
    assert log_loss(labels, inner) == pytest.approx(reference.log_loss(labels, inner), **EXACT)
    fpr, tpr, thresholds = reference.roc_curve(labels, scores, drop_intermediate=False)
    curve = roc_curve(labels, scores)
    for ours, theirs in ((curve.fpr, fpr), (curve.tpr, tpr), (curve.thresholds, thresholds)):
        assert ours == pytest.approx(theirs, **EXACT)
    precision, recall, thresholds = reference.precision_recall_curve(labels, scores)
    curve = precision_recall_curve(labels, scores)
    for ours, theirs in (
        (curve.precision, precision[:-1]),
        (curve.recall, recall[:-1]),
        (curve.thresholds, thresholds),
    ):
        assert ours[::-1] == pytest.approx(theirs, **EXACT)
    called = scores >= threshold
    assert balanced_accuracy(labels, scores, threshold) == pytest.approx(
        reference.balanced_accuracy_score(labels, called), **EXACT
    )
    found = confusion(labels, scores, threshold)
    assert list(found.counts().values()) == reference.confusion_matrix(labels, called, labels=[0, 1]).ravel().tolist()
    table = reference.classification_report(labels, called, labels=[0, 1], output_dict=True, zero_division=np.nan)
    for ours, theirs in (("real", "0"), ("fake", "1"), ("macro", "macro avg"), ("weighted", "weighted avg")):
        for name, value in class_table(found)[ours].items():
            name = {"f1": "f1-score"}.get(name, name)
            if value is not None:
                assert value == pytest.approx(table[theirs][name], **EXACT)
            elif ours in ("real", "fake"):
                assert math.isnan(table[theirs][name])


@given(judged())
def test_equal_error_rate_is_where_the_drawn_curve_meets_the_diagonal(case):
    labels, scores = case
    curve = roc_curve(labels, scores)
    place = np.arange(len(curve.fpr))
    fpr, miss = (lambda x: np.interp(x, place, curve.fpr)), (lambda x: 1 - np.interp(x, place, curve.tpr))
    found = brentq(lambda x: fpr(x) - miss(x), 0, place[-1], xtol=1e-13)
    assert equal_error_rate(labels, scores) == pytest.approx(fpr(found), **EXACT)
    assert equal_error_rate(labels, scores) == pytest.approx(miss(found), **EXACT)


@given(judged(grid=50), st.sampled_from([np.sqrt, np.square, lambda p: 0.2 + p / 3, lambda p: p**3]))
def test_rising_maps_change_no_ranking(case, rising):
    labels, scores = case
    for metric in (auc, equal_error_rate, average_precision):
        assert metric(labels, rising(scores)) == pytest.approx(metric(labels, scores), **EXACT)


@given(judged(grid=64))
def test_turned_round_both_ways_is_the_same(case):
    labels, scores = case
    assert auc(1 - labels, 1 - scores) == pytest.approx(auc(labels, scores), **EXACT)
    assert auc(labels, 1 - scores) == pytest.approx(1 - auc(labels, scores), **EXACT)
    assert equal_error_rate(1 - labels, 1 - scores) == pytest.approx(equal_error_rate(labels, scores), **EXACT)
    for metric in (log_loss, brier):
        assert metric(1 - labels, 1 - scores) == pytest.approx(metric(labels, scores), **EXACT)


@given(judged(), st.randoms(use_true_random=False))
def test_the_order_of_examples_changes_nothing(case, random):
    labels, scores = case
    order = list(range(len(labels)))
    random.shuffle(order)
    for metric in ALL.values():
        try:
            expected = metric(labels, scores)
        except TooFewError:
            continue
        assert metric(labels[order], scores[order]) == pytest.approx(expected, **EXACT)


def test_tpr_at_fpr_needs_enough_real_ones():
    rng = np.random.default_rng(0)
    labels, scores = np.repeat([0, 1], [100, 50]), rng.random(150)
    reals = np.sort(scores[:100])[::-1]
    # One real one of a hundred may be called fake: any threshold above the second highest.
    assert tpr_at_fpr(labels, scores, 0.01) == (scores[100:] > reals[1]).mean()
    assert tpr_at_fpr(labels, scores, 0.05) == (scores[100:] > reals[5]).mean()
    with pytest.raises(TooFewError, match="28 real examples cannot show an error rate of 0.01: .* at least 100"):
        tpr_at_fpr(labels[72:], scores[72:], 0.01)


def test_equal_mass_bins():
    rng = np.random.default_rng(1)
    scores = rng.random(1000)
    labels = rng.random(1000) < scores
    found = reliability(labels, scores)
    assert {part.count for part in found} == {66, 67}
    assert sum(part.count for part in found) == 1000 and len(found) == 15
    edges = [value for part in found for value in (part.low, part.high)]
    assert edges == sorted(edges)
    assert sum(part.count * part.score for part in found) == pytest.approx(scores.sum(), **EXACT)
    assert sum(part.count * part.fakes for part in found) == pytest.approx(labels.sum(), **EXACT)
    assert len(reliability(labels, np.full(1000, 0.3))) == 1


def test_debiasing_takes_off_what_chance_adds():
    rng = np.random.default_rng(2)
    plain, debiased, shifted = [], [], []
    for _ in range(200):
        scores = rng.random(300)
        labels = rng.random(300) < scores
        plain.append(calibration_error(labels, scores))
        debiased.append(debiased_calibration_error(labels, scores))
        shifted.append(debiased_calibration_error(rng.random(300) < scores * 0.6, scores))
    # A calibrated model: its error is 0, of which the plain estimate knows nothing.
    assert 0.05 < np.mean(plain) < 0.1
    assert np.mean(debiased) < 0.65 * np.mean(plain)
    # The error of P(fake) p where the share is 0.6 p is 0.4 p, 0.2 in the mean.
    assert np.mean(shifted) == pytest.approx(0.2, abs=0.01)


def test_debiased_by_draws():
    """The closed form against what it stands for: normal draws around each bin's error."""
    labels, scores = np.array([0, 1, 1, 0, 1, 1, 1, 0]), np.linspace(0.3, 0.6, 8)
    (part,) = reliability(labels, scores, bins=1)
    error, spread = abs(part.score - part.fakes), math.sqrt(part.fakes * (1 - part.fakes) / 8)
    draws = np.abs(np.random.default_rng(0).normal(error, spread, 10**6)).mean()
    expected = max(0, 2 * error - draws)
    assert calibration_error(labels, scores, bins=1, debiased=True) == pytest.approx(expected, abs=1e-3)


def test_all_fake_is_no_better_than_the_majority():
    always = confusion(np.repeat([0, 1], [14, 86]), np.full(100, 0.9), 0.5)
    assert (always.accuracy, always.majority, always.balanced_accuracy) == (0.86, 0.86, 0.5)
    assert no_better_than_majority(always)
    # One real one found by luck: accuracy is above the majority's, but not surely.
    assert no_better_than_majority(Confusion(1, 13, 0, 86))
    assert not no_better_than_majority(Confusion(12, 2, 2, 84))
    # A model of use that still has a lower accuracy than a constant answer.
    assert no_better_than_majority(Confusion(11, 3, 16, 70))
    assert not no_better_than_majority(Confusion(40, 10, 10, 40))
    assert no_better_than_majority(Confusion(26, 24, 24, 26))
    assert no_better_than_majority(Confusion(0, 0, 10, 90))
    # 14 gained and 6 lost: (8 - 1) / sqrt(20) is 1.57, below 1.64; 15 and 6 give 1.75.
    assert no_better_than_majority(Confusion(14, 36, 6, 94))
    assert not no_better_than_majority(Confusion(15, 35, 6, 94))


def test_chance_passes_the_majority_test_in_five_of_a_hundred():
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], [300, 300])
    passed = [not no_better_than_majority(confusion(labels, rng.random(600), 0.5)) for _ in range(2000)]
    assert np.mean(passed) < 0.06


def test_shares_of_nothing_are_none():
    table = class_table(Confusion(0, 14, 0, 86))
    assert table["real"] == {"precision": None, "recall": 0.0, "f1": 0.0, "support": 14}
    assert table["macro"]["precision"] is None and table["macro"]["recall"] == 0.5
    only = Confusion(0, 0, 3, 7)
    assert only.fpr is None and only.balanced_accuracy is None and only.accuracy == 0.7
    assert class_table(only)["real"]["recall"] is None
    assert class_table(only)["weighted"]["recall"] == 0.7


def test_thinned_curves_keep_their_ends():
    rng = np.random.default_rng(4)
    curve = roc_curve(rng.integers(0, 2, 5000), rng.random(5000))
    few = thinned(curve, 100)
    assert len(few.fpr) == len(few.tpr) == len(few.thresholds) == 100
    assert (few.fpr[0], few.tpr[0], few.fpr[-1], few.tpr[-1]) == (0, 0, 1, 1)
    assert thinned(few, 500).fpr.tolist() == few.fpr.tolist()


@pytest.mark.parametrize("metric", ALL.values(), ids=ALL)
@pytest.mark.parametrize(
    ("labels", "scores", "error", "told"),
    [
        ([0, 1], [0.1, math.nan], ScoreError, r"1 of 2 are not, the first at index 1: nan"),
        ([0, 1], [0.1, 1.2], ScoreError, r"index 1: 1.2. Pass probabilities, after the sigmoid"),
        ([0, 1], [-0.1, math.inf], ScoreError, "2 of 2 are not"),
        ([0, 1], ["a", "b"], ScoreError, "scores must be numbers"),
        ([0, 1, 1], [0.1, 0.2], LengthError, r"labels have shape \(3,\) and scores \(2,\)"),
        ([[0], [1]], [[0.1], [0.2]], LengthError, r"scores have shape \(2, 1\); expected \(n,\)"),
        ([], [], LengthError, "n of at least 1"),
        ([0, 2], [0.1, 0.2], LabelError, r"must be 0 \(real\) or 1 \(fake\); received \[2\]"),
        ([0, math.nan], [0.1, 0.2], LabelError, "received .nan."),
        (["real", "fake"], [0.1, 0.2], LabelError, "received .'fake', 'real'."),
    ],
)
def test_what_is_none_is_told(metric, labels, scores, error, told):
    with pytest.raises(error, match=told):
        metric(labels, scores)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_told_where_two_are_needed(label):
    for name, metric in ALL.items():
        try:
            value = metric([label] * 3, [0.1, 0.5, 0.9])
        except OneClassError as error:
            assert name not in DEFINED_FOR_ONE_CLASS
            assert f"all 3 examples are {'fake' if label else 'real'}" in str(error)
        else:
            assert name not in NEED_BOTH_CLASSES and 0 <= value < 2


def test_arguments_out_of_range():
    with pytest.raises(ScoreError, match="threshold on P.fake. must be in .0, 1.; received nan"):
        confusion(LABELS, SCORES, math.nan)
    with pytest.raises(ValueError, match="bins must be at least 1"):
        calibration_error(LABELS, SCORES, bins=0)
    with pytest.raises(ValueError, match="error rate must be between 0 and 1; received 1"):
        tpr_at_fpr(LABELS, SCORES, 1)
    assert issubclass(MetricError, ValueError)
