"""How many videos have a score, and what a figure takes those for that have none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from tfdfd.metrics.errors import CoverageError
from tfdfd.metrics.scores import LEFT_OUT, NO_FACE, OK
from tfdfd.metrics.videos import Video

# P(fake) that a figure takes a video without a score for.
POLICIES = {"exclude": None, "as-real": 0.0, "as-fake": 1.0, "as-chance": 0.5}
LEAST = 0.99


@dataclass(frozen=True)
class Coverage:
    """Counts of videos.

    Attributes:
        expected: all of the set.
        scored: those with a score.
        no_face: read, but without a face.
        left_out: read, but left out by the face set's rule on several faces.
        broken: all others: missing, unreadable, too large, too slow.
        share: scored of expected.
    """

    expected: int
    scored: int
    no_face: int
    left_out: int
    broken: int
    share: float

    def counts(self) -> dict[str, int | float]:
        """All of it by name."""
        return asdict(self)


def coverage(videos: Sequence[Video]) -> Coverage:
    """Counts what became of the videos.

    Raises:
        CoverageError: there are none.
    """
    if not videos:
        raise CoverageError("there are no videos; the table of scores is empty.")
    counts = Counter(video.status for video in videos)
    scored, no_face, left_out = (counts[status] for status in (OK, NO_FACE, LEFT_OUT))
    broken = len(videos) - scored - no_face - left_out
    return Coverage(len(videos), scored, no_face, left_out, broken, scored / len(videos))


def require_coverage(found: Coverage, least: float = LEAST) -> None:
    """What a comparison calls first.

    Raises:
        CoverageError: a smaller share has a score.
    """
    if found.share < least:
        raise CoverageError(
            f"{found.scored:,} of {found.expected:,} videos have a score ({found.share:.1%}), less than the "
            f"{least:.1%} asked for: {found.no_face:,} have no face, {found.left_out:,} were left out for several "
            f"faces, {found.broken:,} could not be read."
        )


def filled(videos: Sequence[Video], missing: str = "exclude") -> list[Video]:
    """The videos that figures are of, in their order.

    Args:
        videos: with and without scores.
        missing: of `POLICIES`: `exclude` leaves those without a score out; the others put P(fake) of 0, 1 or 0.5 in
            its place, so that a model gains nothing by failing on what is hard. They keep their status.

    Raises:
        ValueError: no such policy.
    """
    if missing not in POLICIES:
        raise ValueError(f"missing must be one of {', '.join(POLICIES)}; received {missing!r}.")
    score = POLICIES[missing]
    if score is None:
        return [video for video in videos if video.status == OK]
    return [video if video.status == OK else replace(video, fake_probability=score) for video in videos]
