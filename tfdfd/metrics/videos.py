"""The videos of a table of scores: crops put together, each video with its one score or the reason why it has none."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from tfdfd.metrics.aggregate import AGGREGATIONS
from tfdfd.metrics.errors import LabelError
from tfdfd.metrics.scores import OK, ScoreRow
from tfdfd.near_matches import did_you_mean


@dataclass(frozen=True)
class Video:
    """One video or image.

    Attributes:
        dataset: whose it is.
        video: its path in the index.
        label: 0 real, 1 fake.
        method: `original`, or the manipulation.
        source_id: names of the original videos that it shows.
        compression: of its file, or None.
        status: `ok` with a score; else the most frequent status of its rows.
        fake_probability: P(fake) in [0, 1], or None without a score.
        crops: the rows that the score is of, by frame and track.
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

    # `tfdfd.data.splits.groups` asks; scores carry no names of people.
    identity: ClassVar[tuple[str, ...]] = ()


def videos_of(rows: Iterable[ScoreRow], aggregation: str = "mean") -> list[Video]:
    """The videos of the rows, sorted by data set and path, whatever the order of the rows.

    Args:
        rows: of one model on one set.
        aggregation: of `tfdfd.metrics.aggregate.AGGREGATIONS`.

    Raises:
        ValueError: no such aggregation; names the near ones.
        LabelError: a video has rows of different label, method, source or compression.
    """
    if aggregation not in AGGREGATIONS:
        hint = did_you_mean(aggregation, AGGREGATIONS, otherwise=f"there are {', '.join(AGGREGATIONS)}.")
        raise ValueError(f"no aggregation is called {aggregation!r}; {hint}")
    by_video = defaultdict(list)
    for row in rows:
        by_video[row.dataset, row.video].append(row)
    return [_video(key, by_video[key], AGGREGATIONS[aggregation]) for key in sorted(by_video)]


def _video(key, rows, combined):
    kinds = {(row.label, row.method, row.source_id, row.compression) for row in rows}
    if len(kinds) > 1:
        raise LabelError(
            f"{key[1]} of {key[0]} has rows of different label, method, source or compression: "
            f"{sorted(kinds, key=str)[:3]}; expected one."
        )
    crops = sorted((row for row in rows if row.status == OK), key=lambda row: (row.frame, row.track, row.file))
    if crops:
        columns = zip(*((row.fake_probability, row.frame, row.track) for row in crops), strict=True)
        return Video(*key, *kinds.pop(), OK, combined(*columns), tuple(crops))
    status = min(Counter(row.status for row in rows).items(), key=lambda pair: (-pair[1], pair[0]))[0]
    return Video(*key, *kinds.pop(), status, None, ())
