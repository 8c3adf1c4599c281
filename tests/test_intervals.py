"""Bootstrap intervals: over whole clusters, never without a class, the same for the same seed, and in time."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdfd.metrics import LengthError, OneClassError, auc, balanced_accuracy, brier, equal_error_rate
from tfdfd.metrics.intervals import bootstrap, bootstrap_difference, bootstrap_interval


def scored(rng, reals, fakes, frames=1, apart=0.2, within=0.0):
    """Labels, scores and videos; the frames of one video have one score, but for `within`."""
    labels = np.repeat([0, 1], [reals, fakes])
    scores = rng.normal(0.4 + apart * labels, 0.2)
    frame_scores = np.repeat(scores, frames) + rng.normal(0, within, (reals + fakes) * frames)
    videos = np.repeat(np.arange(reals + fakes), frames)
    return np.repeat(labels, frames), np.clip(frame_scores, 0, 1), videos


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_the_fast_auc_is_the_auc_of_each_resample(seed, frames):
    labels, scores, videos = scored(np.random.default_rng(seed), 5, 9, frames, within=0.1)
    scores = scores.round(1)  # many equal ones
    fast = bootstrap(auc, labels, scores, videos, resamples=20, seed=seed)
    plain = bootstrap(lambda labels, scores: auc(labels, scores), labels, scores, videos, resamples=20, seed=seed)
    assert fast == pytest.approx(plain, rel=0, abs=1e-12)


def test_whole_clusters_are_drawn_and_no_class_is_lost():
    labels, videos = np.array([0, 0, 0, 1, 1, 1, 1, 0]), list("aabccdee")
    scores = np.arange(8) / 8  # each tells which example it is
    seen = []

    def metric(labels, scores):
        seen.append((labels, (scores * 8).astype(int)))
        return 0.0

    bootstrap(metric, labels, scores, videos, resamples=300)
    # Real ones of a and b, fake ones of c and d, and e, which has both and is its own stratum.
    sizes = set()
    for drawn_labels, numbers in seen:
        assert (labels[numbers] == drawn_labels).all()
        counts = np.bincount(numbers, minlength=8)
        assert counts[0] == counts[1] and counts[3] == counts[4]
        assert counts[6] == counts[7] == 1
        assert counts[0] + counts[2] == 2 and counts[3] + counts[5] == 2
        sizes.add((counts[0], counts[3]))
    assert len(sizes) == 9


def test_the_same_seed_draws_the_same():
    labels, scores, videos = scored(np.random.default_rng(0), 30, 40, 3)
    for metric in (auc, brier):
        one, same, other = (bootstrap(metric, labels, scores, videos, 50, seed) for seed in (7, 7, 8))
        assert one.tolist() == same.tolist() != other.tolist()
    # Names of clusters are only names.
    named = [f"v{number}.mp4" for number in videos]
    assert bootstrap(auc, labels, scores, named, 50).tolist() == bootstrap(auc, labels, scores, videos, 50).tolist()


def test_frames_of_one_video_are_no_further_evidence():
    labels, scores, videos = scored(np.random.default_rng(1), 40, 40, 16)
    by_video = np.subtract(*bootstrap_interval(auc, labels, scores, videos))
    by_frame = np.subtract(*bootstrap_interval(auc, labels, scores))
    once = np.subtract(*bootstrap_interval(auc, labels[::16], scores[::16]))
    assert by_video == pytest.approx(once, rel=0.1)
    assert by_frame / by_video < 0.4


def test_intervals_hold_the_truth():
    """Normal scores one deviation apart: AUC Φ(1/√2), balanced accuracy Φ(1/2) at the middle."""
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], [60, 90])
    held = []
    for _ in range(250):
        scores = 1 / (1 + np.exp(-rng.normal(labels - 0.5)))
        for metric, truth in ((auc, 0.7602499), (lambda y, s: balanced_accuracy(y, s, 0.5), 0.6914625)):
            low, high = bootstrap_interval(metric, labels, scores, resamples=300)
            held.append(low <= truth <= high)
    assert 0.91 < np.mean(held) < 0.98


def test_2000_resamples_of_1000_videos_in_time():
    labels, scores, videos = scored(np.random.default_rng(3), 300, 700, 32, within=0.1)
    start = time.process_time()
    bootstrap_interval(auc, labels[::32], scores[::32])
    assert time.process_time() - start < 1
    start = time.process_time()
    bootstrap_interval(equal_error_rate, labels[::32], scores[::32])
    assert time.process_time() - start < 2
    start = time.process_time()
    bootstrap_interval(auc, labels, scores, videos)
    assert time.process_time() - start < 5


def test_differences_are_paired():
    rng = np.random.default_rng(4)
    labels, scores, _ = scored(rng, 60, 60)
    better = np.clip(scores + 0.03 * (2 * labels - 1) + rng.normal(0, 0.01, 120), 0, 1)
    found = bootstrap_difference(auc, labels, better, scores)
    assert found.difference == auc(labels, better) - auc(labels, scores) > 0
    assert 0 < found.interval[0] <= found.difference <= found.interval[1]
    # Each alone is far less certain than their difference.
    assert np.subtract(*found.interval) > 0.5 * np.subtract(*bootstrap_interval(auc, labels, scores))
    assert found.p == pytest.approx(2 / 2001)
    same = bootstrap_difference(brier, labels, scores, scores, resamples=200)
    assert (same.difference, same.interval, same.p) == (0, (0, 0), 1)


def test_the_test_of_a_difference_keeps_its_level():
    rng = np.random.default_rng(5)
    labels = np.repeat([0, 1], [50, 50])
    small = []
    for _ in range(300):
        one, other = (1 / (1 + np.exp(-rng.normal(labels))) for _ in range(2))
        small.append(bootstrap_difference(auc, labels, one, other, resamples=200).p < 0.05)
    assert np.mean(small) < 0.09


def test_what_is_refused():
    with pytest.raises(LengthError, match="1 cluster names for 2 examples"):
        bootstrap(auc, [0, 1], [0.1, 0.2], ["a"])
    with pytest.raises(ValueError, match="resamples must be at least 1"):
        bootstrap(auc, [0, 1], [0.1, 0.2], resamples=0)
    with pytest.raises(OneClassError):
        bootstrap(auc, [1, 1], [0.1, 0.2])
