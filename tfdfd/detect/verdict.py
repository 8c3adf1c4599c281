"""From the scores of single faces to the score of a clip and its verdict."""

from __future__ import annotations

import numpy as np

from tfdfd.detect.results import FaceTrack


def verdict_of(fake_probability: float, threshold: float, band: tuple[float, float] | None) -> str:
    """`inconclusive` inside the band, ends included; else `fake` from the threshold up, else `real`."""
    if band and band[0] <= fake_probability <= band[1]:
        return "inconclusive"
    return "fake" if fake_probability >= threshold else "real"


# Mean confidence from which a second face is taken for one. Measured on clips with a background that MTCNN takes for
# a face now and then: such tracks have 0.89 to 0.99, people 0.997 and more; a person is found in most frames, too.
SURE = {"mtcnn": 0.95, "ssd": 0.8}
MIN_PRESENCE = 0.5


def counting_tracks(tracks: list[FaceTrack], sampled: list[int], detector: str) -> tuple[list[FaceTrack], str | None]:
    """The tracks that count, and a word on those left out.

    The longest track always counts (in an image, the surest face); document S2 keeps the best face in the same way.
    Another counts if the detector is sure of it, and, in a clip, if it was found in more than one frame and in at
    least half of those between its first and its last. Otherwise one mistaken patch of background would decide.

    Args:
        tracks: all tracks of the input.
        sampled: numbers of the frames that were looked at, ascending.
        detector: name of the face detector, for what "sure" means; one without confidences is believed.
    """
    main = max(tracks, key=lambda track: (len(track.frames), _confidence(track) or 0))
    kept = [track for track in tracks if track is main or _is_person(track, sampled, SURE.get(detector))]
    doubtful = len(tracks) - len(kept)
    if not doubtful:
        return tracks, None
    faces = "1 doubtful or passing face was" if doubtful == 1 else f"{doubtful} doubtful or passing faces were"
    return kept, f"{faces} left out of the score"


def _is_person(track, sampled, sure):
    confidence = _confidence(track)
    if sure is not None and confidence is not None and confidence < sure:
        return False
    if len(sampled) == 1:
        return True
    first, last = track.frames[0].index, track.frames[-1].index
    between = sum(first <= index <= last for index in sampled)
    return len(track.frames) > 1 and len(track.frames) >= MIN_PRESENCE * between


def _confidence(track):
    scores = [frame.detector_score for frame in track.frames if frame.detector_score is not None]
    return float(np.mean(scores)) if scores else None


def clip_score(tracks: list[FaceTrack]) -> float:
    """The score of the worst track: one forged person makes a forged clip."""
    return max(track.fake_probability for track in tracks)


def track_score(scores: list[float]) -> float:
    """Mean over the frames of one person."""
    return float(np.mean(scores))
