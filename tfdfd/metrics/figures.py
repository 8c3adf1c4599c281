"""All figures of one set of labels and scores, ready for JSON: each has its value, or null and the reason."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict
from functools import partial

import numpy as np

from tfdfd.metrics.calibration_error import calibration_error, debiased_calibration_error, reliability
from tfdfd.metrics.confusion import class_table, confusion
from tfdfd.metrics.curves import precision_recall_curve, roc_curve, thinned
from tfdfd.metrics.delong import auc_variance
from tfdfd.metrics.errors import MetricError, TooFewError
from tfdfd.metrics.intervals import RESAMPLES, bootstrap, percentiles
from tfdfd.metrics.metrics import (
    accuracy,
    auc,
    average_precision,
    balanced_accuracy,
    brier,
    equal_error_rate,
    log_loss,
    tpr_at_fpr,
)

AUC = "auc"
_OF_SCORES = {
    AUC: auc,
    "eer": equal_error_rate,
    "average_precision": average_precision,
    "tpr_at_fpr_1": partial(tpr_at_fpr, fpr=0.01),
    "tpr_at_fpr_5": partial(tpr_at_fpr, fpr=0.05),
    "log_loss": log_loss,
    "brier": brier,
    "ece": calibration_error,
    "ece_debiased": debiased_calibration_error,
}
_AT_THRESHOLD = {"balanced_accuracy": balanced_accuracy, "accuracy": accuracy}
NAMES = (*_OF_SCORES, *_AT_THRESHOLD)


def figures(
    labels: Sequence[int],
    scores: Sequence[float],
    threshold: float,
    clusters: Sequence[Hashable] | None = None,
    with_interval: Sequence[str] = NAMES,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """Every metric of `NAMES`, the confusion matrix, the table of classes, and the majority's share.

    Args:
        labels: 0 (real) or 1 (fake), `(n,)`; n may be 0.
        scores: P(fake) in [0, 1], `(n,)`.
        threshold: from which up the verdict is fake.
        clusters: what bootstrap intervals are over; None: the examples are independent, and the AUC has DeLong's
            interval besides.
        with_interval: which metrics get an interval.
        resamples: of the bootstrap; 0 for no intervals.
        seed: of the bootstrap.

    Returns:
        `n`, `n_real`, `n_fake`; for each metric `{"value": x}` with `"interval": [low, high]`, of the AUC with `delong`
        alike, or `{"value": null, "reason": why}`, the interval likewise null with `interval_reason`; `majority`, the
        accuracy of giving the more frequent verdict to all; `confusion` and `classes`, null without examples.

    Raises:
        MetricError: labels or scores that are none; an absent class is told, not raised.
    """
    metrics = _OF_SCORES | {name: partial(metric, threshold=threshold) for name, metric in _AT_THRESHOLD.items()}
    found = confusion(labels, scores, threshold) if len(scores) else None
    n_real, n_fake = (found.n_real, found.n_fake) if found else (0, 0)
    told = {"n": n_real + n_fake, "n_real": n_real, "n_fake": n_fake}
    for name, metric in metrics.items():
        told[name] = _value(metric, labels, scores)
        if told[name]["value"] is not None and name in with_interval and resamples:
            told[name] |= _interval(metric, labels, scores, clusters, resamples, seed)
    if clusters is None and told[AUC]["value"] is not None and AUC in with_interval:
        told[AUC] |= _delong(labels, scores)
    told["majority"] = found and found.majority
    told["confusion"] = found and found.counts()
    told["classes"] = found and class_table(found)
    return told


def curves(labels: Sequence[int], scores: Sequence[float]) -> dict:
    """What a page draws: `roc`, `precision_recall` (lists of at most 500 points) and `reliability` (a dict a bin).

    Each is null where there is none, with `roc_reason` and the like. The first ROC point's threshold, which nothing
    reaches, is null.
    """
    told = {}
    for name, make in (("roc", _roc), ("precision_recall", _precision_recall), ("reliability", _reliability)):
        try:
            told[name] = make(labels, scores)
        except MetricError as error:
            told |= {name: None, f"{name}_reason": str(error)}
    return told


def _value(metric: Callable, labels, scores):
    try:
        return {"value": float(metric(labels, scores))}
    except MetricError as error:
        return {"value": None, "reason": str(error)}


def _interval(metric, labels, scores, clusters, resamples, seed):
    try:
        _refuse_single(labels, clusters)
        low, high = percentiles(bootstrap(metric, labels, scores, clusters, resamples, seed))
    except MetricError as error:
        return {"interval": None, "interval_reason": str(error)}
    if low == high:
        return {
            "interval": None,
            "interval_reason": f"all resamples give {low:.6g}: these examples do not show how far it may be off.",
        }
    return {"interval": [low, high]}


def _refuse_single(labels, clusters):
    for label, kind in enumerate(("real", "fake")):
        members = np.flatnonzero(np.asarray(labels) == label)
        names = {clusters[number] for number in members} if clusters is not None else members
        if len(names) == 1:
            raise TooFewError(f"all {kind} examples are of one video or source; an interval needs more.")


def _delong(labels, scores):
    try:
        found = auc_variance(labels, scores)
    except TooFewError as error:
        return {"delong": None, "delong_reason": str(error)}
    if not found.variance:
        return {"delong": None, "delong_reason": "DeLong's variance is 0: no two rankings of real and fake differ."}
    return {"delong": list(found.interval)}


def _roc(labels, scores):
    curve = thinned(roc_curve(labels, scores))
    return {
        "threshold": [None, *curve.thresholds[1:].tolist()],
        "fpr": curve.fpr.tolist(),
        "tpr": curve.tpr.tolist(),
    }


def _precision_recall(labels, scores):
    curve = thinned(precision_recall_curve(labels, scores))
    return {
        "threshold": curve.thresholds.tolist(),
        "precision": curve.precision.tolist(),
        "recall": curve.recall.tolist(),
    }


def _reliability(labels, scores):
    return [asdict(part) for part in reliability(labels, scores)]
