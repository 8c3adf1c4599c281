"""Bootstrap intervals of any metric, over videos or whatever else has to stay together.

Frames of one video are no independent examples: drawn one by one they make intervals far too narrow. So whole clusters
are drawn, with replacement (Efron and Tibshirani 1993, chapter 13), real ones, fake ones and those with both each among
themselves, so that no resample lacks a class.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tfdfd.metrics.checked import checked
from tfdfd.metrics.errors import LengthError
from tfdfd.metrics.metrics import auc

RESAMPLES = 2000
LEVEL = 0.95
# Numbers in one block of resamples: some tens of megabytes.
_BLOCK = 1 << 21

Metric = Callable[[ArrayLike, ArrayLike], float]


@dataclass(frozen=True)
class Difference:
    """A metric's difference between two models on the same examples.

    Attributes:
        difference: the first's less the second's.
        interval: `(low, high)`, percentiles of the resamples.
        p: two-sided: twice the share of resamples in which it has not the more frequent sign, at most 1.
    """

    difference: float
    interval: tuple[float, float]
    p: float


def bootstrap(
    metric: Metric,
    labels: ArrayLike,
    scores: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """The metric of every resample, float64 `(resamples,)`. The same examples and seed draw the same resamples.

    Args:
        metric: `metric(labels, scores) -> float`, of `tfdfd.metrics.metrics` or any; the AUC has a fast way.
        labels: 0 (real) or 1 (fake), `(n,)`.
        scores: P(fake) in [0, 1], `(n,)`.
        clusters: for each example the name of what it belongs to; None: each on its own.
        resamples: how many.
        seed: of the draws.

    Raises:
        MetricError: see `checked`; or the metric's own.
    """
    fake, scores = checked(labels, scores)
    codes, blocks = _draws(fake, clusters, resamples, seed)
    if metric is auc:
        checked(labels, scores, both=True)
        return np.concatenate([_aucs(fake, scores, codes, counts) for counts in blocks])
    labels = fake.astype(np.int64)
    chosen = (np.repeat(np.arange(len(fake)), row[codes]) for counts in blocks for row in counts)
    return np.array([metric(labels[these], scores[these]) for these in chosen], np.float64)


def percentiles(values: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The interval that holds the middle `level` of the values."""
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval must be between 0 and 1; received {level!r}.")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_interval(
    metric: Metric,
    labels: ArrayLike,
    scores: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> tuple[float, float]:
    """The percentile interval `(low, high)` of a metric; see `bootstrap`."""
    return percentiles(bootstrap(metric, labels, scores, clusters, resamples, seed), level)


def bootstrap_difference(
    metric: Metric,
    labels: ArrayLike,
    scores: ArrayLike,
    others: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Difference:
    """A metric's difference between two models, both scored on every resample; see `bootstrap`."""
    one, other = (bootstrap(metric, labels, each, clusters, resamples, seed) for each in (scores, others))
    values = one - other
    # One is added so that no number of resamples claims the impossible (Davison and Hinkley 1997, section 4.2).
    tail = min((values <= 0).sum(), (values >= 0).sum())
    p = min(1.0, 2 * (tail + 1) / (resamples + 1))
    return Difference(float(metric(labels, scores) - metric(labels, others)), percentiles(values, level), float(p))


def _draws(fake, clusters, resamples, seed) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """Each example's cluster as a number, and blocks `(b, clusters)` of how often a resample has each cluster."""
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1; received {resamples}.")
    if clusters is None:
        codes = np.arange(len(fake))
    else:
        numbers = {}
        codes = np.array([numbers.setdefault(name, len(numbers)) for name in clusters], np.int64)
        if len(codes) != len(fake):
            raise LengthError(f"{len(codes):,} names of clusters for {len(fake):,} examples; expected one for each.")
    size = codes.max() + 1
    has = [np.bincount(codes, which, size) > 0 for which in (~fake, fake)]
    strata = [np.flatnonzero(has[0] + 2 * has[1] == kind) for kind in (1, 2, 3)]
    return codes, _blocks([part for part in strata if len(part)], size, len(fake), resamples, seed)


def _blocks(strata, size, examples, resamples, seed):
    rng = np.random.default_rng(seed)
    most = max(1, _BLOCK // examples)
    for start in range(0, resamples, most):
        rows = min(most, resamples - start)
        counts = np.zeros((rows, size), np.int64)
        for part in strata:
            drawn = rng.integers(0, len(part), (rows, len(part))) + np.arange(rows)[:, None] * len(part)
            counts[:, part] = np.bincount(drawn.ravel(), minlength=rows * len(part)).reshape(rows, -1)
        yield counts


def _aucs(fake, scores, codes, counts):
    """The AUC of each resample, without making it: examples are weighted by how often it has them."""
    order = np.argsort(scores[~fake])
    reals = scores[~fake][order]
    below, up_to = (np.searchsorted(reals, scores[fake], side) for side in ("left", "right"))
    weights, fakes = counts.take(codes[~fake][order], axis=1), counts.take(codes[fake], axis=1)
    ranks = np.zeros((len(counts), len(reals) + 1), np.int64)
    np.cumsum(weights, axis=1, out=ranks[:, 1:])
    pairs = (fakes * (ranks.take(below, axis=1) + ranks.take(up_to, axis=1))).sum(axis=1)
    return pairs / (2 * fakes.sum(axis=1) * ranks[:, -1])
