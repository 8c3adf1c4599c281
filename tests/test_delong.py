"""DeLong's variance against its definition pair by pair, a case by hand, and simulated data."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tfdfd.metrics import LengthError, OneClassError, TooFewError, auc
from tfdfd.metrics.intervals import auc_difference, auc_variance

EXACT = {"rel": 0, "abs": 1e-9}


def by_definition(labels, *models):
    """AUCs and their covariances as DeLong, DeLong and Clarke-Pearson 1988 write them, pair by pair, in fractions."""
    aucs, parts = [], []
    for scores in models:
        fakes, reals = ([s for s, y in zip(scores, labels, strict=True) if y == which] for which in (1, 0))

        def wins(fake, real):
            return Fraction(2 if fake > real else 1 if fake == real else 0, 2)

        v10 = [sum(wins(x, y) for y in reals) / len(reals) for x in fakes]
        v01 = [sum(wins(x, y) for x in fakes) / len(fakes) for y in reals]
        aucs.append(sum(v10) / len(v10))
        parts.append((v10, v01))
    covariance = [
        [
            sum(
                sum((p - a) * (q - b) for p, q in zip(one[k], other[k], strict=True)) / (len(one[k]) - 1) / len(one[k])
                for k in (0, 1)
            )
            for other, b in zip(parts, aucs, strict=True)
        ]
        for one, a in zip(parts, aucs, strict=True)
    ]
    return aucs, covariance


@st.composite
def two_models(draw):
    size = draw(st.integers(4, 40))
    labels = draw(st.lists(st.integers(0, 1), min_size=size, max_size=size))
    assume(2 <= sum(labels) <= size - 2)
    steps = draw(st.sampled_from([2, 8, 1000]))
    scores = st.lists(st.integers(0, steps).map(lambda n: n / steps), min_size=size, max_size=size)
    return labels, draw(scores), draw(scores)


@settings(max_examples=200, deadline=None)
@given(two_models())
def test_as_defined(case):
    labels, one, other = case
    (a, b), ((aa, ab), (_, bb)) = by_definition(labels, one, other)
    found = auc_variance(labels, one)
    assert found.auc == pytest.approx(float(a), **EXACT) == auc(labels, one)
    assert found.variance == pytest.approx(float(aa), **EXACT)
    assert found.variance >= 0 and 0 <= found.interval[0] <= found.auc <= found.interval[1] <= 1
    both = auc_difference(labels, one, other)
    assert both.auc == pytest.approx((float(a), float(b)), **EXACT)
    assert both.difference == pytest.approx(float(a - b), **EXACT)
    variance = aa + bb - 2 * ab
    assert both.variance == pytest.approx(float(variance), **EXACT)
    if variance:
        z = float(a - b) / math.sqrt(variance)
        assert both.z == pytest.approx(z, abs=1e-7)
        assert both.p == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), **EXACT)
    elif a == b:
        assert (both.z, both.p) == (0, 1)
    else:
        assert both.z is None and both.p is None


def test_by_hand():
    # Fakes 0.8, 0.6, 0.3 and reals 0.5, 0.2: of the fakes' shares 1, 1, 1/2 the variance is 1/12, of the reals' 2/3
    # and 1 it is 1/18.
    found = auc_variance([1, 1, 1, 0, 0], [0.8, 0.6, 0.3, 0.5, 0.2])
    assert found.auc == pytest.approx(5 / 6, **EXACT)
    assert found.variance == pytest.approx(1 / 12 / 3 + 1 / 18 / 2, **EXACT)
    assert found.interval[0] == pytest.approx(5 / 6 - 1.959963984540054 * math.sqrt(1 / 18), **EXACT)
    assert found.interval[1] == 1


def test_equal_and_opposite_models():
    labels, scores = [0, 0, 0, 1, 1, 1], np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
    same = auc_difference(labels, scores, scores**2)
    assert (same.difference, same.variance, same.z, same.p) == (0, 0, 0, 1)
    opposite = auc_difference(labels, scores, 1 - scores)
    assert (opposite.difference, opposite.variance, opposite.z, opposite.p) == (1, 0, None, None)
    level = auc_difference(labels, scores, [1 / 3] * 6)
    assert (level.difference, level.variance, level.z) == (0.5, 0, None)


def test_the_interval_holds_the_truth_and_the_test_its_level():
    """Normal scores one deviation apart have an AUC of Φ(1/√2); two such models differ by nothing."""
    rng = np.random.default_rng(0)
    truth = 0.5 * (1 + math.erf(0.5))
    labels = np.repeat([0, 1], [80, 120])
    held, rejected = [], []
    for _ in range(1500):
        common = rng.normal(size=200)
        one, other = (1 / (1 + np.exp(-(labels + (common + rng.normal(size=200)) / math.sqrt(2)))) for _ in range(2))
        low, high = auc_variance(labels, one).interval
        held.append(low <= truth <= high)
        rejected.append(auc_difference(labels, one, other).p < 0.05)
    assert 0.93 < np.mean(held) < 0.97
    assert 0.035 < np.mean(rejected) < 0.07


def test_what_cannot_be_told():
    with pytest.raises(TooFewError, match="1 example of a class has no variance"):
        auc_variance([0, 1, 1], [0.1, 0.2, 0.3])
    with pytest.raises(OneClassError):
        auc_variance([1, 1, 1], [0.1, 0.2, 0.3])
    with pytest.raises(LengthError, match=r"\(4,\) and scores \(3,\)"):
        auc_difference([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="level of an interval must be between 0 and 1; received 95"):
        auc_variance([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], level=95)
