"""Meaning of a score: its likelihood ratio with a verbal scale, and whether the model was tested on such faces."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfdfd.detect.results import FaceTrack
from tfdfd.detect.verdict import Rule
from tfdfd.faces.crop import MEASURES
from tfdfd.weights import WeightRecord

# Verbal equivalents of the ENFSI guideline for evaluative reporting in forensic science (2015), from each LR up. Below
# 2, the findings support neither proposition.
SUPPORT = (
    (1_000_000, "extremely strong"), (10_000, "very strong"), (1_000, "strong"), (100, "moderately strong"),
    (10, "moderate"), (2, "weak"),
)  # fmt: skip
INSIDE, OUTSIDE, UNKNOWN = TESTED = ("inside", "outside", "not_known")
_OUTSIDE_NOTE = "outside the tested range"


def likelihood_ratio(record: WeightRecord, kind: str | None, fake_probability: float, faces: int) -> dict[str, Any]:
    """The likelihood ratio of a score, as in the JSON.

    Every data domain of validation that holds inputs of this kind gives one, and the one nearest to 1 counts, as it is
    unknown which domain an input is from; 1 counts if they point to different sides.

    Args:
        record: record of the weights.
        kind: `image` or `video`.
        fake_probability: P(fake) of one face, in [0, 1].
        faces: number of deciding faces; the calibration holds for one.

    Returns:
        `value` (None if unknown), `support` (verbal equivalent), `reason` (why it is unknown), and `domains`: a list of
        `{domain, value, n_real, n_fake}`.
    """
    fitted = [one for one in record.likelihood_ratios if kind in one["kinds"]]
    if not fitted:
        return _unknown("the model card has no calibration scores for this kind of input")
    if faces != 1:
        return _unknown(f"it is calibrated for one face; {faces or 'no'} faces decide")
    logs = [_log10(one, fake_probability) for one in fitted]
    same_side = min(logs) > 0 or max(logs) < 0
    value = _rounded(min(logs, key=abs)) if same_side else 1.0
    domains = [
        {"domain": one["domain"], "value": _rounded(log), "n_real": one["n_real"], "n_fake": one["n_fake"]}
        for one, log in zip(fitted, logs, strict=True)
    ]
    return {"value": value, "support": support(value), "domains": domains}


def support(value: float) -> str:
    """The verbal equivalent of a likelihood ratio above 0."""
    strength = next((name for least, name in SUPPORT if max(value, 1 / value) >= least), None)
    if strength is None:
        return "no support for one over the other"
    return f"{strength} support for {'fake over real' if value > 1 else 'real over fake'}"


def _unknown(reason: str) -> dict[str, Any]:
    return {"value": None, "support": "not known", "reason": reason, "domains": []}


def _log10(fitted: Mapping[str, Any], probability: float) -> float:
    probability = min(max(probability, 1e-7), 1 - 1e-7)
    logit = math.log(probability) - math.log1p(-probability)
    low, high = fitted["log10_bounds"]
    return min(max(fitted["slope"] * logit + fitted["offset"], low), high)


def _rounded(log10: float) -> float:
    return float(f"{10**log10:.3g}")


def median_measures(frames: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Median of each measure over the frames of a face in which it could be measured."""
    names = [name for name in MEASURES if any(name in one for one in frames)]
    return {name: round(float(np.median([one[name] for one in frames if name in one])), 4) for name in names}


def compare_with_tested(record: WeightRecord, faces: Sequence[FaceTrack]) -> dict[str, Any]:
    """Whether the model was validated on faces like these, as in the JSON.

    Returns:
        `status` (of `TESTED`), and `outside`: a list of `{track, measure, value, tested}`; `tested` is the range as
        `[low, high]`, where None means no limit.
    """
    ranges = (record.tested_range or {}).get("measures", {})
    if not ranges or not any(face.measures for face in faces):
        return {"status": UNKNOWN, "outside": []}
    outside = [
        {"track": face.track, "measure": name, "value": value, "tested": list(ranges[name])}
        for face in faces
        for name, value in face.measures.items()
        if name in ranges and not _within(value, *ranges[name])
    ]
    return {"status": OUTSIDE if outside else INSIDE, "outside": outside}


def _within(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def tested_verdict(verdict: str, rule: Rule, faces: Sequence[FaceTrack], tested: Mapping[str, Any]) -> str:
    """The verdict, or `inconclusive` if it rests on a face outside the tested range.

    `real` rests on all faces; `fake` on any one that is fake by itself.
    """
    outside = {one["track"] for one in tested["outside"]}
    if verdict == "fake":
        supported = any(rule.verdict(f.fake_probability) == "fake" for f in faces if f.track not in outside)
    else:
        supported = not outside
    return verdict if supported else "inconclusive"


def outside_note(tested: Mapping[str, Any]) -> str | None:
    """The note on measures outside the tested range, for the user; None if there are none."""
    notes = dict.fromkeys(
        f"{MEASURES[one['measure']][0]} {number_text(one['value'])}, tested {range_text(one['tested'])}"
        for one in tested["outside"]
    )
    return f"{_OUTSIDE_NOTE}: {'; '.join(notes)}" if notes else None


def range_text(limits: Sequence[float | None]) -> str:
    """`from 3.3 to 2,104`, `from 129` or `to 0.62`."""
    ends = zip(("from", "to"), limits, strict=True)
    return " ".join(f"{word} {number_text(end)}" for word, end in ends if end is not None)


def number_text(value: float) -> str:
    """Three digits, without an exponent for large numbers."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
