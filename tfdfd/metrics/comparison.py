"""Paired comparison of two models on the same videos: DeLong's test and bootstrap intervals of the differences."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from numpy.typing import ArrayLike

from tfdfd.data.splits import groups
from tfdfd.data.tables import SOURCE
from tfdfd.metrics.intervals import LEVEL, RESAMPLES, MetricFunction, auc_difference, bootstrap_difference
from tfdfd.metrics.metrics import METRICS, LabelError, LengthError, MetricError
from tfdfd.metrics.scores import ScoreRow, aggregate_videos, filled


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
        seed: of the bootstrap.

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
