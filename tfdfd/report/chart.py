"""Layout of the report's charts: scores and times to coordinates.

Coordinates are percentages of the plot's width (from the left) and height (from the top), so that the page can draw
them as SVG at any width with text of constant size. This module is independent of HTML.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

# Outlines around (0, 0), about 9 px across, that distinguish tracks without color.
MARKERS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",  # circle
    "M-4 -4h8v8h-8z",  # square
    "M0 -5L5 4H-5z",  # triangle
    "M0 -5.5L5 0L0 5.5L-5 0z",  # diamond
    "M0 5L5 -4H-5z",  # triangle, point down
    "M-1.6 -5h3.2v3.4h3.4v3.2h-3.4v3.4h-3.2v-3.4h-3.4v-3.2h3.4z",  # plus
)
MARKERS_PER_LINE = 40
LONGEST_AXIS = 7  # labels on the time axis; more would overlap on a phone
GAP = 2.5  # times the median frame interval; a longer absence of a face is drawn as a gap


def time_chart(
    tracks: Sequence[Sequence[tuple[float, float]]],
    threshold: float | None = None,
    band: Sequence[float] | None = None,
    duration_s: float | None = None,
) -> dict | None:
    """Lays out the scores of face tracks over time.

    Args:
        tracks: for each track `(time_s, probability)` in any order, probability in [0, 1].
        threshold: scores at or above it are called fake, or None.
        band: `(low, high)` of the inconclusive scores, `0 <= low <= high <= 1`, or None.
        duration_s: length of the clip; the axis ends there or at the last frame, whichever is later.

    Returns:
        `start` and `end` of the axis in seconds; `series`, one dict per track with `marker` (SVG path around the
        origin), `lines` (strings of `x,y` pairs, one per stretch without a gap) and `points` (dicts `x`, `y`, `time_s`,
        `probability`; at most about `MARKERS_PER_LINE`); `x_ticks` and `y_ticks` (dicts `at`, `label`); `threshold_y`,
        a number or None; `band`, a dict `y`, `height` or None. None if there are fewer than two different times.

    Raises:
        ValueError: a score outside [0, 1] or a time that is not finite.
    """
    times = sorted({_checked_time(time_s) for track in tracks for time_s, _ in track})
    if len(times) < 2:
        return None
    start = min(0.0, times[0])
    end = max(times[-1], duration_s or 0.0)
    longest_step = GAP * median(later - earlier for earlier, later in zip(times, times[1:], strict=False))

    def x_of(time_s: float) -> float:
        return _rounded(100 * (time_s - start) / (end - start))

    series = []
    for number, track in enumerate(tracks):
        points = [
            {"x": x_of(time_s), "y": y_of(probability), "time_s": time_s, "probability": probability}
            for time_s, probability in sorted(track)
        ]
        series.append(
            {
                "marker": MARKERS[number % len(MARKERS)],
                "lines": _lines(points, longest_step),
                "points": points[:: math.ceil(len(points) / MARKERS_PER_LINE) or 1],
            }
        )
    return {
        "start": start,
        "end": end,
        "series": series,
        "x_ticks": [{"at": x_of(tick), "label": f"{tick:g}"} for tick in ticks(start, end)],
        "y_ticks": [{"at": y_of(tick), "label": f"{tick:g}"} for tick in (0, 0.25, 0.5, 0.75, 1)],
        "threshold_y": None if threshold is None else y_of(threshold),
        "band": band and {"y": y_of(band[1]), "height": _rounded(100 * (band[1] - band[0]))},
    }


def scale(probability: float, threshold: float | None = None, band: Sequence[float] | None = None) -> dict:
    """Lays out one score on a line from 0 (left) to 1 (right).

    Args:
        probability, threshold, band: as for `time_chart`.

    Returns:
        `x`; `threshold_x`, a number or None; `band`, a dict `x`, `width` or None.

    Raises:
        ValueError: a score outside [0, 1].
    """
    return {
        "x": _rounded(100 - y_of(probability)),
        "threshold_x": None if threshold is None else _rounded(100 - y_of(threshold)),
        "band": band and {"x": _rounded(100 * band[0]), "width": _rounded(100 * (band[1] - band[0]))},
    }


def y_of(probability: float) -> float:
    """Vertical position of a score: 0 (top) for 1, 100 (bottom) for 0."""
    if not 0 <= probability <= 1:
        raise ValueError(
            f"a score must be in [0, 1] to be drawn; received {probability!r}. Pass P(fake) after the sigmoid."
        )
    return _rounded(100 * (1 - probability))


def ticks(start: float, end: float) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from `start` to `end`, at most `LONGEST_AXIS`."""
    power = 10.0 ** math.floor(math.log10((end - start) / LONGEST_AXIS))
    for step in (power, 2 * power, 5 * power, 10 * power, 20 * power):
        first, last = math.ceil(start / step), math.floor(end / step)
        if last - first < LONGEST_AXIS:
            break
    return [_rounded(tick * step, 9) for tick in range(first, last + 1)]


def _lines(points: Sequence[Mapping[str, float]], longest_step: float) -> list[str]:
    stretches: list[list[Mapping[str, float]]] = []
    for point in points:
        if not stretches or point["time_s"] - stretches[-1][-1]["time_s"] > longest_step:
            stretches.append([])
        stretches[-1].append(point)
    return [" ".join(f"{p['x']:g},{p['y']:g}" for p in stretch) for stretch in stretches if len(stretch) > 1]


def _checked_time(time_s: float) -> float:
    if not math.isfinite(time_s):
        raise ValueError(f"the time of a frame must be finite, in seconds; received {time_s!r}.")
    return time_s


def _rounded(number: float, digits: int = 2) -> float:
    """Few digits keep the page small; adding 0.0 turns -0.0 into 0.0."""
    return round(float(number), digits) + 0.0
