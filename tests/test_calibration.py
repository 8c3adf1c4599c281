"""Calibration against scikit-learn and known truths; operating points and the inconclusive band do what they say."""

import json
import math
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from tfdfd.detect.verdict import verdict_of
from tfdfd.metrics import CalibrationError, OneClassError, ScoreError, TooFewError, auc, confusion, log_loss
from tfdfd.metrics.calibration import (
    METHODS,
    Isotonic,
    Platt,
    Temperature,
    fit,
    from_dict,
    inconclusive_band,
    logits,
    operating_points,
    to_dict,
)

EXACT = {"rel": 0, "abs": 1e-9}


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def drawn(size, slope=1.0, offset=0.0, seed=0):
    """Scores whose calibrated P(fake) is sigmoid(slope * logit + offset), and labels drawn by it."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 2, size)
    return (rng.random(size) < sigmoid(slope * values + offset)).astype(int), sigmoid(values)


@st.composite
def overlapping(draw):
    """Labels and scores, many of them equal, the fakes higher in the mean, but not all of them."""
    size, steps = draw(st.integers(10, 80)), draw(st.sampled_from([5, 20, 10**6]))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    labels = np.concatenate([[0, 1], rng.integers(0, 2, size - 2)])
    scores = sigmoid(rng.normal(1.5 * (2 * labels - 1), draw(st.sampled_from([0.5, 2, 5]))))
    return labels, (scores * steps).round() / steps


def test_what_was_put_in_is_found():
    labels, scores = drawn(200_000, slope=0.4, offset=-0.7)
    found = fit("platt", labels, scores, "a set")
    assert (found.slope, found.offset) == (pytest.approx(0.4, abs=0.01), pytest.approx(-0.7, abs=0.02))
    n_real, n_fake = np.bincount(labels)
    assert found.fitted_on == f"a set ({n_real:,} real, {n_fake:,} fake)"
    labels, scores = drawn(200_000, slope=1 / 2.5)
    assert fit("temperature", labels, scores, "a set").temperature == pytest.approx(2.5, abs=0.05)
    found = fit("isotonic", labels, scores, "a set")
    places = np.linspace(0.05, 0.95, 19)
    assert found.apply(places) == pytest.approx(sigmoid(logits(places) / 2.5), abs=0.03)


@settings(max_examples=60, deadline=None)
@given(overlapping())
def test_platt_as_logistic_regression_on_his_targets(case):
    labels, scores = case
    try:
        found = fit("platt", labels, scores, "")
    except CalibrationError:
        assume(False)
    n_real, n_fake = np.bincount(labels)
    targets = np.where(labels == 1, (n_fake + 1) / (n_fake + 2), 1 / (n_real + 2))
    values = logits(scores)[:, None]
    # A target t is an example of each class with the weights t and 1 - t.
    regression = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-13, max_iter=1000)
    regression.fit(
        np.concatenate([values, values]), np.repeat([1, 0], len(labels)), np.concatenate([targets, 1 - targets])
    )
    assert found.apply(scores) == pytest.approx(regression.predict_proba(values)[:, 1], **EXACT)


@settings(max_examples=60, deadline=None)
@given(overlapping(), arrays.arrays(np.float64, 20, elements=st.floats(0, 1)))
def test_isotonic_as_scikit_learn(case, others):
    labels, scores = case
    reference = IsotonicRegression(out_of_bounds="clip").fit(scores, labels)
    assume(reference.y_min is None and len(set(reference.y_thresholds_)) > 1)
    found = fit("isotonic", labels, scores, "")
    for these in (scores, others):
        assert found.apply(these) == pytest.approx(reference.predict(these), **EXACT)


@settings(max_examples=60, deadline=None)
@given(overlapping())
def test_no_other_temperature_is_better(case):
    labels, scores = case
    try:
        found = fit("temperature", labels, scores, "")
    except CalibrationError:
        assume(False)

    def loss(temperature):
        return log_loss(labels, Temperature(temperature, "").apply(scores))

    best = loss(found.temperature)
    for other in (*np.geomspace(0.01, 100, 101), found.temperature * 1.001, found.temperature / 1.001):
        assert best <= loss(other) + 1e-12


@settings(max_examples=60, deadline=None)
@given(overlapping(), st.sampled_from(METHODS), arrays.arrays(np.float64, 30, elements=st.floats(0, 1)))
def test_every_calibration_rises_stays_in_range_and_survives_json(case, method, others):
    try:
        found = fit(method, *case, "validation of a set")
    except CalibrationError:
        assume(False)
    changed = found.apply(np.sort(others))
    assert (np.diff(changed) >= 0).all() and (changed >= 0).all() and (changed <= 1).all()
    again = from_dict(json.loads(json.dumps(to_dict(found), allow_nan=False)))
    assert again == found
    assert again.apply(others).tolist() == found.apply(others).tolist()
    if method != "isotonic":
        labels, scores = case
        assert auc(labels, found.apply(scores)) == pytest.approx(auc(labels, np.clip(scores, 1e-7, 1 - 1e-7)), abs=1e-9)


def test_saturated_scores_stay_finite():
    assert logits([0.0, 0.5, 1.0]) == pytest.approx([-16.118, 0, 16.118], abs=1e-3)
    assert Platt(100.0, 0.0, "").apply([0.0, 1.0]).tolist() == [pytest.approx(0, abs=1e-300), 1.0]
    labels, scores = drawn(500)
    scores[:20] = labels[:20]
    for method in METHODS:
        assert np.isfinite(fit(method, labels, scores, "").apply(scores)).all()


def test_what_nothing_fits_is_an_error():
    labels, scores = np.repeat([0, 1], 50), np.linspace(0.01, 0.99, 100)
    with pytest.raises(CalibrationError, match="separate the classes perfectly. Use platt"):
        fit("temperature", labels, scores, "val")
    assert fit("platt", labels, scores, "val").slope < 100
    for method, told in (("temperature", "uninformative"), ("platt", "slope is -"), ("isotonic", "fit is constant")):
        with pytest.raises(CalibrationError, match=told):
            fit(method, 1 - labels, scores, "val")
    for method, told in (
        ("temperature", "uninformative"),
        ("platt", "all scores on .* are equal"),
        ("isotonic", "is constant"),
    ):
        with pytest.raises(CalibrationError, match=told):
            fit(method, labels, np.full(100, 0.5), "val")
    for method in METHODS:
        with pytest.raises(OneClassError):
            fit(method, np.ones(100), scores, "val")
    with pytest.raises(ValueError, match="one of temperature, platt, isotonic; received 'sigmoid'"):
        fit("sigmoid", labels, scores, "val")


@pytest.mark.parametrize(
    "told",
    [
        {},
        [],
        {"method": "sigmoid"},
        {"method": "platt", "slope": 1.0},
        {"method": "platt", "slope": -1.0, "offset": 0.0, "fitted_on": ""},
        {"method": "platt", "slope": math.nan, "offset": 0.0, "fitted_on": ""},
        {"method": "temperature", "temperature": 0.0, "fitted_on": ""},
        {"method": "temperature", "temperature": "2", "fitted_on": ""},
        {"method": "isotonic", "scores": [0.1, 0.1], "probabilities": [0.2, 0.3], "fitted_on": ""},
        {"method": "isotonic", "scores": [0.1, 0.2], "probabilities": [0.3, 0.2], "fitted_on": ""},
        {"method": "isotonic", "scores": [0.1, 0.2], "probabilities": [0.3], "fitted_on": ""},
        {"method": "isotonic", "scores": [], "probabilities": [], "fitted_on": ""},
    ],
)
def test_a_dict_that_is_no_calibration(told):
    with pytest.raises(CalibrationError, match="not a calibration: "):
        from_dict(told)


def test_scores_that_are_none_are_refused():
    for calibrator in (Temperature(2.0, ""), Platt(1.0, 0.0, ""), Isotonic((0.0, 1.0), (0.2, 0.8), "")):
        with pytest.raises(ScoreError, match="index 1: nan"):
            calibrator.apply([0.5, math.nan])


@pytest.mark.parametrize(
    ("method", "library"),
    [("temperature", "scipy.optimize"), ("platt", "sklearn.linear_model"), ("isotonic", "sklearn.isotonic")],
)
def test_without_its_library_the_extra_is_named(method, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ValueError, match=r"pip install 'tfdfd\[train\]'"):
        fit(method, *drawn(50), "val")


def test_operating_points_by_hand():
    # 100 real ones at 0.005, 0.015, ... and 50 fakes, each between two of the upper half of them.
    labels = np.repeat([0, 1], [100, 50])
    scores = np.concatenate([np.arange(100) / 100 + 0.005, np.arange(50) / 100 + 0.5])
    points = operating_points(labels, scores)
    assert list(points) == ["fpr_1", "fpr_5", "eer", "balanced"]
    one = points["fpr_1"]
    assert (one["n_real"], one["n_fake"]) == (100, 50)
    # One real one, at 0.995, is above; the fake at 0.99 is found; below come 0.985 and then what is no longer allowed.
    assert (one["fpr"], one["tpr"]) == (0.01, 0.02) and one["threshold"] == pytest.approx(0.9875, **EXACT)
    assert (points["fpr_5"]["fpr"], points["fpr_5"]["tpr"]) == (0.05, 0.1)
    # Everything from 0.5 up: all fakes, and half of the real ones.
    assert points["balanced"]["threshold"] == pytest.approx(0.4975, **EXACT)
    assert (points["balanced"]["fpr"], points["balanced"]["tpr"]) == (0.5, 1)
    assert points["balanced"]["balanced_accuracy"] == 0.75
    assert points["eer"]["fpr"] == pytest.approx(1 - points["eer"]["tpr"], abs=0.02)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 150), st.integers(1, 60), st.sampled_from([1, 4, 30, 10**6]), st.integers(0, 10**6))
def test_operating_points_do_what_they_say(reals, fakes, steps, seed):
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [reals, fakes])
    scores = np.clip(rng.integers(0, steps + 1, reals + fakes) / steps * 0.7 + 0.3 * labels * rng.random(), 0, 1)
    points = operating_points(labels, scores)
    json.dumps(points, allow_nan=False)
    every = [confusion(labels, scores, t) for t in (*np.unique(scores), 1.0)]
    for name, point in points.items():
        if point["threshold"] is None:
            assert name in ("fpr_1", "fpr_5") and point["reason"] and point["tpr"] is None
            continue
        found = confusion(labels, scores, point["threshold"])
        assert 0 <= point["threshold"] <= 1
        assert (found.fpr, found.tpr) == (point["fpr"], point["tpr"])
    best = max(one.balanced_accuracy for one in every)
    assert points["balanced"]["balanced_accuracy"] >= best - 1e-12
    for name, rate in (("fpr_1", 0.01), ("fpr_5", 0.05)):
        allowed = [one.tpr for one in every if one.fpr <= rate]
        if reals * rate < 1 - 1e-9:
            assert "real example" in points[name]["reason"]
        elif allowed:
            assert points[name]["fpr"] <= rate and points[name]["tpr"] >= max(allowed)


def test_28_real_ones_show_no_error_rate_of_1_percent():
    rng = np.random.default_rng(0)
    points = operating_points(np.repeat([0, 1], [28, 200]), rng.random(228))
    assert points["fpr_1"]["threshold"] is None and points["fpr_1"]["n_real"] == 28
    assert "28 real examples cannot show an error rate of 0.01" in points["fpr_1"]["reason"]
    assert points["fpr_5"]["fpr"] == 1 / 28


def test_no_threshold_parts_off_real_ones_of_score_1():
    points = operating_points(np.repeat([0, 1], [100, 5]), np.ones(105))
    assert "100.0% of the real examples have the highest score" in points["fpr_1"]["reason"]
    assert (points["balanced"]["tpr"], points["balanced"]["fpr"]) == (1, 1)


def test_thresholds_lie_between_neighbouring_floats():
    low = 0.7
    high = math.nextafter(low, 1)
    points = operating_points([0, 0, 1, 1], [low, low, high, high])
    assert points["balanced"]["threshold"] == high and points["balanced"]["balanced_accuracy"] == 1


def test_the_band_by_hand():
    # 20 of each; one error in 20 is within 5 %.
    reals = np.arange(20) / 40  # up to 0.475
    fakes = 0.4 + np.arange(20) / 40  # from 0.4
    labels, scores = np.repeat([0, 1], 20), np.concatenate([reals, fakes])
    # One real example scores above 0.45, one fake below 0.425; the ends lie halfway to it.
    assert inconclusive_band(labels, scores, 0.44) == (pytest.approx(0.4125), pytest.approx(0.4625))
    # A threshold outside belongs to the band, else verdicts between would be more often wrong than allowed.
    assert inconclusive_band(labels, scores, 0.6) == (pytest.approx(0.4125), 0.6)
    apart = np.concatenate([reals * 0.5, 0.7 + fakes * 0.2])
    assert inconclusive_band(labels, apart, 0.5) is None
    assert inconclusive_band(labels, apart, 0.1) == (0.1, pytest.approx(0.23125))


@settings(max_examples=150, deadline=None)
@given(
    st.integers(20, 120), st.integers(20, 120), st.floats(0, 1), st.sampled_from([3, 20, 10**6]), st.integers(0, 10**6)
)
def test_outside_of_the_band_errors_are_within_the_bound(reals, fakes, threshold, steps, seed):
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [reals, fakes])
    scores = (np.clip(rng.normal(0.35 + 0.3 * labels, 0.2), 0, 1) * steps).round() / steps
    band = inconclusive_band(labels, scores, threshold)
    verdicts = np.array([verdict_of(score, threshold, band) for score in scores])
    assert np.mean(verdicts[labels == 0] == "fake") <= 0.05
    assert np.mean(verdicts[labels == 1] == "real") <= 0.05
    if band:
        # No wider than it must be: an end that is not the threshold lies before the example that exceeds the bound.
        low, high = band
        genuine, forged = scores[labels == 0], scores[labels == 1]
        assert low == threshold or np.mean(forged <= forged[forged >= low].min()) > 0.05
        assert high == threshold or np.mean(genuine >= genuine[genuine <= high].max()) > 0.05


def test_ends_of_the_band_hold_in_another_runtime():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 100)
    scores = np.clip(rng.normal(0.35 + 0.3 * labels, 0.2), 0, 1)
    low, high = inconclusive_band(labels, scores, 0.5)
    for change in (-1e-6, 1e-6):
        assert np.mean(scores[labels == 0] + change > high) == np.mean(scores[labels == 0] > high) == 0.05
        assert np.mean(scores[labels == 1] + change < low) == np.mean(scores[labels == 1] < low) == 0.05


def test_a_band_of_too_few_is_refused():
    with pytest.raises(TooFewError, match="10 fake examples cannot show an error rate of 0.05"):
        inconclusive_band(np.repeat([0, 1], [40, 10]), np.linspace(0, 1, 50), 0.5)
    with pytest.raises(ScoreError, match="threshold"):
        inconclusive_band(np.repeat([0, 1], 25), np.linspace(0, 1, 50), 1.5)
