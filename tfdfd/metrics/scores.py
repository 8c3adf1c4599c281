"""`scores.csv`: P(fake) of every crop of a set, and how crops become videos.

A row is a crop with its score, or a video, image or crop without one and the reason.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from tfdfd.data.tables import optional, read_table, write_table
from tfdfd.media import STATUSES
from tfdfd.metrics import CoverageError, LabelError, LengthError, checked_scores
from tfdfd.text import did_you_mean

TABLE = "scores.csv"
OK, NO_FACE = "ok", "no_face"
# Status of a video that the face set's rule on several faces excludes.
LEFT_OUT = "multiple_faces"
# P(fake) assigned to a video without a score.
POLICIES: dict[str, float | None] = {"exclude": None, "as-real": 0.0, "as-fake": 1.0, "as-chance": 0.5}
# Share of the lowest and of the highest scores that `trimmed` drops.
TRIMMED = 0.1


@dataclass(frozen=True)
class ScoreRow:
    """One crop and its score; or a video, image or crop without a score, and why.

    Attributes:
        file: path of the crop, as in `faces.csv`; None if there is no crop.
        dataset: data set of its video.
        video: `path` of its video or image in the index.
        frame: index of the frame, from 0; None if there is no crop.
        track: index of the face track in the video, from 0; None if there is no crop.
        label: 0 real, 1 fake.
        method: `original`, or the manipulation.
        source_id: names of the original videos that it shows.
        compression: compression of its video.
        split: `train`, `val`, `test` or None.
        fake_probability: P(fake) in [0, 1], a Python float; None for any status but `ok`.
        status: `ok`, one of `tfdfd.media.STATUSES`, or `multiple_faces`.

    Raises:
        ValueError: a score without status `ok`, status `ok` without a score, or a value out of range.
    """

    file: str | None
    dataset: str
    video: str
    frame: int | None
    track: int | None
    label: int
    method: str
    source_id: tuple[str, ...]
    compression: str | None
    split: str | None
    fake_probability: float | None
    status: str = OK

    READ: ClassVar[dict[str, Callable[[str], object]]] = {
        "file": optional(str), "frame": optional(int), "track": optional(int), "fake_probability": optional(float)
    }  # fmt: skip

    def __post_init__(self) -> None:
        if self.status not in (*STATUSES, LEFT_OUT):
            raise ValueError(f"status must be one of {', '.join((*STATUSES, LEFT_OUT))}; received {self.status!r}.")
        if (self.status == OK) != (self.fake_probability is not None):
            raise ValueError(
                f"{self.video}: a row has a score if and only if its status is 'ok'; received status {self.status!r} "
                f"with fake_probability {self.fake_probability!r}."
            )
        if self.status == OK and (self.file is None or self.frame is None or self.track is None):
            raise ValueError(f"{self.video}: a score belongs to a crop; file, frame or track is missing.")
        if self.fake_probability is not None and not (
            isinstance(self.fake_probability, float) and 0 <= self.fake_probability <= 1
        ):
            raise ValueError(
                f"{self.file}: fake_probability must be a Python float in [0, 1]; received {self.fake_probability!r}."
            )


def write_scores(path: str | os.PathLike, rows: Iterable[ScoreRow]) -> None:
    """Writes the rows as CSV, atomically; scores round-trip exactly."""
    write_table(path, rows, ScoreRow)


def read_scores(path: str | os.PathLike) -> list[ScoreRow]:
    """Reads a `scores.csv`.

    Raises:
        ValueError: the file is missing, has other columns, or has an invalid cell; names file and line.
    """
    return read_table(path, ScoreRow)


#
# Each function takes P(fake) of the crops, their frame indices and their track indices, all `(n,)`, and raises a
# `MetricError` for no crops or an invalid score.


def mean(scores: ArrayLike, frames: ArrayLike, tracks: ArrayLike) -> float:
    """Mean of all crops, as in the source documents (S2: over 12 equidistant frames)."""
    return float(checked_scores(scores).mean())


def median(scores: ArrayLike, frames: ArrayLike, tracks: ArrayLike) -> float:
    """Median of all crops; robust to outliers among up to half of them."""
    return float(np.median(checked_scores(scores)))


def trimmed(scores: ArrayLike, frames: ArrayLike, tracks: ArrayLike) -> float:
    """Mean without the lowest and the highest tenth (rounded down) of the crops."""
    scores = np.sort(checked_scores(scores))
    cut = int(len(scores) * TRIMMED)
    return float(scores[cut : len(scores) - cut].mean())


def max_over_faces_mean_over_frames(scores: ArrayLike, frames: ArrayLike, tracks: ArrayLike) -> float:
    """Mean over frames of the highest score in the frame (evaluation of Self-Blended Images)."""
    return float(_reduce_groups(checked_scores(scores), frames, np.maximum.reduceat).mean())


def max_of_track_means(scores: ArrayLike, frames: ArrayLike, tracks: ArrayLike) -> float:
    """Highest mean of a track: one forged person makes a forged video.

    `tfdfd detect` uses it; deepware's scanner does the same with clusters of faces.
    """
    tracks, scores = np.asarray(tracks), checked_scores(scores)
    totals = _reduce_groups(scores, tracks, np.add.reduceat)
    return float((totals / _reduce_groups(np.ones(len(scores)), tracks, np.add.reduceat)).max())


def confident(scores: ArrayLike, frames: ArrayLike, tracks: ArrayLike) -> float:
    """Mean of the confident crops if there are enough (Seferbekov's winning DFDC entry).

    The mean of the scores above 0.8 if they are more than 40 % and more than 11 crops; else of those below 0.2 if they
    are more than 90 %; else of all.
    """
    scores = checked_scores(scores)
    fakes, reals = scores[scores > 0.8], scores[scores < 0.2]
    if len(fakes) > 0.4 * len(scores) and len(fakes) > 11:
        return float(fakes.mean())
    if len(reals) > 0.9 * len(scores):
        return float(reals.mean())
    return float(scores.mean())


AGGREGATIONS: dict[str, Callable[[ArrayLike, ArrayLike, ArrayLike], float]] = {
    function.__name__: function
    for function in (mean, median, trimmed, max_over_faces_mean_over_frames, max_of_track_means, confident)
}


def _reduce_groups(
    values: np.ndarray, names: ArrayLike, reduce: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    names = np.asarray(names)
    if names.shape != values.shape:
        raise LengthError(
            f"{len(values):,} scores, but frames or tracks of shape {names.shape}; expected one for each score."
        )
    order = np.argsort(names, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(names[order]) != 0]))
    return reduce(values[order], starts)


@dataclass(frozen=True)
class Video:
    """One video or image with its score, or the reason why it has none.

    Attributes:
        dataset: its data set.
        video: its path in the index.
        label: 0 real, 1 fake.
        method: `original`, or the manipulation.
        source_id: names of the original videos that it shows.
        compression: compression of its file, or None.
        status: `ok` with a score; else the most frequent status of its rows.
        fake_probability: P(fake) in [0, 1], or None without a score.
        crops: the scored rows, by frame and track.
    """

    dataset: str
    video: str
    label: int
    method: str
    source_id: tuple[str, ...]
    compression: str | None
    status: str
    fake_probability: float | None
    crops: tuple[ScoreRow, ...]

    # Read by `tfdfd.data.splits.groups`; score tables carry no names of people.
    identity: ClassVar[tuple[str, ...]] = ()


def aggregate_videos(rows: Iterable[ScoreRow], aggregation: str = "mean") -> list[Video]:
    """Groups rows by video and aggregates their scores.

    Args:
        rows: scores of one model on one set, in any order.
        aggregation: key of `AGGREGATIONS`.

    Returns:
        The videos, sorted by data set and path.

    Raises:
        ValueError: unknown aggregation; names near matches.
        LabelError: the rows of a video differ in label, method, source or compression.
    """
    if aggregation not in AGGREGATIONS:
        hint = did_you_mean(aggregation, AGGREGATIONS, otherwise=f"expected one of {', '.join(AGGREGATIONS)}.")
        raise ValueError(f"unknown aggregation {aggregation!r}; {hint}")
    by_video = defaultdict(list)
    for row in rows:
        by_video[row.dataset, row.video].append(row)
    return [_video(key, by_video[key], AGGREGATIONS[aggregation]) for key in sorted(by_video)]


def _video(key: tuple[str, str], rows: Sequence[ScoreRow], aggregate: Callable[..., float]) -> Video:
    kinds = {(row.label, row.method, row.source_id, row.compression) for row in rows}
    if len(kinds) > 1:
        raise LabelError(
            f"{key[1]} of {key[0]} has rows that differ in label, method, source or compression: "
            f"{sorted(kinds, key=str)[:3]}; expected the same in all."
        )
    crops = sorted((row for row in rows if row.status == OK), key=lambda row: (row.frame, row.track, row.file))
    if crops:
        columns = zip(*((row.fake_probability, row.frame, row.track) for row in crops), strict=True)
        return Video(*key, *kinds.pop(), OK, aggregate(*columns), tuple(crops))  # type: ignore[arg-type]
    status = min(Counter(row.status for row in rows).items(), key=lambda pair: (-pair[1], pair[0]))[0]
    return Video(*key, *kinds.pop(), status, None, ())  # type: ignore[arg-type]


@dataclass(frozen=True)
class Coverage:
    """How many videos have a score.

    Attributes:
        expected: all videos of the set.
        scored: videos with a score.
        no_face: decoded videos without a face.
        left_out: decoded videos excluded by the face set's rule on several faces.
        broken: all others: missing, unreadable, too large, timed out.
        share: scored / expected.
    """

    expected: int
    scored: int
    no_face: int
    left_out: int
    broken: int
    share: float

    def counts(self) -> dict[str, int | float]:
        """All fields by name."""
        return asdict(self)


def coverage(videos: Sequence[Video]) -> Coverage:
    """Counts videos by outcome.

    Raises:
        CoverageError: there are no videos.
    """
    if not videos:
        raise CoverageError("there are no videos; the table of scores is empty.")
    counts = Counter(video.status for video in videos)
    scored, no_face, left_out = (counts[status] for status in (OK, NO_FACE, LEFT_OUT))
    broken = len(videos) - scored - no_face - left_out
    return Coverage(len(videos), scored, no_face, left_out, broken, scored / len(videos))


def filled(videos: Sequence[Video], missing: str = "exclude") -> list[Video]:
    """Applies the policy for videos without a score; keeps the order.

    Args:
        videos: with and without scores.
        missing: key of `POLICIES`: `exclude` drops videos without a score; the others assign P(fake) 0, 1 or 0.5, so
            that a model gains nothing by failing on hard videos. Their status stays.

    Raises:
        ValueError: unknown policy.
    """
    if missing not in POLICIES:
        raise ValueError(f"missing must be one of {', '.join(POLICIES)}; received {missing!r}.")
    score = POLICIES[missing]
    if score is None:
        return [video for video in videos if video.status == OK]
    return [video if video.status == OK else replace(video, fake_probability=score) for video in videos]
