"""Which of the found faces become crops, and which videos and frames are left out for having too many."""

from __future__ import annotations

from collections.abc import Sequence

# Document S2: "keep the best face always and others above score 0.45".
MIN_SCORE = 0.45
# Document S2: a video is flagged when more than 10 % of its frames have a second face.
MULTIPLE_SHARE = 0.1


def kept_faces(
    scores: Sequence[float | None],
    min_score: float = MIN_SCORE,
    max_faces: int | None = None,
    drop_above: int | None = None,
) -> list[int]:
    """Which faces of one frame are kept, as positions in `scores`.

    Args:
        scores: of the frame's faces, strongest first; None where the detector gives none (such faces pass).
        min_score: the best face is always kept, others only with a score above this one.
        max_faces: so many of them at most; None: all.
        drop_above: a frame in which more faces pass `min_score` than so many gives none (document S3 removes frames
            with many faces); None: no frame is left out.
    """
    kept = [i for i, score in enumerate(scores) if i == 0 or score is None or score > min_score]
    if drop_above is not None and len(kept) > drop_above:
        return []
    return kept[:max_faces]


def has_multiple_faces(counts: Sequence[int], share: float = MULTIPLE_SHARE) -> bool:
    """Whether more than `share` of a video's frames have a second face; `counts` has the faces of each frame."""
    return sum(count > 1 for count in counts) > share * len(counts)
