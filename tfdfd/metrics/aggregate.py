"""From the scores of a video's crops to the video's score. Each way is a function of three arrays of one length.

`scores` are P(fake) in [0, 1] of the crops, `frames` the numbers of their frames, `tracks` those of their tracks. All
raise a `MetricError` for no crops or a score that is none.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from tfdfd.metrics.checked import checked_scores
from tfdfd.metrics.errors import LengthError

TRIMMED = 0.1


def mean(scores: ArrayLike, frames: ArrayLike, tracks: ArrayLike) -> float:
    """Mean of all crops: the documents' way (S2: of 12 frames in equal distances)."""
    return float(checked_scores(scores).mean())


def median(scores: ArrayLike, frames: ArrayLike, tracks: ArrayLike) -> float:
    """The middle score, which up to half of the crops cannot move at will."""
    return float(np.median(checked_scores(scores)))


def trimmed(scores: ArrayLike, frames: ArrayLike, tracks: ArrayLike) -> float:
    """Mean without the lowest and the highest tenth (rounded down) of the crops."""
    scores = np.sort(checked_scores(scores))
    cut = int(len(scores) * TRIMMED)
    return float(scores[cut : len(scores) - cut].mean())


def max_over_faces_mean_over_frames(scores: ArrayLike, frames: ArrayLike, tracks: ArrayLike) -> float:
    """The highest score in each frame, and their mean (Self-Blended Images' evaluation)."""
    return float(_of_each(checked_scores(scores), frames, np.maximum.reduceat).mean())


def max_of_track_means(scores: ArrayLike, frames: ArrayLike, tracks: ArrayLike) -> float:
    """The mean of each person's crops, and the highest of them: one forged person makes a forged video.

    What `tfdfd detect` answers; deepware's scanner does the same with clusters of faces.
    """
    tracks, scores = np.asarray(tracks), checked_scores(scores)
    totals = _of_each(scores, tracks, np.add.reduceat)
    return float((totals / _of_each(np.ones(len(scores)), tracks, np.add.reduceat)).max())


def confident(scores: ArrayLike, frames: ArrayLike, tracks: ArrayLike) -> float:
    """Mean of the crops that are sure, where there are enough (Seferbekov's winning entry of the DFDC).

    Of those above 0.8 if they are more than 40 % and more than 11; else of those below 0.2 if they are more than
    90 %; else of all.
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


def _of_each(values, names, reduce):
    names = np.asarray(names)
    if names.shape != values.shape:
        raise LengthError(
            f"{len(values):,} scores, but frames or tracks of shape {names.shape}; expected one for each."
        )
    order = np.argsort(names, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(names[order]) != 0]))
    return reduce(values[order], starts)
