"""Evaluation report of one model from its scores: metrics of videos and frames, curves, warnings and hardest videos.

Everything is a dict that JSON can hold. An undefined metric is null with the reason beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfdfd.data.splits import groups
from tfdfd.data.tables import FAKE, REAL, SOURCE
from tfdfd.metrics import (
    METRICS,
    Confusion,
    LengthError,
    MetricError,
    PrecisionRecallCurve,
    RocCurve,
    TooFewError,
    check_threshold,
    class_table,
    confusion,
    no_better_than_majority,
    precision_recall_curve,
    reliability,
    roc_curve,
    thinned,
)
from tfdfd.metrics.calibration import Calibrator, to_dict
from tfdfd.metrics.intervals import LEVEL, RESAMPLES, MetricFunction, auc_variance, bootstrap, percentiles
from tfdfd.metrics.scores import OK, Coverage, ScoreRow, Video, aggregate_videos, coverage, filled
from tfdfd.text import plural

SCHEMA = 1
VIDEO, FRAME = "video", "frame"
LEVELS = (VIDEO, FRAME)
CLUSTERS = (VIDEO, SOURCE)
HARDEST = 10
# Share of the videos that must have a score; a report warns below it.
MIN_COVERAGE = 0.99
# With this many examples of each class the 95 % interval of an AUC of 0.85 is 0.2 wide (Hanley and McNeil 1982).
FEW = 30
_AUC = "auc"
_FILES = 4


def compute_report(
    rows: Iterable[ScoreRow],
    threshold: float,
    *,
    aggregation: str = "mean",
    calibrator: Calibrator | None = None,
    missing: str = "exclude",
    cluster: str = "video",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """Metrics of videos and frames, with the protocol they follow and warnings about them.

    Args:
        rows: scores of one model on one set: one row per crop, and one per video, image or crop without a score.
        threshold: crops and videos that score at or above it are called fake; must not be chosen on these rows.
        aggregation: key of `tfdfd.metrics.scores.AGGREGATIONS`.
        calibrator: applied to crops before aggregation; fitted on the validation crops.
        missing: policy for videos without a score, key of `tfdfd.metrics.scores.POLICIES`; frames are not affected.
        cluster: unit of the bootstrap: `video`, or `source` (all videos that show the same original).
        resamples: number of bootstrap resamples; 0 computes no intervals.
        seed: seed of the bootstrap.

    Returns:
        A dict for JSON, independent of the order of the rows: `protocol`; `coverage`; `video` and `frame`:
        `compute_metrics`; `per_dataset`, `per_method`, `per_compression`: lists with the `video` and `frame` metrics of
        a part, always with all real videos of the same data set (in `per_compression` of the same compression, if
        known), with intervals of the AUC only; `warnings`: dicts `{code, where, message}`; `hardest`: see
        `hardest_videos`; `curves`: of `video` and `frame`, see `compute_curves`.

    Raises:
        LengthError: there are no rows.
        ValueError: an invalid argument, or a video whose rows disagree on the label.
    """
    rows = list(rows)
    if not rows:
        raise LengthError("there are no scores to evaluate; the table of scores is empty.")
    check_threshold(threshold)
    if cluster not in CLUSTERS:
        raise ValueError(f"cluster must be one of {', '.join(CLUSTERS)}; received {cluster!r}.")
    if calibrator is not None:
        rows = _calibrated(rows, calibrator)
    every = aggregate_videos(rows, aggregation)
    covered, videos = coverage(every), filled(every, missing)
    sources = None  # videos are their own clusters, for which DeLong's interval holds as well
    if cluster == SOURCE:
        sources = dict(zip(map(_key, videos), groups(videos, by=(SOURCE,)), strict=True))

    def metrics_of(part: Sequence[Video], with_interval: Sequence[str] = (_AUC,)) -> dict[str, Any]:
        crops = _crops(part)
        video_clusters = None if sources is None else [sources[_key(video)] for video in part]
        frame_clusters = [_key(crop) if sources is None else sources[_key(crop)] for crop in crops]
        options: dict[str, Any] = {"resamples": resamples, "seed": seed}
        return {
            VIDEO: compute_metrics(*_columns(part), threshold, video_clusters, with_interval, **options),
            FRAME: compute_metrics(*_columns(crops), threshold, frame_clusters, (_AUC,), **options),
        }

    whole = metrics_of(videos, with_interval=tuple(METRICS))
    datasets = sorted({video.dataset for video in videos})
    parts = {name: [video for video in videos if video.dataset == name] for name in datasets}
    per_dataset = [{"dataset": name} | metrics_of(part) for name, part in parts.items()]
    compressed = {name: part for name, part in parts.items() if any(video.compression for video in part)}
    warnings = _coverage_warnings(covered) + _warnings(whole[VIDEO], "videos") + _warnings(whole[FRAME], "frames")
    if len(datasets) > 1:
        for part in per_dataset:
            warnings += _warnings(part[VIDEO], f"videos of {part['dataset']}")
    return {
        "schema": SCHEMA,
        "protocol": {
            "positive": "fake = 1",
            "threshold": threshold,
            "aggregation": aggregation,
            "calibration": to_dict(calibrator) if calibrator else None,
            "missing": missing,
            "datasets": datasets,
            "splits": sorted({row.split for row in rows if row.split}),
            "videos": whole[VIDEO]["n"],
            "frames": whole[FRAME]["n"],
            "bootstrap": {"resamples": resamples, "level": LEVEL, "over": cluster, "seed": seed},
        },
        "coverage": covered.counts(),
        **whole,
        "per_dataset": per_dataset,
        "per_method": _per_column(parts, "method", metrics_of),
        "per_compression": _per_column(compressed, "compression", metrics_of),
        "warnings": warnings,
        "hardest": hardest_videos(videos, threshold),
        "curves": {VIDEO: compute_curves(*_columns(videos)), FRAME: compute_curves(*_columns(_crops(videos)))},
    }


def compute_metrics(
    labels: Sequence[int],
    scores: Sequence[float],
    threshold: float,
    clusters: Sequence[Hashable] | None = None,
    with_interval: Sequence[str] = tuple(METRICS),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """Every metric of the registry, the confusion matrix, the class table, and the majority baseline.

    Args:
        labels: 0 (real) or 1 (fake), `(n,)`; n may be 0.
        scores: P(fake) in [0, 1], `(n,)`.
        threshold: scores at or above it are called fake.
        clusters: cluster of each example for the bootstrap; None: the examples are independent, and the AUC also gets
            DeLong's interval.
        with_interval: names of the metrics that get an interval.
        resamples: number of bootstrap resamples; 0 computes no intervals.
        seed: seed of the bootstrap.

    Returns:
        `n`, `n_real`, `n_fake`; for each metric `{"value": x}` with `"interval": [low, high]` (and `delong` for the
        AUC), or `{"value": null, "reason": why}`; an undefined interval is null with `interval_reason`; `majority`,
        the accuracy of the constant verdict; `confusion` and `classes`, null without examples.

    Raises:
        MetricError: invalid labels or scores. A missing class does not raise; it is a `reason`.
    """
    matrix = confusion(labels, scores, threshold) if len(scores) else None
    n_real, n_fake = (matrix.n_real, matrix.n_fake) if matrix else (0, 0)
    result: dict[str, Any] = {"n": n_real + n_fake, "n_real": n_real, "n_fake": n_fake}
    for name, metric in METRICS.items():
        function = partial(metric.function, threshold=threshold) if metric.at_threshold else metric.function
        try:
            result[name] = {"value": float(function(labels, scores))}
        except MetricError as error:
            result[name] = {"value": None, "reason": str(error)}
            continue
        if name in with_interval and resamples:
            result[name] |= _interval(function, labels, scores, clusters, resamples, seed)
    if clusters is None and result[_AUC]["value"] is not None and _AUC in with_interval:
        result[_AUC] |= _delong(labels, scores)
    result["majority"] = matrix and matrix.majority
    result["confusion"] = matrix and matrix.counts()
    result["classes"] = matrix and class_table(matrix)
    return result


def compute_curves(labels: Sequence[int], scores: Sequence[float]) -> dict:
    """Points to draw: `roc` and `precision_recall` (lists of at most 500 points), `reliability` (one dict per bin).

    An undefined curve is null with `roc_reason` etc. The threshold of the first ROC point, infinity, is null.
    """
    makers: dict[str, Callable[[], Any]] = {
        "roc": lambda: _columns_of(roc_curve(labels, scores)),
        "precision_recall": lambda: _columns_of(precision_recall_curve(labels, scores)),
        "reliability": lambda: [asdict(each) for each in reliability(labels, scores)],
    }
    result: dict[str, Any] = {}
    for name, make in makers.items():
        try:
            result[name] = make()
        except MetricError as error:
            result |= {name: None, f"{name}_reason": str(error)}
    return result


def hardest_videos(videos: Sequence[Video], threshold: float, count: int = HARDEST) -> list[dict]:
    """The scored videos furthest from their label, wrong verdicts first.

    Returns:
        Dicts `{dataset, video, label, method, fake_probability, wrong, files}`; `wrong` tells whether the verdict at
        the threshold is, `files` are its up to four crops furthest from the label.
    """

    def wrong(video: Video) -> bool:
        return (video.fake_probability >= threshold) != (video.label == FAKE)  # type: ignore[operator]

    def ease(video: Video) -> tuple:
        distance = abs(video.label - video.fake_probability)  # type: ignore[operator]
        return not wrong(video), -distance, video.dataset, video.video

    def crop_ease(crop: ScoreRow) -> tuple:
        return -abs(crop.label - crop.fake_probability), crop.frame, crop.track  # type: ignore[operator]

    return [
        {
            "dataset": video.dataset,
            "video": video.video,
            "label": video.label,
            "method": video.method,
            "fake_probability": video.fake_probability,
            "wrong": wrong(video),
            "files": [crop.file for crop in sorted(video.crops, key=crop_ease)[:_FILES]],
        }
        for video in sorted((video for video in videos if video.status == OK), key=ease)[:count]
    ]


def _interval(
    function: MetricFunction,
    labels: ArrayLike,
    scores: ArrayLike,
    clusters: Sequence[Any] | None,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    try:
        _check_clusters(labels, clusters)
        low, high = percentiles(bootstrap(function, labels, scores, clusters, resamples, seed))
    except MetricError as error:
        return {"interval": None, "interval_reason": str(error)}
    if low == high:
        return {
            "interval": None,
            "interval_reason": f"all resamples give {low:.6g}: these examples do not show the uncertainty.",
        }
    return {"interval": [low, high]}


def _check_clusters(labels: ArrayLike, clusters: Any) -> None:
    for label, kind in enumerate(("real", "fake")):
        members = np.flatnonzero(np.asarray(labels) == label)
        names: Any = {clusters[number] for number in members} if clusters is not None else members
        if len(names) == 1:
            raise TooFewError(f"all {kind} examples are of one video or source; an interval needs more.")


def _delong(labels: ArrayLike, scores: ArrayLike) -> dict[str, Any]:
    try:
        estimate = auc_variance(labels, scores)
    except TooFewError as error:
        return {"delong": None, "delong_reason": str(error)}
    if not estimate.variance:
        return {"delong": None, "delong_reason": "DeLong's variance is 0: real and fake scores do not overlap."}
    return {"delong": list(estimate.interval)}


def _warnings(metrics: dict, where: str) -> list[dict[str, str]]:
    """Warnings `{code, where, message}` about the metrics of `compute_metrics`; none for a model that passes.

    Codes: `no_scores`, `one_class`, `too_few`, `one_verdict`, `no_better_than_majority`, `no_better_than_chance`,
    `worse_than_chance`.
    """
    return [{"code": code, "where": where, "message": f"{where}: {text}"} for code, text in _problems(metrics)]


def _coverage_warnings(covered: Coverage) -> list[dict[str, str]]:
    """`low_coverage` if less than 99 % of the videos have a score."""
    if covered.share >= MIN_COVERAGE:
        return []
    message = (
        f"{covered.scored:,} of {covered.expected:,} videos have a score ({covered.share:.1%}): {covered.no_face:,} "
        f"have no face, {covered.left_out:,} were excluded for several faces, {covered.broken:,} could not be read."
    )
    return [{"code": "low_coverage", "where": "videos", "message": message}]


def _problems(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if not metrics["n"]:
        yield "no_scores", "nothing has a score."
        return
    counts = {"real": metrics["n_real"], "fake": metrics["n_fake"]}
    absent = [kind for kind, count in counts.items() if not count]
    if absent:
        yield "one_class", f"there are no {absent[0]} examples, so metrics that compare the classes are undefined."
    for kind, count in counts.items():
        if 0 < count < FEW:
            yield "too_few", f"{plural(count, f'{kind} example')}; metrics of fewer than {FEW} mean little."
    matrix = Confusion(**metrics["confusion"])
    called_fake = matrix.real_as_fake + matrix.fake_as_fake
    if called_fake in (0, metrics["n"]):
        yield "one_verdict", f"all {metrics['n']:,} are called {'fake' if called_fake else 'real'} at this threshold."
    if absent:
        return
    if no_better_than_majority(matrix):
        frequent = "fake" if counts["fake"] >= counts["real"] else "real"
        not_better = matrix.accuracy <= matrix.majority  # type: ignore[operator]
        how = "NO BETTER" if not_better else "NOT SHOWN TO BE BETTER"
        yield (
            "no_better_than_majority",
            f"{how} THAN THE MAJORITY: accuracy {matrix.accuracy:.3f}; calling everything {frequent} has "
            f"{matrix.majority:.3f}. Balanced accuracy {matrix.balanced_accuracy:.3f}, where 0.5 is chance.",
        )
    value = metrics[_AUC]["value"]
    low, high = metrics[_AUC].get("interval") or (value, value)
    between = f" [{low:.3f}, {high:.3f}]" if low < high else ""
    if high < 0.5:
        yield "worse_than_chance", f"AUC {value:.3f}{between} is below chance (0.5): are labels or P(fake) inverted?"
    elif low <= 0.5:
        yield "no_better_than_chance", f"AUC {value:.3f}{between} is not significantly above chance (0.5)."


def _per_column(
    parts: Mapping[str, Sequence[Video]], column: str, metrics_of: Callable[..., dict[str, Any]]
) -> list[dict[str, Any]]:
    """A table by method or compression: the fakes of each with all reals of the data set (and the compression)."""
    table = []
    for dataset, videos in parts.items():
        fakes = [video for video in videos if video.label == FAKE]
        for value in sorted({getattr(video, column) for video in fakes}, key=str):
            own = [video for video in fakes if getattr(video, column) == value]
            reals = [v for v in videos if v.label == REAL and (column == "method" or getattr(v, column) == value)]
            table.append({"dataset": dataset, column: value} | metrics_of(reals + own))
    return table


def _key(row: Video | ScoreRow) -> tuple[str, str]:
    return row.dataset, row.video


def _crops(videos: Iterable[Video]) -> list[ScoreRow]:
    return [crop for video in videos for crop in video.crops]


def _columns(rows: Sequence[Video] | Sequence[ScoreRow]) -> tuple[list[int], list[Any]]:
    return [row.label for row in rows], [row.fake_probability for row in rows]


def _columns_of(curve: RocCurve | PrecisionRecallCurve) -> dict[str, Any]:
    columns = {name: column.tolist() for name, column in vars(thinned(curve)).items()}
    thresholds = [None if value == np.inf else value for value in columns.pop("thresholds")]
    return {"threshold": thresholds} | columns


def _calibrated(rows: list[ScoreRow], calibrator: Calibrator) -> list[ScoreRow]:
    scored = [number for number, row in enumerate(rows) if row.status == OK]
    if scored:
        changed = calibrator.apply(np.array([rows[number].fake_probability for number in scored]))
        for number, score in zip(scored, changed.tolist(), strict=True):
            rows[number] = replace(rows[number], fake_probability=score)
    return rows
