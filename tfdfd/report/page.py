"""HTML report of `tfdfd detect`: one self-contained page without requests."""

from __future__ import annotations

import base64
import collections
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tfdfd.detect.evidence import number_text, range_text
from tfdfd.detect.record import record_text
from tfdfd.detect.result_folder import results_csv
from tfdfd.detect.results import VERDICTS, Detection, FaceTrack, printable_path
from tfdfd.faces.crop import MEASURES
from tfdfd.files import write_atomically
from tfdfd.html import environment, shown_probability
from tfdfd.report import chart
from tfdfd.report.pictures import PICTURED_INPUTS, TRACKS_PER_INPUT, Gallery, shown_tracks

TEMPLATES = Path(__file__).parent
# Limits that bound the page for any number of inputs, people and frames; pictures have theirs in `pictures`.
LISTED = 1000
TABLES = 20
# With more inputs, the details of one are text until it is opened: thousands of elements would take seconds to load.
DEFERRED = 50
# With more, the browser also leaves out the rows outside its window: a thousand would take seconds to lay out. Pictures
# of the page and checks of its contrast then lack those rows.
LONG = 200
ROWS_PER_TRACK = 200
MOMENTS = 64
JSON_BYTES = 16 << 20
_FRAME_BYTES = 150  # of JSON, at least
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
METHOD = (
    "Evenly spaced frames of a video are decoded, in a process of its own, which the system seals where it can.",
    "The face detector finds faces; each is cut out of the original frame, square, at 1.3 times its box.",
    "The network gives each crop a score, P(fake). Faces are linked into one track per person; a track has the mean.",
    "Faces that are small, doubtful or passing do not decide. The score of the input is the highest of the others.",
    "The score is compared with the threshold and the inconclusive band, raised for the number of faces that decide.",
)
TEST_RATES, DOMAIN_RATES = "Test sets, at the threshold", "Validation by kind of data, above the band"
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


def render_report(
    detections: Sequence[Detection],
    model: dict,
    *,
    settings: dict | None = None,
    record: dict[str, Any] | None = None,
    gallery: Gallery | None = None,
    name: str = "results",
) -> str:
    """Renders the results of one call as one self-contained HTML page.

    Args:
        detections: in the order of the page; Pictures come from `FrameScore.crop` and `Detection.views`, unless there
            is a `gallery`.
        model: `handle`, `sha256`, `threshold` (in [0, 1]), `inconclusive_band` (`[low, high]` or None) and `card` (the
            model card). Missing fields are left out of the page.
        settings: printable settings to list.
        record: result of `tfdfd.detect.record.make_record` for the same detections; the page can save it as JSON.
        gallery: pictures of the detections, by their place.
        name: name of the files that the page saves, without suffix.

    Returns:
        The page: valid Unicode, with one script, which its policy names by digest, and without anything that a browser
        would load. It lists `LISTED` inputs at most, and has the JSON output up to `JSON_BYTES`.

    Raises:
        ValueError: a threshold, band, score or crop is out of range.
    """
    band = model.get("inconclusive_band")
    lines = (_checked_threshold(model.get("threshold")), None if band is None else _checked_band(band))
    if gallery is None:
        gallery = Gallery(len(detections))
        for place, detection in enumerate(detections):
            gallery.add(place, detection)
    results = record["results"] if record else [detection.to_dict() for detection in detections]
    # Detections and results may be read from a file, each when it is asked for: there may be more than fit into memory.
    scores, verdicts, kinds = [], [], []
    for detection in detections:
        scores.append(detection.fake_probability)
        verdicts.append(detection.verdict)
        kinds.append(detection.kind)
    entries = []
    for place in _listed(scores):
        detection = detections[place]
        of_input = _lines_of(detection, lines)
        entry = _entry(place + 1, detection, results[place], of_input)
        entries.append(entry | _details(detection, of_input, gallery.get(place)))
    card = model.get("card") or {}
    script = Markup((TEMPLATES / "script.js").read_text("utf-8"))  # noqa: S704  (ours)
    return (
        environment(TEMPLATES)
        .get_template("page.html.j2")
        .render(
            entries=entries,
            only=entries[0] if len(detections) == 1 else None,
            total=len(detections),
            not_listed=len(detections) - len(entries),
            pictured=PICTURED_INPUTS,
            with_tables=len(entries) <= TABLES,
            deferred=len(entries) > DEFERRED,
            long=LONG,
            counts=_counts(verdicts),
            limits=LIMITS,
            date=record and record["date"],
            examination=_examination(detections, kinds, results, record, settings or {}),
            method=METHOD,
            error_rates=_error_rates(card),
            protocol=_text(card["protocol"]) if card.get("protocol") else None,
            repeat=f"tfdfd verify {name}.json INPUT" if record else None,
            model_facts=_model_facts(model, lines),
            card=_card(card),
            saved={"name": name, "csv": results_csv(results), **_json(record, results)},
            script=script,
            script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def write_report(path: str | os.PathLike, detections: Sequence[Detection], model: dict, **options: Any) -> None:
    """Writes the page of `render_report` to `path`, atomically.

    Args:
        path: the file; its folder must exist.
        detections, model, options: as for `render_report`.

    Raises:
        ValueError: see `render_report`; nothing is written.
        OSError: the file cannot be written; an older one is left as it was.
    """
    write_atomically(path, render_report(detections, model, **options))


def record_path(report: str | os.PathLike) -> Path:
    """The path of the record beside a report page: `page.record.json` for `page.html`."""
    return Path(report).with_suffix(".record.json")


def _lines_of(detection: Detection, lines: tuple) -> tuple:
    """Threshold and band of one input, which depend on its faces; the model's if it has none."""
    if detection.threshold is None:
        return lines
    band = detection.inconclusive_band
    return _checked_threshold(detection.threshold), None if band is None else _checked_band(band)


def _listed(scores: Sequence[float | None]) -> list[int]:
    """The places of the inputs that the page lists, in order; those with the highest P(fake) if there are too many."""
    places = sorted(range(len(scores)), key=lambda place: -(scores[place] or -1)) if len(scores) > LISTED else None
    return list(range(len(scores))) if places is None else sorted(places[:LISTED])


def _entry(number: int, detection: Detection, result: Mapping[str, Any], lines: tuple) -> dict[str, Any]:
    scored = detection.status == "ok"
    message = detection.message or ""
    judged = detection.faces_judged
    if judged is None:
        judged = sum(track.decides for track in detection.faces)
    size = result.get("bytes")
    facts = {
        "SHA-256": result.get("sha256"),
        "Size": size is not None and f"{size:,} bytes",
        "Frames left out as damaged": detection.frames_damaged,
        "Scoring took": detection.elapsed_s is not None and f"{detection.elapsed_s:.1f} s",
    }
    return {
        "number": number,
        "name": _name(detection.path),
        "kind": detection.kind,
        "status": detection.status,
        "status_text": STATUS_TEXT[detection.status],
        "scored": scored,
        "verdict": detection.verdict or "none",
        "probability": detection.fake_probability,
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
        "sha256": result.get("sha256"),
        "facts": {title: value for title, value in facts.items() if value},
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


def _name(path: str) -> str:
    """A file name on one line."""
    return printable_path(path).replace("\n", "\\n").replace("\t", "\\t")


def _details(detection: Detection, lines: tuple, pictures: dict[str, Any] | None) -> dict[str, Any]:
    """What the details of an input show besides its scores; the deciding face with the highest score comes first."""
    shown = shown_tracks(detection)
    found = pictures or {"frames": [], "strip": None, "tracks": {}, "frame_size": None}
    points = [[(frame.time_s, frame.fake_probability) for frame in track.frames] for track in shown]
    plot = None if detection.kind == "image" else chart.time_chart(points, *lines, detection.duration_s)  # type: ignore[call-arg]
    strip = found["strip"] if plot else None
    moments = _moments(shown, plot, strip, found["frame_size"]) if plot else []
    best = shown and max(shown[0].frames, key=lambda frame: frame.fake_probability).time_s
    return {
        "chart": plot,
        "strip": strip,
        "moments": moments,
        "first_moment": min(range(len(moments)), key=lambda place: abs(moments[place]["time"] - best), default=0),
        "frames": [shot | {"boxes": _boxes_at(shown, shot["index"], found["frame_size"])} for shot in found["frames"]],
        "pictured": pictures is not None or detection.status != "ok",
        "tracks": [
            {
                "name": _face(track),
                "marker": marker,
                "probability": track.fake_probability,
                "frame_count": len(track.frames),
                "left_out": None if track.decides else LEFT_OUT_TEXT.get(track.left_out, "left out"),  # type: ignore[arg-type]
                "scale": chart.scale(track.fake_probability, *lines),
                "crop_groups": found["tracks"].get(str(track.track), {}),
                "rows": track.frames[:ROWS_PER_TRACK],
            }
            for track, marker in zip(shown, chart.MARKERS, strict=False)
        ],
        "tracks_left_out": len(detection.faces) - len(shown),
    }


def _face(track: FaceTrack) -> str:
    return f"Face {track.track + 1}"


def _boxes_at(shown: Sequence[FaceTrack], index: int, frame_size: Sequence[int] | None) -> list[dict[str, Any]]:
    """The faces in one frame: name, P(fake), and box in percent of the frame."""
    return [
        {
            "name": _face(track),
            "number": track.track + 1,
            "color": f"t{place}",
            "probability": frame.fake_probability,
            **dict(zip(("x", "y", "width", "height"), _percent(frame.box, frame_size), strict=True)),
        }
        for place, track in enumerate(shown)
        for frame in track.frames
        if frame.index == index and frame_size
    ]


def _percent(box: Sequence[int], frame_size: Sequence[int]) -> list[float]:
    height, width = frame_size
    return [round(100 * side / of, 2) for side, of in zip(box, (width, height, width, height), strict=True)]


def _moments(
    shown: Sequence[FaceTrack], plot: dict[str, Any], strip: dict[str, Any] | None, frame_size: Sequence[int] | None
) -> list[dict[str, Any]]:
    """The positions of the timeline's slider: time, place on the plot, faces, and cell of the strip if there is one."""
    start, end = plot["start"], plot["end"]
    moments: dict[int, dict[str, Any]] = {}
    for place, track in enumerate(shown):
        for frame in track.frames:
            if strip and frame.index not in strip["indices"]:
                continue
            moment = moments.setdefault(
                frame.index,
                {
                    "time": round(frame.time_s, 3),
                    "x": round(100 * (frame.time_s - start) / (end - start), 2),
                    "cell": strip["indices"].index(frame.index) if strip else None,
                    "faces": [],
                },
            )
            face = {"name": _face(track), "color": f"t{place}", "p": shown_probability(frame.fake_probability)}
            moment["faces"].append(face | {"box": _percent(frame.box, frame_size) if frame_size else None})
    order = sorted(moments)
    return [moments[index] for index in order[:: -(-len(order) // MOMENTS) or 1]]


def _json(record: dict[str, Any] | None, results: Sequence[dict]) -> dict[str, str]:
    """The JSON output for the page, unless it is too large."""
    frames = sum(len(face["frames"]) for result in results for face in result.get("faces", ()))
    if frames * _FRAME_BYTES > JSON_BYTES:
        return {"json": ""}
    text = (
        record_text(record | {"results": list(results)})
        if record
        else json.dumps({"results": results}, indent=1) + "\n"
    )
    return {"json": text if len(text) <= JSON_BYTES else ""}


def _examination(
    detections: Sequence[Detection],
    kinds: Sequence[str | None],
    results: Sequence[Mapping[str, Any]],
    record: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """Groups of facts on what was examined, and with what."""
    examined: dict[str, Any] = {}
    if len(detections) == 1:
        size = results[0].get("bytes")
        examined = {
            "File": _name(detections[0].path),
            "Size": size is not None and f"{size:,} bytes",
            "SHA-256": results[0].get("sha256"),
        }
    else:
        counts = collections.Counter(kind or "unknown" for kind in kinds)
        examined["Inputs"] = f"{len(detections):,}; size and SHA-256 of each are in its details and in the CSV table"
        examined["Kinds"] = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))
    groups = {"Examined": examined}
    if record:
        used, machine = record["settings"], record["machine"]
        detector = {key: value for key, value in used["detector"].items() if key != "name" and value is not None}
        given = record["given_threshold"]
        examined["Date (UTC)"] = record["date"]
        groups["Instruments"] = {
            "Software": f"tfdfd {used['tfdfd']}",
            "Model": used["model"]["handle"],
            "SHA-256 of the weights": used["model"]["sha256"],
            "Threshold": f"{used['model']['threshold']:g}" + (" (given by the user)" if given is not None else ""),
            "Inconclusive band": _text(used["model"]["inconclusive_band"])
            if used["model"]["inconclusive_band"]
            else None,
            "Face detector": used["detector"]["name"] + (f" {_text(detector)}" if detector else ""),
            "Frames of a video": used["frames"],
            "Runtime": used["runtime"],
            "Libraries": ", ".join(f"{name} {version}" for name, version in machine["libraries"].items()),
            "Machine": f"{machine['system']} {machine['processor']}, Python {machine['python']}",
        }
        groups["Limits of one input"] = {_title(key): _text(value) for key, value in used["limits"].items()}
    if settings:
        groups["Settings"] = {_title(key): _text(value) for key, value in settings.items()}
    return {
        group: {title: value for title, value in rows.items() if value not in (None, False, "")}
        for group, rows in groups.items()
    }


def _error_rates(card: Mapping[str, Any]) -> dict[str, Any]:
    """Tables of the error rates in a model card, by title: at its threshold on test sets, by its band on validation."""
    scores = [row for row in card.get("scores") or () if isinstance(row, dict)]
    rows = []
    for row in scores:
        if row.get("weights") not in (None, "these"):
            continue
        caught = row.get("tpr_at_threshold")
        missed = round(1 - caught, 4) if isinstance(caught, (int, float)) else None
        rates = {"fpr": row.get("fpr_at_threshold"), "fnr": row.get("fnr", missed)}
        names = ("set", "level", "n_real", "n_fake", "auc", f"auc{INTERVAL}", "balanced_accuracy")
        rows.append({name: row[name] for name in names if row.get(name) is not None} | rates)
    domains = []
    for row in card.get("domains") or ():
        if isinstance(row, dict) and {"real_called_fake", "fake_called_fake"} & set(row):
            caught = row.get("fake_called_fake")
            names = ("set", "split", "level", "n_real", "n_fake", "auc", f"auc{INTERVAL}")
            rates = {"fpr": row.get("real_called_fake"), "fnr": None if caught is None else round(1 - caught, 4)}
            domains.append({name: row.get(name) for name in names} | rates)
    tables = {TEST_RATES: _table(rows), DOMAIN_RATES: _table(domains)}
    return {title: table for title, table in tables.items() if table}


def _counts(verdicts: Sequence[str | None]) -> dict[str, int]:
    counts = collections.Counter(verdict or "none" for verdict in verdicts)
    return {verdict: counts[verdict] for verdict in (*VERDICTS, "none")}


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
