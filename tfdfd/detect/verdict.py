"""From the scores of single faces to the score of a clip and its verdict."""

from __future__ import annotations

import numpy as np

from tfdfd.detect.results import FaceTrack


def verdict_of(fake_probability: float, threshold: float, band: tuple[float, float] | None) -> str:
    """`inconclusive` inside the band, ends included; else `fake` from the threshold up, else `real`."""
    if band and band[0] <= fake_probability <= band[1]:
        return "inconclusive"
    return "fake" if fake_probability >= threshold else "real"


def keep_lasting(tracks: list[FaceTrack], kind: str | None) -> tuple[list[FaceTrack], str | None]:
    """The tracks that count for a clip, and a word on those left out.

    A face seen in a single sampled frame of a video in which another is seen longer is more often a poster or a
    mistake of the detector than a person, and would decide the clip by one crop. In an image every face counts.
    """
    lasting = [track for track in tracks if len(track.frames) > 1]
    brief = len(tracks) - len(lasting)
    if kind != "video" or not lasting or not brief:
        return tracks, None
    faces = "1 face that was" if brief == 1 else f"{brief} faces that were each"
    return lasting, f"left out {faces} seen in one sampled frame only (more --frames look closer)"


def clip_score(tracks: list[FaceTrack]) -> float:
    """The score of the worst track: one forged person makes a forged clip."""
    return max(track.fake_probability for track in tracks)


def track_score(scores: list[float]) -> float:
    """Mean over the frames of one person."""
    return float(np.mean(scores))
