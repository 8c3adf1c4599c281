"""Confidence intervals of metrics by cluster bootstrap and DeLong's method, and the paired comparison of two models.

Frames of one video are not independent; resampling them individually gives intervals that are far too narrow. The
bootstrap therefore resamples whole clusters with replacement (Efron and Tibshirani 1993, chapter 13), separately among
clusters with real, with fake and with both kinds of examples, so that no resample lacks a class.

DeLong, DeLong and Clarke-Pearson 1988, in O(n log n) as in Sun and Xu 2014 (IEEE Signal Processing Letters 21(11)),
assumes independent examples: use it on videos, not on frames.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfdfd.data.splits import groups
from tfdfd.data.tables import SOURCE
from tfdfd.metrics import METRICS, LabelError, LengthError, MetricError, TooFewError, auc, checked
from tfdfd.metrics.scores import ScoreRow, aggregate_videos, filled

RESAMPLES = 2000
LEVEL = 0.95
# Numbers in one block of resamples: some tens of megabytes.
_BLOCK = 1 << 21

MetricFunction = Callable[[ArrayLike, ArrayLike], float]


@dataclass(frozen=True)
class Difference:
    """Difference of a metric between two models on the same examples.

    Attributes:
        difference: the first model's value minus the second's.
        interval: `(low, high)`, percentiles of the resamples.
        p: two-sided p-value: twice the share of resamples without the more frequent sign, at most 1.
    """

    difference: float
    interval: tuple[float, float]
    p: float


def bootstrap(
    metric: MetricFunction,
    labels: ArrayLike,
    scores: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """Values of a metric on bootstrap resamples, float64 `(resamples,)`; deterministic for a seed.

    Args:
        metric: `metric(labels, scores) -> float`; the AUC has a fast path.
        labels: 0 (real) or 1 (fake), `(n,)`.
        scores: P(fake) in [0, 1], `(n,)`.
        clusters: cluster of each example; None: each example is its own cluster.
        resamples: number of resamples.
        seed: seed of the random draws.

    Raises:
        MetricError: see `checked`; or raised by the metric.
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
    """Interval that contains the central `level` of the values."""
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval must be between 0 and 1; received {level!r}.")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_interval(
    metric: MetricFunction,
    labels: ArrayLike,
    scores: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> tuple[float, float]:
    """Percentile interval `(low, high)` of a metric; see `bootstrap`."""
    return percentiles(bootstrap(metric, labels, scores, clusters, resamples, seed), level)


def bootstrap_mean(
    values: ArrayLike, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> tuple[float, float]:
    """Percentile interval `(low, high)` of the mean of independent values `(n,)` of any range."""
    values = np.asarray(values, np.float64)
    blocks = _blocks([np.arange(len(values))], len(values), len(values), resamples, seed)
    return percentiles(np.concatenate([counts @ values / len(values) for counts in blocks]), level)


def bootstrap_difference(
    metric: MetricFunction,
    labels: ArrayLike,
    scores: ArrayLike,
    others: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Difference:
    """Difference of a metric between two models, scored on the same resamples; see `bootstrap`."""
    one, other = (bootstrap(metric, labels, each, clusters, resamples, seed) for each in (scores, others))
    values = one - other
    # Adding one keeps p above 0 for any number of resamples (Davison and Hinkley 1997, section 4.2).
    tail = min((values <= 0).sum(), (values >= 0).sum())
    p = min(1.0, 2 * (tail + 1) / (resamples + 1))
    return Difference(float(metric(labels, scores) - metric(labels, others)), percentiles(values, level), float(p))


def _draws(
    fake: np.ndarray, clusters: Sequence[Hashable] | None, resamples: int, seed: int
) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """Cluster code of each example, and blocks `(b, clusters)` of how often each resample contains each cluster."""
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1; received {resamples}.")
    if clusters is None:
        codes = np.arange(len(fake))
    else:
        numbers: dict[Hashable, int] = {}
        codes = np.array([numbers.setdefault(name, len(numbers)) for name in clusters], np.int64)
        if len(codes) != len(fake):
            raise LengthError(f"{len(codes):,} cluster names for {len(fake):,} examples; expected one for each.")
    size = codes.max() + 1
    has = [np.bincount(codes, which, size) > 0 for which in (~fake, fake)]
    strata = [np.flatnonzero(has[0] + 2 * has[1] == kind) for kind in (1, 2, 3)]
    return codes, _blocks([part for part in strata if len(part)], size, len(fake), resamples, seed)


def _blocks(strata: Sequence[np.ndarray], size: int, examples: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    most = max(1, _BLOCK // examples)
    for start in range(0, resamples, most):
        rows = min(most, resamples - start)
        counts = np.zeros((rows, size), np.int64)
        for part in strata:
            drawn = rng.integers(0, len(part), (rows, len(part))) + np.arange(rows)[:, None] * len(part)
            counts[:, part] = np.bincount(drawn.ravel(), minlength=rows * len(part)).reshape(rows, -1)
        yield counts


def _aucs(fake: np.ndarray, scores: np.ndarray, codes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """AUC of each resample, computed by weighting examples instead of copying them."""
    order = np.argsort(scores[~fake])
    reals = scores[~fake][order]
    below, up_to = (np.searchsorted(reals, scores[fake], side) for side in ("left", "right"))
    weights, fakes = counts.take(codes[~fake][order], axis=1), counts.take(codes[fake], axis=1)
    ranks = np.zeros((len(counts), len(reals) + 1), np.int64)
    np.cumsum(weights, axis=1, out=ranks[:, 1:])
    pairs = (fakes * (ranks.take(below, axis=1) + ranks.take(up_to, axis=1))).sum(axis=1)
    return pairs / (2 * fakes.sum(axis=1) * ranks[:, -1])


@dataclass(frozen=True)
class AucVariance:
    """An AUC with its variance.

    Attributes:
        auc: in [0, 1].
        variance: variance of the AUC. It is 0 if real and fake scores do not overlap, and then says nothing about the
            error.
        interval: `(low, high)`, normal approximation, clipped to [0, 1].
    """

    auc: float
    variance: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class AucDifference:
    """AUCs of two models on the same examples.

    Attributes:
        auc: AUC of both models.
        difference: the first model's AUC minus the second's.
        variance: variance of the difference.
        interval: `(low, high)` of the difference, normal approximation.
        z: difference divided by its standard deviation; 0 for equal rankings, None if the variance is 0 otherwise.
        p: two-sided p-value of z; None if `z` is.
    """

    auc: tuple[float, float]
    difference: float
    variance: float
    interval: tuple[float, float]
    z: float | None
    p: float | None


def auc_variance(labels: ArrayLike, scores: ArrayLike, level: float = 0.95) -> AucVariance:
    """AUC of one model with DeLong's variance and interval.

    Args:
        labels: 0 (real) or 1 (fake), `(n,)`.
        scores: P(fake) in [0, 1], `(n,)`.
        level: confidence level of the interval.

    Raises:
        MetricError: see `checked`; or fewer than two of a class.
    """
    auc, variance = _mean_and_variance(*_placements(*checked(labels, scores, both=True)))
    low, high = _interval(auc, variance, level)
    return AucVariance(auc, variance, (max(low, 0.0), min(high, 1.0)))


def auc_difference(labels: ArrayLike, scores: ArrayLike, others: ArrayLike, level: float = 0.95) -> AucDifference:
    """DeLong's test of the difference of two models' AUCs on the same examples.

    Args:
        labels: 0 (real) or 1 (fake), `(n,)`.
        scores: P(fake) of the first model, `(n,)`.
        others: P(fake) of the second model, `(n,)`, in the same order.
        level: confidence level of the interval.

    Raises:
        MetricError: see `checked`; or fewer than two of a class.
    """
    one = _placements(*checked(labels, scores, both=True))
    other = _placements(*checked(labels, others))
    difference, variance = _mean_and_variance(*(a - b for a, b in zip(one, other, strict=True)))
    if variance:
        z = difference / variance**0.5
        p = 2 * NormalDist().cdf(-abs(z))
    else:
        z, p = (0.0, 1.0) if difference == 0 else (None, None)  # type: ignore[assignment]
    aucs = _mean_and_variance(*one)[0], _mean_and_variance(*other)[0]
    return AucDifference(aucs, difference, variance, _interval(difference, variance, level), z, p)


def _placements(fake: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Twice the number of real examples below each fake and of fakes above each real one, as exact integers."""
    fakes, reals = scores[fake], scores[~fake]
    return _twice_below(reals, fakes), 2 * len(fakes) - _twice_below(fakes, reals)


def _twice_below(several: np.ndarray, of: np.ndarray) -> np.ndarray:
    """For each of `of`, twice the number of smaller values in `several`; ties count half."""
    several = np.sort(several)
    return np.searchsorted(several, of, "left") + np.searchsorted(several, of, "right")


def _mean_and_variance(of_fakes: np.ndarray, of_reals: np.ndarray) -> tuple[float, float]:
    n_fake, n_real = len(of_fakes), len(of_reals)
    few = min(n_fake, n_real)
    if few < 2:
        raise TooFewError(f"{few} example of a class has no variance; at least two real and two fake ones are needed.")
    mean = of_fakes.sum() / (2 * n_fake * n_real)
    variance = of_fakes.var(ddof=1) / (2 * n_real) ** 2 / n_fake + of_reals.var(ddof=1) / (2 * n_fake) ** 2 / n_real
    return float(mean), float(variance)


def _interval(value: float, variance: float, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval must be between 0 and 1; received {level!r}.")
    reach = NormalDist().inv_cdf((1 + level) / 2) * variance**0.5
    return value - reach, value + reach


def compare(
    rows: Iterable[ScoreRow],
    others: Iterable[ScoreRow],
    *,
    aggregation: str = "mean",
    cluster: str = "video",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """Differences of two models' video metrics, the first minus the second, on the videos that both have scored.

    Args:
        rows: scores of the first model.
        others: scores of the second model on the same set.
        aggregation: key of `tfdfd.metrics.scores.AGGREGATIONS`, for both models.
        cluster: unit of the bootstrap: `video` or `source`. DeLong's test assumes independent videos.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Returns:
        A dict for JSON: `videos` (`both`, `first_only`, `second_only`), `protocol`, `delong` (fields of
        `AucDifference`), and for each compared metric of the registry the `values` of both models with `difference`,
        `interval` and `p` of the paired bootstrap; null with `<name>_reason` if undefined.

    Raises:
        LengthError: no video is scored by both models.
        LabelError: the tables disagree on the label of a video.
        ValueError: an invalid argument.
    """
    if cluster not in ("video", "source"):
        raise ValueError(f"cluster must be video or source; received {cluster!r}.")
    one, other = (
        {(video.dataset, video.video): video for video in filled(aggregate_videos(part, aggregation))}
        for part in (rows, others)
    )
    both = sorted(one.keys() & other.keys())
    if not both:
        raise LengthError(
            f"no video is scored by both models: the first has {len(one):,}, the second {len(other):,}; score both "
            "models on the same set."
        )
    videos = [one[key] for key in both]
    labels = [video.label for video in videos]
    differing = [key for key, label in zip(both, labels, strict=True) if other[key].label != label]
    if differing:
        raise LabelError(
            f"{len(differing):,} videos are real in one table and fake in the other, the first is {differing[0]}."
        )
    scores: Any
    other_scores: Any
    scores, other_scores = ([each[key].fake_probability for key in both] for each in (one, other))
    clusters = groups(videos, by=(SOURCE,)) if cluster == "source" else None
    result = {
        "videos": {"both": len(both), "first_only": len(one) - len(both), "second_only": len(other) - len(both)},
        "protocol": {
            "aggregation": aggregation,
            "bootstrap": {"resamples": resamples, "level": LEVEL, "over": cluster, "seed": seed},
        },
    }
    result |= _or_reason("delong", lambda: asdict(auc_difference(labels, scores, other_scores)))
    for name, metric in METRICS.items():
        if metric.compared:
            arguments = (metric.function, labels, scores, other_scores, clusters, resamples, seed)
            result |= _or_reason(name, _difference, *arguments)
    return result


def _difference(
    metric: MetricFunction, labels: ArrayLike, scores: ArrayLike, others: ArrayLike, *arguments: Any
) -> dict[str, Any]:
    values = [metric(labels, scores), metric(labels, others)]
    return {"values": values} | asdict(bootstrap_difference(metric, labels, scores, others, *arguments))


def _or_reason(name: str, make: Callable[..., dict], *arguments: Any) -> dict[str, Any]:
    try:
        values = make(*arguments)
    except MetricError as error:
        return {name: None, f"{name}_reason": str(error)}
    return {name: {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}}
