"""HTML report of `tfdfd detect --report`: one self-contained page without scripts or requests."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfdfd.detect.evidence import number_text, range_text
from tfdfd.detect.results import VERDICTS, Detection, FaceTrack, printable_path
from tfdfd.faces.quality import MEASURES
from tfdfd.files import write_atomically
from tfdfd.html import as_jpeg, data_uri, environment
from tfdfd.report import chart

TEMPLATES = Path(__file__).parent
# Limits that bound the size of the page for any number of inputs, people and frames. The summary lists all inputs.
DETAILED_INPUTS = 50
TRACKS_PER_INPUT = len(chart.MARKERS)
ROWS_PER_TRACK = 200
CROPS_ON_PAGE = 400
CROPS_TOWARDS_FAKE = 6
CROPS_TOWARDS_REAL = 2
CROP_SIZE = 128
MESSAGE_LENGTH = 500

LEFT_OUT_TEXT = {
    "small": "too small to score reliably",
    "doubtful": "the face detector is not confident",
    "passing": "seen too rarely",
}
CORRECTION_TEXT = {
    "validation": "measured on genuine validation faces",
    "operating_points": "estimated from the operating points in the model card",
    "odds": "estimated from the odds, because the model card has no rates for genuine faces",
}
STATUS_TEXT = {
    "ok": "scored",
    "no_face": "no face found",
    "decode_error": "could not be decoded",
    "unsupported": "unsupported format",
    "too_large": "too large",
    "timeout": "took too long",
    "not_found": "file not found",
}
LIMITS = (
    "This is not forensic proof. A score is a hint that calls for review by a person and for other evidence: the "
    "origin of the file, other recordings, its metadata.",
    "On media from the wild, accuracy is far below the test figures on this page. Detectors lose most of their skill "
    "on manipulations, cameras and compression that they were not trained on; recompressed or downscaled copies from "
    "social networks are the hardest.",
    "“Inconclusive” means that the score is too close to the threshold for a verdict. It does not mean half fake.",
    "“Real” means that the model found no trace of the face manipulations it knows. Sound, text, other parts of the "
    "picture and fully generated scenes are not examined.",
    "A score applies to the faces found in the sampled frames, and to nothing else.",
)
# Fields of a model card that serve the comparison of models, not the reading of a verdict.
DETAILS = (
    "calibration_scores",
    "commands",
    "comparisons",
    "failure_cases",
    "genuine_tails",
    "latency",
    "likelihood_ratios",
    "mean_auc",
    "proof_scores",
    "recipe",
    "robustness",
    "samples",
    "tested_range",
    "tested_range_shares",
    "tippett",
    "training",
    "validation",
    "videos",
)
CARD_TABLES = (
    ("scores", "Scores"),
    ("operating_points", "Operating points"),
    ("likelihood_ratio_scores", "Likelihood ratios by data domain"),
    ("false_positives", "Genuine faces called fake, by group"),
)
# Suffix of the key of a 95 % interval.
INTERVAL = "_ci95"
COLUMN_TITLES = {
    "name": "Name",
    "set": "Test set",
    "weights": "Weights",
    "level": "Scored per",
    "n_real": "Real",
    "n_fake": "Fake",
    "auc": "AUC",
    "eer": "EER",
    "ap": "AP",
    "balanced_accuracy": "Balanced accuracy",
    "majority_baseline": "Majority baseline",
    "tpr_at_threshold": "TPR at threshold",
    "fpr_at_threshold": "FPR at threshold",
    "tpr_at_fpr_0.05": "TPR at 5 % FPR",
    "fpr": "FPR",
    "fnr": "FNR",
    "tpr": "TPR",
    "licence": "Licence",
    "training_data": "Training data",
}


def render_report(detections: Sequence[Detection], model: dict, *, settings: dict | None = None) -> str:
    """Renders the results of one call as one self-contained HTML page.

    Args:
        detections: in the order of the page. Pictures come from `FrameScore.crop`; frames without one are listed as
            numbers only.
        model: `handle`, `sha256`, `threshold` (in [0, 1]), `inconclusive_band` (`[low, high]` or None) and `card` (the
            model card). Missing fields are left out of the page.
        settings: printable settings to list at the end.

    Returns:
        The page: valid Unicode, without scripts and without anything that a browser would load.

    Raises:
        ValueError: a threshold, band, score or crop is out of range.
    """
    band = model.get("inconclusive_band")
    lines = (_checked_threshold(model.get("threshold")), None if band is None else _checked_band(band))
    inputs = [
        _summary(number, detection, _lines_of(detection, lines)) for number, detection in enumerate(detections, start=1)
    ]
    scored = [(entry, detection) for entry, detection in zip(inputs, detections, strict=True) if entry["scored"]]
    crops = _CropEncoder(CROPS_ON_PAGE)
    sections = [entry | _details(detection, entry["lines"], crops) for entry, detection in scored[:DETAILED_INPUTS]]
    return (
        environment(TEMPLATES)
        .get_template("page.html.j2")
        .render(
            inputs=inputs,
            sections=sections,
            detailed={section["number"] for section in sections},
            sections_left_out=len(scored) - len(sections),
            crops_used_up=crops.refused,
            crops_on_page=CROPS_ON_PAGE,
            counts=_counts(inputs),
            limits=LIMITS,
            model_facts=_model_facts(model, lines),
            card=_card(model.get("card") or {}),
            settings={_title(key): _text(value) for key, value in (settings or {}).items()},
        )
    )


def write_report(
    path: str | os.PathLike, detections: Sequence[Detection], model: dict, *, settings: dict | None = None
) -> None:
    """Writes the page of `render_report` to `path`, atomically.

    Args:
        path: the file; its folder must exist.
        detections, model, settings: as for `render_report`.

    Raises:
        ValueError: see `render_report`; nothing is written.
        OSError: the file cannot be written; an older one is left as it was.
    """
    write_atomically(path, render_report(detections, model, settings=settings))


def _lines_of(detection: Detection, lines: tuple) -> tuple:
    """Threshold and band of one input, which depend on its faces; the model's if it has none."""
    if detection.threshold is None:
        return lines
    band = detection.inconclusive_band
    return _checked_threshold(detection.threshold), None if band is None else _checked_band(band)


def _summary(number: int, detection: Detection, lines: tuple) -> dict[str, Any]:
    scored = detection.status == "ok"
    message = detection.message or ""
    judged = detection.faces_judged
    if judged is None:
        judged = sum(track.decides for track in detection.faces)
    return {
        "number": number,
        "name": printable_path(detection.path),
        "kind": detection.kind,
        "status": detection.status,
        "status_text": STATUS_TEXT[detection.status],
        "scored": scored,
        "verdict": detection.verdict or "none",
        "probability": detection.fake_probability,
        "lines": lines,
        "threshold": lines[0],
        "band": lines[1],
        "correction": CORRECTION_TEXT.get(detection.correction),  # type: ignore[arg-type]
        "uncorrected": detection.correction == "given" and judged > 1,
        "scale": chart.scale(detection.fake_probability, *lines) if scored else None,  # type: ignore[arg-type]
        "frames_requested": detection.frames_requested,
        "frames_scored": detection.frames_scored,
        "faces": len(detection.faces),
        "judged": judged,
        "duration_s": detection.duration_s,
        "elapsed_s": detection.elapsed_s,
        "likelihood_ratio": detection.likelihood_ratio,
        "tested": detection.tested_range and _tested(detection.tested_range),
        "provenance": detection.provenance,
        "message": message if len(message) <= MESSAGE_LENGTH else message[:MESSAGE_LENGTH] + " …",
    }


def _tested(tested: Mapping[str, Any]) -> dict[str, Any]:
    """Words on what is outside the tested range, at most one row per measure and face."""
    rows = [
        {
            "face": f"Face {one['track'] + 1}",
            "measure": MEASURES[one["measure"]][0],
            "value": number_text(one["value"]),
            "tested": range_text(one["tested"]),
        }
        for one in tested["outside"][: len(MEASURES) * TRACKS_PER_INPUT]
    ]
    return {"status": tested["status"], "rows": rows}


def _details(detection: Detection, lines: tuple, crops: _CropEncoder) -> dict[str, Any]:
    """Content of the section of a scored input; the deciding face with the highest score comes first."""
    worst_first = sorted(detection.faces, key=lambda track: (not track.decides, -track.fake_probability))
    shown = worst_first[:TRACKS_PER_INPUT]
    points = [[(frame.time_s, frame.fake_probability) for frame in track.frames] for track in shown]
    return {
        "chart": None if detection.kind == "image" else chart.time_chart(points, *lines, detection.duration_s),  # type: ignore[call-arg]
        "tracks": [
            {
                "name": f"Face {track.track + 1}",
                "track": track.track,
                "marker": marker,
                "probability": track.fake_probability,
                "frame_count": len(track.frames),
                "left_out": None if track.decides else LEFT_OUT_TEXT.get(track.left_out, "left out"),  # type: ignore[arg-type]
                "scale": chart.scale(track.fake_probability, *lines),
                "crop_groups": _crop_groups(track, crops),
                "rows": track.frames[:ROWS_PER_TRACK],
            }
            for track, marker in zip(shown, chart.MARKERS, strict=False)
        ],
        "tracks_left_out": len(worst_first) - len(shown),
    }


def _crop_groups(track: FaceTrack, crops: _CropEncoder) -> dict[str, list]:
    """Crops to show: those with the highest and with the lowest scores."""
    with_crop = sorted(
        (frame for frame in track.frames if frame.crop is not None), key=lambda frame: -frame.fake_probability
    )
    if len(with_crop) <= CROPS_TOWARDS_FAKE + CROPS_TOWARDS_REAL:
        groups = {"Every scored face, most fake first" if len(with_crop) > 1 else "The scored face": with_crop}
    else:
        groups = {
            "Strongest toward fake": with_crop[:CROPS_TOWARDS_FAKE],
            "Strongest toward real": with_crop[: -CROPS_TOWARDS_REAL - 1 : -1],
        }
    encoded = {
        title: [{"frame": frame, "uri": uri} for frame in frames if (uri := crops.encode(frame.crop))]
        for title, frames in groups.items()
    }
    for frame in track.frames:
        for title, picture in frame.explained.items():
            if uri := crops.encode(picture):
                encoded.setdefault(title, []).append({"frame": frame, "uri": uri})
    return {title: pictures for title, pictures in encoded.items() if pictures}


class _CropEncoder:
    """Encodes crops as data URIs until the page's budget of pictures is spent."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.refused = False

    def encode(self, crop: np.ndarray | None) -> str | None:
        if self.budget == 0:
            self.refused = True
            return None
        self.budget -= 1
        return data_uri(as_jpeg(crop, CROP_SIZE))  # type: ignore[arg-type]


def _counts(inputs: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {verdict: sum(entry["verdict"] == verdict for entry in inputs) for verdict in (*VERDICTS, "none")}


def _model_facts(model: Mapping[str, Any], lines: tuple) -> dict[str, Any]:
    threshold, band = lines
    values = {
        "Model": model.get("handle"),
        "SHA-256 of the weights": model.get("sha256"),
        "Threshold": threshold is not None and f"{threshold:g}",
        "Inconclusive band": band and f"{band[0]:g} to {band[1]:g}",
    }
    return {title: value for title, value in values.items() if value}


def _card(card: Mapping[str, Any]) -> dict[str, Any]:
    """The known parts of the model card as tables and rows of text."""
    # Fields that the page shows elsewhere are left out.
    card = {key: value for key, value in card.items() if key not in ("handle", "sha256", "threshold", *DETAILS)}
    limits = card.pop("limits", None) or []
    tables = {}
    for key, title in CARD_TABLES:
        if table := _table(card.get(key)):
            tables[title] = table
            del card[key]
    return {
        "tables": tables,
        "limits": [limits] if isinstance(limits, str) else [_text(limit) for limit in limits],
        "facts": {_title(key): _text(value) for key, value in card.items() if value not in (None, "", [], {})},
    }


def _table(rows: object) -> dict[str, Any] | None:
    """A list of objects, or an object of named objects, as headings and rows of text; None for anything else."""
    if isinstance(rows, dict):
        rows = [{"name": name, **row} for name, row in rows.items() if isinstance(row, dict)]
    if not (rows and isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
        return None
    order = {key: place for place, key in enumerate(COLUMN_TITLES)}
    present = dict.fromkeys(key for row in rows for key in row)
    # Intervals share the cell of their value; separate columns would not fit the page.
    keys = [key for key in present if not (key.endswith(INTERVAL) and key.removesuffix(INTERVAL) in present)]
    keys.sort(key=lambda key: order.get(key, len(order)))
    return {"titles": [_title(key) for key in keys], "rows": [[_cell(row, key) for key in keys] for row in rows]}


def _cell(row: Mapping[str, Any], key: str) -> str:
    interval = row.get(f"{key}{INTERVAL}")
    if isinstance(interval, list) and len(interval) == 2:
        return f"{_text(row.get(key))} [{_text(interval[0])}, {_text(interval[1])}]"
    return _text(row.get(key))


def _title(key: str) -> str:
    words = str(key).replace("_", " ").strip()
    return COLUMN_TITLES.get(key) or words[:1].upper() + words[1:]


def _text(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) <= 1 else f"{value:g}"
    if isinstance(value, (list, tuple)) and not any(isinstance(item, (dict, list, tuple)) for item in value):
        separator = " to " if len(value) == 2 and all(isinstance(item, (int, float)) for item in value) else ", "
        return separator.join(_text(item) for item in value)
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _checked_threshold(threshold: float | None) -> float | None:
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(
            f"the threshold must be in [0, 1]; received {threshold!r}. Pass the threshold of the verdicts."
        )
    return threshold


def _checked_band(band: Sequence[float]) -> tuple[float, float]:
    low, high = band
    if not 0 <= low <= high <= 1:
        raise ValueError(
            f"the inconclusive band must be [low, high] within [0, 1]; received {band!r}. Swap or clip it."
        )
    return low, high
