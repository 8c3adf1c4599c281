"""Binary classification metrics over labels and P(fake), and the registry that reports and tables read.

Every metric takes `labels`, 0 (real) or 1 (fake), and `scores`, P(fake) in [0, 1], both of shape `(n,)`, and returns a
float. A metric that is undefined for its input raises a `MetricError`; none returns NaN. To add a metric, write its
function and add one row to `METRICS`: `report.json`, the tables and the Markdown and HTML reports pick it up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfdfd.text import plural

LOG_LOSS_CLIP = 1e-15
# Bins of equal mass of the reliability diagram and the calibration error.
BINS = 15
# One-sided 5 % quantile of the normal distribution.
_Z_95 = 1.6448536269514722


class MetricError(ValueError):
    """The metric is undefined for this input. The message says why and what would help."""


class LengthError(MetricError):
    """Labels and scores differ in length, or there are none."""


class LabelError(MetricError):
    """A label is neither 0 (real) nor 1 (fake), or one video has both."""


class ScoreError(MetricError):
    """A score is not a probability: not a number, or outside [0, 1]."""


class OneClassError(MetricError):
    """All examples are of one class, but the metric compares the two."""


class TooFewError(MetricError):
    """There are too few examples to resolve the metric."""


class CalibrationError(MetricError):
    """No monotone calibration fits the scores."""


class CoverageError(MetricError):
    """Fewer videos have a score than required."""


def checked(labels: ArrayLike, scores: ArrayLike, both: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Validates labels and scores.

    Args:
        labels: 0 (real) or 1 (fake), `(n,)`.
        scores: P(fake) in [0, 1], `(n,)`.
        both: require at least one example of each class.

    Returns:
        Labels as bool `(n,)`, True for fake, and scores as float64 `(n,)`.

    Raises:
        LengthError: the shapes differ or n is 0.
        LabelError: a label is neither 0 nor 1.
        ScoreError: a score is not a number in [0, 1].
        OneClassError: `both` is set and a class is missing.
    """
    labels, scores = np.asarray(labels), checked_scores(scores)
    if labels.shape != scores.shape:
        raise LengthError(
            f"labels have shape {labels.shape} and scores {scores.shape}; expected the same shape (n,) for both."
        )
    fake = labels == 1
    wrong = ~(fake | (labels == 0))
    if wrong.any():
        raise LabelError(f"labels must be 0 (real) or 1 (fake); received {np.unique(labels[wrong])[:5].tolist()}.")
    if both:
        check_both(fake)
    return fake, scores


def checked_scores(scores: ArrayLike) -> np.ndarray:
    """Scores as float64 `(n,)`.

    Raises:
        LengthError: another shape, or n is 0.
        ScoreError: a score is not a number in [0, 1].
    """
    try:
        scores = np.asarray(scores, np.float64)
    except (TypeError, ValueError) as error:
        raise ScoreError(f"scores must be numbers in [0, 1]: {error}.") from error
    if scores.ndim != 1 or not scores.size:
        raise LengthError(f"scores have shape {scores.shape}; expected (n,) with n of at least 1.")
    wrong = ~((scores >= 0) & (scores <= 1))
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise ScoreError(
            f"scores must be P(fake) in [0, 1]; {wrong.sum():,} of {len(scores):,} are not, the first at index "
            f"{first}: {scores[first]}. Pass probabilities, after the sigmoid."
        )
    return scores


def check_both(fake: np.ndarray) -> None:
    """Raises `OneClassError` unless both classes are present."""
    if fake.all() or not fake.any():
        name = "fake" if fake.any() else "real"
        raise OneClassError(f"all {len(fake):,} examples are {name}; this metric compares real with fake examples.")


def check_threshold(threshold: float) -> None:
    """Raises `ScoreError` unless the threshold is in [0, 1]."""
    if not 0 <= threshold <= 1:
        raise ScoreError(f"the threshold on P(fake) must be in [0, 1]; received {threshold!r}.")


def check_resolution(count: int, rate: float, kind: str = "real") -> None:
    """Raises `TooFewError` if a single error among `count` examples already exceeds `rate`."""
    if not 0 < rate < 1:
        raise ValueError(f"an error rate must be between 0 and 1; received {rate!r}.")
    if count * rate < 1 - 1e-9:
        raise TooFewError(
            f"{plural(count, f'{kind} example')} cannot show an error rate of {rate:.3g}: one error is "
            f"{1 / max(count, 1):.2g} already; at least {int(np.ceil(1 / rate - 1e-9)):,} are needed."
        )


@dataclass(frozen=True)
class Confusion:
    """Confusion matrix; fake is the positive class. Ratios with an empty denominator are None.

    Attributes:
        real_as_real: real examples called real (true negatives).
        real_as_fake: real examples called fake (false positives).
        fake_as_real: fake examples called real (false negatives).
        fake_as_fake: fake examples called fake (true positives).
    """

    real_as_real: int
    real_as_fake: int
    fake_as_real: int
    fake_as_fake: int

    @property
    def n_real(self) -> int:
        return self.real_as_real + self.real_as_fake

    @property
    def n_fake(self) -> int:
        return self.fake_as_real + self.fake_as_fake

    @property
    def fpr(self) -> float | None:
        """False positive rate: share of real examples called fake."""
        return _ratio(self.real_as_fake, self.n_real)

    @property
    def tpr(self) -> float | None:
        """True positive rate: share of fake examples called fake."""
        return _ratio(self.fake_as_fake, self.n_fake)

    @property
    def accuracy(self) -> float | None:
        """Share of correct verdicts."""
        return _ratio(self.real_as_real + self.fake_as_fake, self.n_real + self.n_fake)

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean of the two classes' recalls."""
        return None if self.fpr is None or self.tpr is None else (1 - self.fpr + self.tpr) / 2

    @property
    def majority(self) -> float | None:
        """Accuracy of a constant verdict for the more frequent class."""
        return _ratio(max(self.n_real, self.n_fake), self.n_real + self.n_fake)

    def counts(self) -> dict[str, int]:
        """The four counts by name."""
        return asdict(self)


def confusion(labels: ArrayLike, scores: ArrayLike, threshold: float) -> Confusion:
    """Confusion matrix of the verdicts; scores at or above `threshold` are called fake.

    Raises:
        MetricError: see `checked`; or the threshold is outside [0, 1].
    """
    fake, scores = checked(labels, scores)
    check_threshold(threshold)
    called = scores >= threshold
    return Confusion(
        int((~fake & ~called).sum()),
        int((~fake & called).sum()),
        int((fake & ~called).sum()),
        int((fake & called).sum()),
    )


def class_table(matrix: Confusion) -> dict[str, dict[str, float | int | None]]:
    """Precision, recall, F1 and support of `real` and `fake`, with their `macro` and `weighted` (by support) means.

    Undefined values are None: the precision of a verdict that is never given, recall and F1 of a class without
    examples, and means over them. A class without examples has weight 0. (scikit-learn reports 0 and warns.)
    """
    rows: dict[str, dict[str, Any]] = {
        "real": _class_row(matrix.real_as_real, matrix.fake_as_real, matrix.real_as_fake),
        "fake": _class_row(matrix.fake_as_fake, matrix.real_as_fake, matrix.fake_as_real),
    }
    both = list(rows.values())
    supports = [row["support"] for row in both]
    for mean, weights in (("macro", [1, 1]), ("weighted", supports)):
        rows[mean] = {name: _weighted_mean(both, name, weights) for name in ("precision", "recall", "f1")}
        rows[mean]["support"] = sum(supports)
    return rows


def no_better_than_majority(matrix: Confusion) -> bool:
    """Whether the verdicts are not significantly better than always predicting the more frequent class.

    McNemar's test with continuity correction, one-sided at 5 %. Against the constant rule the model gains the examples
    of the rarer class it detects and loses those of the frequent class it misses, so a model that calls nearly
    everything fake is no better than one that calls everything fake. Assumes independent examples: use videos.
    """
    by_class = (matrix.real_as_real, matrix.real_as_fake), (matrix.fake_as_fake, matrix.fake_as_real)
    (gained, _), (_, lost) = sorted(by_class, key=sum)
    if gained <= lost:
        return True
    return (gained - lost - 1) / math.sqrt(gained + lost) <= _Z_95


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _class_row(correct: int, false_positives: int, missed: int) -> dict[str, float | int | None]:
    support = correct + missed
    return {
        "precision": _ratio(correct, correct + false_positives),
        "recall": _ratio(correct, support),
        "f1": _ratio(2 * correct, 2 * correct + false_positives + missed) if support else None,
        "support": support,
    }


def _weighted_mean(rows: Iterable[Mapping[str, Any]], name: str, weights: Sequence[float]) -> float | None:
    pairs = [(row[name], weight) for row, weight in zip(rows, weights, strict=True) if weight]
    if not pairs or any(value is None for value, _ in pairs):
        return None
    return sum(value * weight for value, weight in pairs) / sum(weight for _, weight in pairs)


@dataclass(frozen=True)
class RocCurve:
    """ROC curve from (0, 0), where nothing is called fake, to (1, 1).

    Attributes:
        thresholds: float64 `(k,)`, decreasing: infinity, then every distinct score.
        fpr: share of real examples called fake at each threshold, increasing.
        tpr: share of fake examples called fake at each threshold, increasing.
    """

    thresholds: np.ndarray
    fpr: np.ndarray
    tpr: np.ndarray


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """Precision-recall curve of the fake class, from the highest threshold to the lowest.

    Attributes:
        thresholds: float64 `(k,)`, decreasing: every distinct score.
        precision: share of fakes among the examples called fake at each threshold.
        recall: share of fake examples called fake at each threshold, increasing.
    """

    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> RocCurve:
    """ROC curve (Fawcett 2006, algorithm 1); equal scores share one point.

    Raises:
        MetricError: see `checked`; both classes are needed.
    """
    thresholds, fakes, reals = _cumulative_counts(*checked(labels, scores, both=True))
    return RocCurve(
        np.concatenate([[np.inf], thresholds]),
        np.concatenate([[0.0], reals / reals[-1]]),
        np.concatenate([[0.0], fakes / fakes[-1]]),
    )


def precision_recall_curve(labels: ArrayLike, scores: ArrayLike) -> PrecisionRecallCurve:
    """Precision-recall curve of the fake class.

    Raises:
        MetricError: see `checked`; both classes are needed.
    """
    thresholds, fakes, reals = _cumulative_counts(*checked(labels, scores, both=True))
    return PrecisionRecallCurve(thresholds, fakes / (fakes + reals), fakes / fakes[-1])


def thinned(curve: RocCurve | PrecisionRecallCurve, most: int = 500) -> RocCurve | PrecisionRecallCurve:
    """The curve with at most `most` points, both ends included: for drawing, not for computing metrics."""
    count = len(curve.thresholds)
    chosen = np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))
    return type(curve)(**{name: column[chosen] for name, column in vars(curve).items()})


def _cumulative_counts(fake: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every distinct score, decreasing, and the number of fake and of real examples at or above it."""
    # scikit-learn gives the same points (see the tests) but takes 8 to 65 times as long, which a bootstrap of 2,000
    # resamples multiplies.
    order = np.argsort(-scores, kind="stable")
    fake, scores = fake[order], scores[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    fakes = np.cumsum(fake)[last]
    return scores[last], fakes, last + 1 - fakes


@dataclass(frozen=True)
class Bin:
    """One bin of a reliability diagram.

    Attributes:
        low: lowest score.
        high: highest score.
        count: number of examples.
        score: mean P(fake).
        fakes: share of fake examples.
    """

    low: float
    high: float
    count: int
    score: float
    fakes: float


def reliability(labels: ArrayLike, scores: ArrayLike, bins: int = BINS) -> list[Bin]:
    """Reliability diagram: the examples in order of score, in at most `bins` bins of equal mass.

    Equal scores share a bin, so the order of the examples does not matter; empty bins are left out.

    Raises:
        MetricError: see `checked`.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1; received {bins}.")
    fake, scores = checked(labels, scores)
    order = np.argsort(scores, kind="stable")
    fake, scores = fake[order], scores[order]
    bin_index = np.searchsorted(scores, scores, "left") * bins // len(scores)
    starts = np.flatnonzero(np.diff(bin_index, prepend=-1))
    counts = np.diff(np.append(starts, len(scores)))
    means = np.add.reduceat(scores, starts) / counts
    shares = np.add.reduceat(fake.astype(np.float64), starts) / counts
    ends = starts + counts - 1
    columns = (scores[starts], scores[ends], counts, means, shares)
    return [Bin(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: the probability that a random fake example scores higher than a random real one.

    Ties count half (Mann and Whitney 1947; Hanley and McNeil 1982).
    """
    fake, scores = checked(labels, scores, both=True)
    reals = np.sort(scores[~fake])
    below, up_to = (np.searchsorted(reals, scores[fake], side) for side in ("left", "right"))
    return float((below + up_to).sum() / (2 * len(below) * len(reals)))


def equal_error_rate(labels: ArrayLike, scores: ArrayLike) -> float:
    """Error rate at which the false positive rate equals the false negative rate.

    It is where the ROC curve, linearly interpolated, meets the line FPR = 1 - TPR.
    """
    curve = roc_curve(labels, scores)
    excess = curve.fpr + curve.tpr - 1  # increases from -1 to 1
    after = int(np.argmax(excess >= 0))
    before = after - 1
    part = -excess[before] / (excess[after] - excess[before])
    return float(curve.fpr[before] + part * (curve.fpr[after] - curve.fpr[before]))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Precision at each threshold weighted by the recall it adds, without interpolation (Zhu 2004).

    The chance level is the share of fakes, not 0.5.
    """
    curve = precision_recall_curve(labels, scores)
    return float(np.sum(np.diff(curve.recall, prepend=0.0) * curve.precision))


def tpr_at_fpr(labels: ArrayLike, scores: ArrayLike, fpr: float) -> float:
    """Highest true positive rate of any threshold whose false positive rate is at most `fpr`.

    Raises:
        TooFewError: fewer than 1 / fpr real examples: no threshold could show such a rate.
    """
    curve = roc_curve(labels, scores)
    fake, _ = checked(labels, scores)
    check_resolution(int((~fake).sum()), fpr)
    return float(curve.tpr[curve.fpr <= fpr].max())


def accuracy(labels: ArrayLike, scores: ArrayLike, threshold: float) -> float:
    """Share of correct verdicts. Always shown beside the share of the majority class (`Confusion.majority`)."""
    return confusion(labels, scores, threshold).accuracy  # type: ignore[return-value]


def balanced_accuracy(labels: ArrayLike, scores: ArrayLike, threshold: float) -> float:
    """Mean recall of the two classes; 0.5 for a constant verdict."""
    matrix = confusion(labels, scores, threshold)
    check_both(checked(labels, scores)[0])
    return matrix.balanced_accuracy  # type: ignore[return-value]


def log_loss(labels: ArrayLike, scores: ArrayLike) -> float:
    """Mean negative log-likelihood of the labels, in nats; scores are clipped to [1e-15, 1 - 1e-15]."""
    fake, scores = checked(labels, scores)
    likelihood = np.clip(np.where(fake, scores, 1 - scores), LOG_LOSS_CLIP, 1 - LOG_LOSS_CLIP)
    return float(-np.log(likelihood).mean())


def brier(labels: ArrayLike, scores: ArrayLike) -> float:
    """Mean squared difference of P(fake) and label (Brier 1950)."""
    fake, scores = checked(labels, scores)
    return float(np.mean((scores - fake) ** 2))


def calibration_error(labels: ArrayLike, scores: ArrayLike, bins: int = BINS, debiased: bool = False) -> float:
    """Expected calibration error: the mean over examples of their bin's |mean P(fake) - share of fakes|.

    Guo et al. 2017, eq. 3, with bins of equal mass, and for P(fake) instead of the confidence of the verdict.

    Args:
        labels: 0 (real) or 1 (fake), `(n,)`.
        scores: P(fake) in [0, 1], `(n,)`.
        bins: number of bins.
        debiased: subtract an estimate of the part that is due to chance, which even a perfectly calibrated model shows
            and which grows as bins shrink. The error d of a bin becomes d - (E|X| - d), where X is normal around d with
            standard deviation sqrt(p (1 - p) / n), p the bin's share of fakes among n examples; the sum is at least 0.
            (Kumar, Liang and Ma 2019, for the first power as in their published code, with E|X| in closed form
            instead of sampled.) d itself includes the chance error, so part of it remains where the true error is
            small.

    Raises:
        MetricError: see `checked`.
    """
    diagram = reliability(labels, scores, bins)
    total = sum(each.count for each in diagram)
    if not debiased:
        return sum(each.count * abs(each.score - each.fakes) for each in diagram) / total
    return max(0.0, sum(each.count * _debiased_error(each) for each in diagram) / total)


def _debiased_error(each: Bin) -> float:
    error = abs(each.score - each.fakes)
    deviation = math.sqrt(each.fakes * (1 - each.fakes) / each.count)
    if not deviation:
        return error
    ratio = error / deviation
    folded = deviation * math.sqrt(2 / math.pi) * math.exp(-(ratio**2) / 2) + error * math.erf(ratio / math.sqrt(2))
    return 2 * error - folded


@dataclass(frozen=True)
class Metric:
    """One row of the registry.

    Attributes:
        function: `(labels, scores) -> float`, or `(labels, scores, threshold) -> float`.
        title: heading in tables.
        at_threshold: the function takes the threshold of the verdicts.
        compared: two models are compared by it.
        by_part: the tables by data set, method and compression have a column for it.
    """

    function: Callable[..., float]
    title: str
    at_threshold: bool = False
    compared: bool = False
    by_part: bool = False


# By their key in `report.json`, in the order of the tables.
METRICS: dict[str, Metric] = {
    "auc": Metric(auc, "AUC", compared=True, by_part=True),
    "eer": Metric(equal_error_rate, "EER", compared=True, by_part=True),
    "average_precision": Metric(average_precision, "average precision", by_part=True),
    "balanced_accuracy": Metric(balanced_accuracy, "balanced accuracy", at_threshold=True, by_part=True),
    "accuracy": Metric(accuracy, "accuracy", at_threshold=True),
    "tpr_at_fpr_1": Metric(partial(tpr_at_fpr, fpr=0.01), "TPR at 1 % FPR"),
    "tpr_at_fpr_5": Metric(partial(tpr_at_fpr, fpr=0.05), "TPR at 5 % FPR", by_part=True),
    "log_loss": Metric(log_loss, "log-loss", compared=True, by_part=True),
    "brier": Metric(brier, "Brier", compared=True),
    "ece": Metric(calibration_error, f"ECE, {BINS} equal-mass bins"),
    "ece_debiased": Metric(partial(calibration_error, debiased=True), "ECE, debiased"),
}
