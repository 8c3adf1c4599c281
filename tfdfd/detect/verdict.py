"""Verdicts: which faces decide, the score of a clip, and the threshold for several faces."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfdfd.detect.results import FaceTrack
from tfdfd.weights import WeightRecord


def verdict_of(fake_probability: float, threshold: float, band: tuple[float, float] | None) -> str:
    """`inconclusive` inside the band, ends included; else `fake` from the threshold up, else `real`."""
    if band and band[0] <= fake_probability <= band[1]:
        return "inconclusive"
    return "fake" if fake_probability >= threshold else "real"


# Minimum mean confidence of a face besides the main one. Measured on clips with a background that MTCNN sometimes
# mistakes for a face: such tracks have 0.89 to 0.99, people 0.997 and more; people are also found in most frames.
SURE = {"mtcnn": 0.95, "ssd": 0.8}
# The same for the main face: each of some 540 genuine photographs of one person has 0.81 or more.
SURE_ENOUGH = {"mtcnn": 0.8, "ssd": 0.6}
MIN_PRESENCE = 0.5
# Minimum shorter side of a face's box in pixels. FaceForensics++ validation crops reduced to this width keep an AUC of
# 0.78 (of 0.93), and 15 % of the fakes are still called fake; at 32 px 3 % are, and most score like genuine faces.
MIN_SIDE = 40
# A face below this side, and below this share of the largest face, is a bystander or a patch of background.
BYSTANDER_SIDE, BYSTANDER_SHARE = 64, 1 / 3
SMALL, DOUBTFUL, PASSING = "small", "doubtful", "passing"


def choose_deciding(tracks: list[FaceTrack], sampled: list[int], detector: str) -> str | None:
    """Sets `decides` and `left_out` of each track.

    The main track is the longest one (in an image, the one of highest confidence) that is not small; it decides if its
    confidence reaches `SURE_ENOUGH`. Another track decides if it is not small, if its confidence reaches `SURE`, and,
    in a clip, if it was found in more than one frame and in at least half of the frames from its first to its last.
    Otherwise a single patch of background could decide.

    Args:
        tracks: all tracks of the input.
        sampled: indices of the sampled frames, ascending.
        detector: name of the face detector, which selects the confidences; a detector without any is trusted.

    Returns:
        A note on the tracks that do not decide, or None.
    """
    sides = [float(np.median([min(frame.box[2:]) for frame in track.frames])) for track in tracks]
    for track, side in zip(tracks, sides, strict=True):
        bystander = side < BYSTANDER_SIDE and side < BYSTANDER_SHARE * max(sides)
        track.left_out = SMALL if side < MIN_SIDE or bystander else None
    rest = [track for track in tracks if not track.left_out]
    main = max(rest, key=lambda track: (len(track.frames), _confidence(track) or 0), default=None)
    for track in rest:
        track.left_out = _doubt(track, sampled, detector, track is main)
    for track in tracks:
        track.decides = track.left_out is None
    return _note(Counter(track.left_out for track in tracks if not track.decides), len(tracks))


def _doubt(track: FaceTrack, sampled: Sequence[int], detector: str, main: bool) -> str | None:
    confidence, least = _confidence(track), (SURE_ENOUGH if main else SURE).get(detector)
    if least is not None and confidence is not None and confidence < least:
        return DOUBTFUL
    if main or len(sampled) == 1:
        return None
    first, last = track.frames[0].index, track.frames[-1].index
    between = sum(first <= index <= last for index in sampled)
    often = len(track.frames) > 1 and len(track.frames) >= MIN_PRESENCE * between
    return None if often else PASSING


def _confidence(track: FaceTrack) -> float | None:
    scores = [frame.detector_score for frame in track.frames if frame.detector_score is not None]
    return float(np.mean(scores)) if scores else None


def _note(left_out: Counter[str | None], total: int) -> str | None:
    if not left_out:
        return None
    kinds = " or ".join(kind for kind in (SMALL, DOUBTFUL, PASSING) if left_out[kind])
    count = sum(left_out.values())
    if count == total:
        return f"{'the face is' if count == 1 else f'all {count} faces are'} too {kinds} to decide"
    return f"{count} {kinds} face{' does' if count == 1 else 's do'} not decide"


def clip_score(tracks: list[FaceTrack]) -> float:
    """The highest score of a track: one forged person makes a forged clip."""
    return max(track.fake_probability for track in tracks)


def track_score(scores: list[float]) -> float:
    """Mean over the frames of one person."""
    return float(np.mean(scores))


# Maximum share of genuine inputs that are called fake, whatever their number of faces.
BOUND = 0.05
_DIGITS = 6
NONE, VALIDATION, OPERATING_POINTS, ODDS, GIVEN = CORRECTIONS = (
    "none", "validation", "operating_points", "odds", "given",
)  # fmt: skip
_BY = {
    VALIDATION: "",
    OPERATING_POINTS: " by the operating points of the model card",
    ODDS: " by the odds, as the model card has no rates of genuine faces",
}


@dataclass(frozen=True)
class Rule:
    """The rule that turns the highest score of some faces into a verdict.

    Attributes:
        threshold: a score above it is fake; without a band, a score at or above it.
        band: inconclusive band of `verdict_of`; its upper end is the threshold.
        correction: source of the threshold: `none`, the model card's, for one face; `validation`, `odds` and
            `operating_points`, see `rule_for`; `given` by the caller, the same for any number of faces.
        note: note for the user, or None.
    """

    threshold: float
    band: tuple[float, float] | None
    correction: str
    note: str | None = None

    def verdict(self, fake_probability: float) -> str:
        return verdict_of(fake_probability, self.threshold, self.band)


def rule_for(record: WeightRecord, faces: int, given: float | None = None) -> Rule:
    """The rule for the highest score of `faces` faces.

    The highest score of several genuine faces exceeds that of one. With N faces, each may be called fake at a rate of
    only 1 - (1 - BOUND)^(1/N) (Šidák); faces of one clip are correlated, which errs on the safe side. The threshold
    for this rate depends on the contents of the model card:

    - `validation`: the highest threshold of its `genuine_tails`, see `tail_threshold`.
    - `operating_points`: on the line through `fpr_5` and `fpr_1`, of logits over the logarithm of the rate.
    - `odds`: N times the odds of the threshold for one face. This is Bayes' rule for an input whose prior probability
      of a fake does not grow with its faces, and a tail that falls by e with each unit of the logit.

    The threshold is never below that for one face. The lower end of the band stays: an input is called real if all its
    faces are, and a fake among them is called real no more often than alone. A record without a band gets one, from
    its threshold up, so that no score is called real that would be called fake for one face.

    Args:
        record: record of the weights.
        faces: number of deciding faces; 0 counts as 1.
        given: the caller's threshold, or None.
    """
    if given is not None:
        note = f"{faces} faces are held against the given threshold without a correction" if faces > 1 else None
        return Rule(given, None, GIVEN, note)
    band = record.inconclusive_band
    low, single = band or (record.threshold, record.threshold)
    if faces < 2:
        return Rule(single, band, NONE)
    raised, correction = _raised(record, single, faces)
    threshold = max(single, round(_sigmoid(raised), _DIGITS))
    if threshold == single:
        return Rule(single, band, correction)
    note = f"the threshold is {threshold:.3f} instead of {single:.3f}, corrected for {faces} faces{_BY[correction]}"
    return Rule(threshold, (low, threshold), correction, note)


def tail_threshold(tail: dict, rate: float) -> float:
    """The logit that at most a share `rate` of genuine faces exceeds.

    Each of n + 1 exchangeable faces is equally likely to be among the highest i, so that a new one exceeds the i-th of
    n measured scores with probability i / (n + 1), whatever their distribution. For rates below 1 / (n + 1), the tail
    beyond the highest score is modeled as exponential in logits. Its mean excess m was estimated from k faces, so that
    a new face exceeds k m (q^(-1/k) - 1), not -m log(q), with probability q; this is exact for such a tail.

    Args:
        tail: an item of `WeightRecord.genuine_tails`.
        rate: share in (0, 1).
    """
    highest, count = tail["highest"], tail["n_above"]
    exceeded = int(rate * (tail["n"] + 1) + 1e-9)
    if exceeded:
        return _logit(highest[min(exceeded, len(highest)) - 1])
    rarer = 1 / (tail["n"] + 1) / rate
    return _logit(highest[0]) + count * tail["mean_excess"] * (rarer ** (1 / count) - 1)


def _raised(record: WeightRecord, single: float, faces: int) -> tuple[float, str]:
    rate = -math.expm1(math.log1p(-BOUND) / faces)
    if record.genuine_tails:
        return max(tail_threshold(tail, rate) for tail in record.genuine_tails), VALIDATION
    line = _line(record.card.get("operating_points"))
    if line:
        start, start_rate, slope = line
        return start + slope * math.log(start_rate / rate), OPERATING_POINTS
    return _logit(single) + math.log(faces), ODDS


def _line(points: Mapping[str, Any] | None) -> tuple[float, float, float] | None:
    """Logit and rate at `fpr_5`, and the rise of the logit per factor e of the rate; None without these points."""
    try:
        (low, low_rate), (high, high_rate) = [
            (_logit(float(points[name]["threshold"])), float(points[name]["fpr"]))  # type: ignore[index]
            for name in ("fpr_5", "fpr_1")
        ]
    except (KeyError, TypeError, ValueError):
        return None
    if not (0 < high_rate < low_rate < 1 and low < high):
        return None
    return low, low_rate, (high - low) / math.log(low_rate / high_rate)


def _logit(probability: float) -> float:
    # Float32 sigmoids saturate at exactly 0 and 1, whose logits are infinite.
    probability = min(max(probability, 1e-7), 1 - 1e-7)
    return math.log(probability) - math.log1p(-probability)


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-min(logit, 700.0)))
