"""From the scores of a set to everything that can honestly be said of the model, as one dict for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from tfdfd.data.splits import groups
from tfdfd.data.tables import FAKE, REAL, SOURCE
from tfdfd.metrics.calibration import Calibrator, to_dict
from tfdfd.metrics.checked import check_threshold
from tfdfd.metrics.coverage import coverage, filled
from tfdfd.metrics.errors import LengthError
from tfdfd.metrics.figures import AUC, NAMES, curves, figures
from tfdfd.metrics.intervals import LEVEL, RESAMPLES
from tfdfd.metrics.scores import OK, ScoreRow
from tfdfd.metrics.videos import Video, videos_of
from tfdfd.metrics.warnings import coverage_warnings, warnings_of

SCHEMA = 1
VIDEO, FRAME = "video", "frame"
CLUSTERS = (VIDEO, SOURCE)
HARDEST = 10
_FILES = 4


def judge(
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
    """Figures of frames and videos, with how they were made and what is wrong with them.

    Args:
        rows: of one model on one set: a row a crop, and one for each video, image or crop without a score.
        threshold: from which up the verdict is fake, for crops and videos; never chosen on these rows.
        aggregation: of `tfdfd.metrics.aggregate.AGGREGATIONS`.
        calibrator: applied to crops, before they are put together; fitted on the validation crops.
        missing: what videos without a score count as, of `tfdfd.metrics.coverage.POLICIES`; never for frames.
        cluster: what bootstrap intervals are over: `video`, or `source` (videos that show the same original).
        resamples: of the bootstrap; 0 for no intervals.
        seed: of the bootstrap.

    Returns:
        A dict that JSON holds as it is; the same whatever the order of the rows:
        `protocol`: how; `coverage`; `video` and `frame`: `tfdfd.metrics.figures.figures`; `per_dataset`,
        `per_method`, `per_compression`: lists with the `video` and `frame` figures of a part, each with all reals of
        the same data set (of `per_compression`, where known: and the same compression), intervals of the AUC only;
        `warnings`: dicts `{code, where, message}`; `hardest`: ten videos, see there; `curves`: of `video` and `frame`.
        What cannot be told is null with a reason.

    Raises:
        LengthError: no rows.
        ValueError: an argument that is none of its values, or a video with rows of different labels.
    """
    rows = list(rows)
    if not rows:
        raise LengthError("there are no scores to judge; the table of scores is empty.")
    check_threshold(threshold)
    if cluster not in CLUSTERS:
        raise ValueError(f"cluster must be one of {', '.join(CLUSTERS)}; received {cluster!r}.")
    if calibrator is not None:
        rows = _calibrated(rows, calibrator)
    videos = videos_of(rows, aggregation)
    covered = coverage(videos)
    judged = filled(videos, missing)
    judging = _Judging(judged, threshold, cluster, resamples, seed)
    whole = judging.of(judged, with_interval=NAMES)
    datasets = sorted({video.dataset for video in judged})
    parts = {name: [video for video in judged if video.dataset == name] for name in datasets}
    per_dataset = [{"dataset": name} | judging.of(part) for name, part in parts.items()]
    compressed = {name: part for name, part in parts.items() if any(video.compression for video in part)}
    warnings = coverage_warnings(covered) + warnings_of(whole[VIDEO], "videos") + warnings_of(whole[FRAME], "frames")
    if len(datasets) > 1:
        for told in per_dataset:
            warnings += warnings_of(told[VIDEO], f"videos of {told['dataset']}")
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
        "per_method": _per(parts, "method", judging),
        "per_compression": _per(compressed, "compression", judging),
        "warnings": warnings,
        "hardest": hardest(judged, threshold),
        "curves": {VIDEO: curves(*_columns(judged)), FRAME: curves(*_columns(_crops(judged)))},
    }


def hardest(videos: Sequence[Video], threshold: float, count: int = HARDEST) -> list[dict]:
    """The videos furthest from their label, wrong verdicts first: what a person should look at.

    Returns:
        Dicts `{dataset, video, label, method, fake_probability, wrong, files}`; `wrong` tells whether the verdict at
        the threshold is, `files` are its crops furthest from the label, four at most. Only videos with a score.
    """

    def wrong(video):
        return (video.fake_probability >= threshold) != (video.label == FAKE)

    def ease(video):
        return not wrong(video), -abs(video.label - video.fake_probability), video.dataset, video.video

    scored = [video for video in videos if video.status == OK]
    return [
        {
            "dataset": video.dataset,
            "video": video.video,
            "label": video.label,
            "method": video.method,
            "fake_probability": video.fake_probability,
            "wrong": wrong(video),
            "files": [crop.file for crop in sorted(video.crops, key=_ease)[:_FILES]],
        }
        for video in sorted(scored, key=ease)[:count]
    ]


class _Judging:
    """Figures of any choice of videos, and of their frames, all made alike."""

    def __init__(self, videos, threshold, cluster, resamples, seed):
        self._threshold, self._resamples, self._seed = threshold, resamples, seed
        # Videos are independent clusters of one, of which DeLong's interval holds, too.
        self._sources = None
        if cluster == SOURCE:
            self._sources = dict(zip(map(_key, videos), groups(videos, by=(SOURCE,)), strict=True))

    def of(self, videos, with_interval=(AUC,)):
        crops = _crops(videos)
        of_videos, of_frames = None, [_key(crop) for crop in crops]
        if self._sources is not None:
            of_videos = [self._sources[_key(video)] for video in videos]
            of_frames = [self._sources[key] for key in of_frames]
        return {
            VIDEO: self._figures(*_columns(videos), of_videos, with_interval),
            FRAME: self._figures(*_columns(crops), of_frames, (AUC,)),
        }

    def _figures(self, labels, scores, clusters, with_interval):
        return figures(labels, scores, self._threshold, clusters, with_interval, self._resamples, self._seed)


def _per(parts, column, judging):
    """A table by method or compression: the fakes of each with all reals of the data set (and the compression)."""
    table = []
    for dataset, videos in parts.items():
        fakes = [video for video in videos if video.label == FAKE]
        for value in sorted({getattr(video, column) for video in fakes}, key=str):
            own = [video for video in fakes if getattr(video, column) == value]
            reals = [v for v in videos if v.label == REAL and (column == "method" or getattr(v, column) == value)]
            table.append({"dataset": dataset, column: value} | judging.of(reals + own))
    return table


def _key(row):
    return row.dataset, row.video


def _crops(videos):
    return [crop for video in videos for crop in video.crops]


def _columns(rows):
    return [row.label for row in rows], [row.fake_probability for row in rows]


def _ease(crop):
    return -abs(crop.label - crop.fake_probability), crop.frame, crop.track


def _calibrated(rows, calibrator):
    places = [number for number, row in enumerate(rows) if row.status == OK]
    if places:
        changed = calibrator.apply(np.array([rows[number].fake_probability for number in places]))
        for number, score in zip(places, changed.tolist(), strict=True):
            rows[number] = replace(rows[number], fake_probability=score)
    return rows
