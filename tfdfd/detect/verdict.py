"""From the scores of single faces to the score of a clip and its verdict."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from tfdfd.detect.results import FaceTrack
from tfdfd.weights.records import WeightRecord


def verdict_of(fake_probability: float, threshold: float, band: tuple[float, float] | None) -> str:
    """`inconclusive` inside the band, ends included; else `fake` from the threshold up, else `real`."""
    if band and band[0] <= fake_probability <= band[1]:
        return "inconclusive"
    return "fake" if fake_probability >= threshold else "real"


# Which faces decide --------------------------------------------------------------------------------------------------

# Mean confidence from which a second face is taken for one. Measured on clips with a background that MTCNN takes for
# a face now and then: such tracks have 0.89 to 0.99, people 0.997 and more; a person is found in most frames, too.
SURE = {"mtcnn": 0.95, "ssd": 0.8}
# The same for the main face: all of some 540 genuine photographs of one person have 0.81 and more.
SURE_ENOUGH = {"mtcnn": 0.8, "ssd": 0.6}
MIN_PRESENCE = 0.5
# Shorter side of a face's box in pixels. FaceForensics++ validation crops reduced to this width keep an AUC of 0.78 of
# 0.93, and 15 % of the fakes are still called fake; at 32 px 3 % are, and most score as genuine faces do.
MIN_SIDE = 40
# A face below this side that is small beside the largest one, too, is a bystander or a patch of background.
BYSTANDER_SIDE, BYSTANDER_SHARE = 64, 1 / 3
SMALL, DOUBTFUL, PASSING = "small", "doubtful", "passing"


def choose_deciding(tracks: list[FaceTrack], sampled: list[int], detector: str) -> str | None:
    """Sets `decides` and `left_out` of each track; returns a note on those left out, or None.

    The main track is the longest (in an image, the surest) that is not small; it decides if the detector is fairly sure
    of it. Another decides if it is not small, if the detector is sure of it, and, in a clip, if it was found in more
    than one frame and in at least half of those between its first and its last. Otherwise one mistaken patch of
    background would decide.

    Args:
        tracks: all tracks of the input.
        sampled: numbers of the frames that were looked at, ascending.
        detector: name of the face detector, for what "sure" means; one without confidences is believed.
    """
    sides = [_side(track) for track in tracks]
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


def _doubt(track, sampled, detector, main):
    confidence, least = _confidence(track), (SURE_ENOUGH if main else SURE).get(detector)
    if least is not None and confidence is not None and confidence < least:
        return DOUBTFUL
    if main or len(sampled) == 1:
        return None
    first, last = track.frames[0].index, track.frames[-1].index
    between = sum(first <= index <= last for index in sampled)
    often = len(track.frames) > 1 and len(track.frames) >= MIN_PRESENCE * between
    return None if often else PASSING


def _side(track):
    return float(np.median([min(frame.box[2:]) for frame in track.frames]))


def _confidence(track):
    scores = [frame.detector_score for frame in track.frames if frame.detector_score is not None]
    return float(np.mean(scores)) if scores else None


def _note(left_out, total):
    if not left_out:
        return None
    kinds = " or ".join(kind for kind in (SMALL, DOUBTFUL, PASSING) if left_out[kind])
    count = sum(left_out.values())
    if count == total:
        return f"{'the face is' if count == 1 else f'all {count} faces are'} too {kinds} to decide"
    return f"{count} {kinds} face{' does' if count == 1 else 's do'} not decide"


def clip_score(tracks: list[FaceTrack]) -> float:
    """The score of the worst track: one forged person makes a forged clip."""
    return max(track.fake_probability for track in tracks)


def track_score(scores: list[float]) -> float:
    """Mean over the frames of one person."""
    return float(np.mean(scores))


# What the worst of several faces is held against ---------------------------------------------------------------------

# At most this share of genuine inputs is called fake, however many faces they show.
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
    """What the worst of some faces is held against.

    Attributes:
        threshold: a score above it is fake; without a band, a score from it up.
        band: of `verdict_of`; its upper end is the threshold.
        correction: where the threshold comes from: `none`, the model card's, of one face; `validation`, `odds` and
            `operating_points`, see `rule_for`; `given` by the caller, and the same for any number of faces.
        note: what to tell of it, or None.
    """

    threshold: float
    band: tuple[float, float] | None
    correction: str
    note: str | None = None

    def verdict(self, fake_probability: float) -> str:
        return verdict_of(fake_probability, self.threshold, self.band)


def rule_for(record: WeightRecord, faces: int, given: float | None = None) -> Rule:
    """What the worst of `faces` faces is held against.

    The worst of several genuine faces scores higher than one. With N faces each may be called fake at a rate of
    1 - (1 - BOUND)^(1/N) only (Šidák); faces of one clip resemble each other, which makes that safe. The threshold for
    this rate is, by what the model card has:

    - `validation`: the highest that any of its `genuine_tails` asks for, see `tail_threshold`.
    - `operating_points`: on the line through `fpr_5` and `fpr_1`, of logits against the logarithm of the rate.
    - `odds`: N times the odds of the threshold for one face. It is Bayes' rule for an input whose chance of showing
      a fake does not grow with its faces, and a tail that falls by e with each unit of the logit.

    It is never below the threshold for one face. The low end of the band stays: an input is called real if all faces
    are, and a fake among them is called real no more often than if it was alone. A record without a band gets one,
    from its threshold up, so that no score is called real that would be called fake on a face alone.

    Args:
        record: of the weights.
        faces: that decide; 0 counts as 1.
        given: the caller's own threshold.
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

    Of n + 1 faces of one kind each is as likely as any to be among the highest i, so that a new one exceeds the i-th
    of n measured scores with probability i / (n + 1), whatever their distribution. For rates below 1 / (n + 1) the
    tail beyond the highest score is taken for exponential in logits. Its mean excess m was measured on k faces only,
    so what a new face exceeds with probability q is not -m log(q) but k m (q^(-1/k) - 1), which is exact for such a
    tail.

    Args:
        tail: of `WeightRecord.genuine_tails`.
        rate: above 0.
    """
    highest, count = tail["highest"], tail["n_above"]
    exceeded = int(rate * (tail["n"] + 1) + 1e-9)
    if exceeded:
        return _logit(highest[min(exceeded, len(highest)) - 1])
    rarer = 1 / (tail["n"] + 1) / rate
    return _logit(highest[0]) + count * tail["mean_excess"] * (rarer ** (1 / count) - 1)


def _raised(record, single, faces):
    rate = -math.expm1(math.log1p(-BOUND) / faces)
    if record.genuine_tails:
        return max(tail_threshold(tail, rate) for tail in record.genuine_tails), VALIDATION
    line = _line(record.card.get("operating_points"))
    if line:
        start, start_rate, slope = line
        return start + slope * math.log(start_rate / rate), OPERATING_POINTS
    return _logit(single) + math.log(faces), ODDS


def _line(points):
    """Logit and rate of `fpr_5`, and by how much the logit rises with each e-th part of the rate; None without one."""
    try:
        (low, low_rate), (high, high_rate) = [
            (_logit(float(points[name]["threshold"])), float(points[name]["fpr"])) for name in ("fpr_5", "fpr_1")
        ]
    except (KeyError, TypeError, ValueError):
        return None
    if not (0 < high_rate < low_rate < 1 and low < high):
        return None
    return low, low_rate, (high - low) / math.log(low_rate / high_rate)


def _logit(probability):
    # Float32 sigmoids end in exact 0 and 1, whose logits are infinite.
    probability = min(max(probability, 1e-7), 1 - 1e-7)
    return math.log(probability) - math.log1p(-probability)


def _sigmoid(logit):
    return 1 / (1 + math.exp(-min(logit, 700.0)))
