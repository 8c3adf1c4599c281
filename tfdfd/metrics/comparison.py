"""Two models on the same videos: whether one is better, or the difference may be chance."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict

from tfdfd.data.splits import groups
from tfdfd.data.tables import SOURCE
from tfdfd.metrics.coverage import filled
from tfdfd.metrics.delong import auc_difference
from tfdfd.metrics.errors import LabelError, LengthError, MetricError
from tfdfd.metrics.intervals import LEVEL, RESAMPLES, bootstrap_difference
from tfdfd.metrics.metrics import auc, brier, equal_error_rate, log_loss
from tfdfd.metrics.scores import ScoreRow
from tfdfd.metrics.videos import videos_of

_METRICS = {"auc": auc, "eer": equal_error_rate, "log_loss": log_loss, "brier": brier}


def compare(
    rows: Iterable[ScoreRow],
    others: Iterable[ScoreRow],
    *,
    aggregation: str = "mean",
    cluster: str = "video",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """Differences of two models' video scores, the first's less the second's, on the videos that both have scored.

    Args:
        rows: of one model.
        others: of the other, on the same set.
        aggregation: of `tfdfd.metrics.aggregate.AGGREGATIONS`, for both.
        cluster: what the bootstrap is over: `video` or `source`. DeLong's test takes videos as independent.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        A dict for JSON: `videos` (`both`, `first_only`, `second_only`), `delong` (fields of `AucDifference`), and for
        `auc`, `eer`, `log_loss` and `brier` the `values` of both with `difference`, `interval` and `p` of the paired
        bootstrap; null and `<name>_reason` where there is no such number.

    Raises:
        LengthError: no video is scored by both.
        LabelError: a video has another label in the other table.
        ValueError: an argument that is none of its values.
    """
    if cluster not in ("video", "source"):
        raise ValueError(f"cluster must be video or source; received {cluster!r}.")
    one, other = ({(v.dataset, v.video): v for v in filled(videos_of(part, aggregation))} for part in (rows, others))
    both = sorted(one.keys() & other.keys())
    if not both:
        raise LengthError(
            f"no video is scored by both models: one has {len(one):,}, the other {len(other):,}; score both on one set."
        )
    videos = [one[key] for key in both]
    labels = [video.label for video in videos]
    differing = [key for key, label in zip(both, labels, strict=True) if other[key].label != label]
    if differing:
        raise LabelError(
            f"{len(differing):,} videos are real in one table and fake in the other, first {differing[0]}."
        )
    scores, other_scores = ([each[key].fake_probability for key in both] for each in (one, other))
    clusters = groups(videos, by=(SOURCE,)) if cluster == "source" else None
    told = {
        "videos": {"both": len(both), "first_only": len(one) - len(both), "second_only": len(other) - len(both)},
        "protocol": {
            "aggregation": aggregation,
            "bootstrap": {"resamples": resamples, "level": LEVEL, "over": cluster, "seed": seed},
        },
    }
    told |= _told("delong", lambda: asdict(auc_difference(labels, scores, other_scores)))
    for name, metric in _METRICS.items():
        arguments = (metric, labels, scores, other_scores, clusters, resamples, seed)
        told |= _told(name, _difference, *arguments)
    return told


def _difference(metric, labels, scores, others, *arguments):
    values = [metric(labels, scores), metric(labels, others)]
    return {"values": values} | asdict(bootstrap_difference(metric, labels, scores, others, *arguments))


def _told(name, make: Callable[..., dict], *arguments):
    try:
        return {name: _as_json(make(*arguments))}
    except MetricError as error:
        return {name: None, f"{name}_reason": str(error)}


def _as_json(told):
    return {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}
