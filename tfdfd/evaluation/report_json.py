"""`report.json`: everything that the other forms of a report are made from. See `report.schema.json`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tfdfd.evaluation.document_tables import Judged, document_tables
from tfdfd.metrics.comparison import compare
from tfdfd.metrics.intervals import RESAMPLES
from tfdfd.metrics.report import FRAME, VIDEO, compute_report
from tfdfd.metrics.scores import NO_FACE, OK, ScoreRow, aggregate_videos, filled
from tfdfd.version import __version__

SCHEMA = 1
BINS = 25
# Warnings that nothing may stand before, and those that come last.
LOUD = ("trained_on", "one_verdict", "no_better_than_majority", "worse_than_chance", "no_scores")
QUIET = ("too_few",)
_NAMED = 20


def make_report(
    scored: Sequence[tuple[dict, Sequence[ScoreRow]]],
    sets: Sequence[dict],
    *,
    threshold: float | None = None,
    table: str | None = None,
    aggregation: str = "mean",
    missing: str = "exclude",
    cluster: str = "video",
    resamples: int = RESAMPLES,
    seed: int = 0,
    leaks: dict | None = None,
    warnings: Sequence[dict[str, str]] = (),
    trained: Sequence[dict] = ({}, {}),
) -> dict:
    """Judges one model, or two on the same sets.

    Args:
        scored: for each model what `scores.json` says of it, and its scores.
        sets: what `scores.json` says of the sets.
        threshold: of P(fake), for the first model; None: its own. The second one is always read at its own.
        table: `s0` ... `s4`: the tables of a document besides.
        aggregation, missing, cluster, resamples, seed: as for `tfdfd.metrics.report.compute_report`.
        leaks: of `tfdfd.evaluation.training_overlap.overlap`.
        warnings: what is known already, `{code, where, message}`.
        trained: for each model what its run says of its training, for `s3`.

    Returns:
        What JSON holds of it, the same for the same scores.

    Raises:
        ValueError: no scores, no threshold, or an argument that is none of its values.
    """
    how = {"aggregation": aggregation, "missing": missing, "cluster": cluster, "resamples": resamples, "seed": seed}
    models = [
        _judged(about, rows, _threshold(about, threshold if not place else None), how, told)
        for place, ((about, rows), told) in enumerate(zip(scored, trained, strict=False))
    ]
    (about, rows), first = scored[0], models[0]
    compared = None
    if len(models) > 1:
        same = {name: how[name] for name in ("aggregation", "cluster", "resamples", "seed")}
        compared = compare(rows, scored[1][1], **same)
    # What the second model is warned of, it is warned of by name.
    others = [
        one | {"where": f"{model.name}, {one['where']}", "message": f"{model.name}: {one['message']}"}
        for model in models[1:]
        for one in model.judged["warnings"]
    ]
    return {
        "schema": SCHEMA,
        "tfdfd": __version__,
        "model": about,
        "threshold": {
            "value": first.judged["protocol"]["threshold"],
            "source": "the model's own" if threshold is None else "given",
        },
        "sets": list(sets),
        "videos_known": bool(sets) and all(one.get("videos_known") for one in sets),
        "crops": _crops(rows),
        "leaks": leaks,
        "warnings": sorted([*first.judged["warnings"], *warnings, *others], key=_place),
        "judged": first.judged,
        "histogram": histogram_of(rows, aggregation, missing),
        "second": None if len(models) == 1 else {"model": scored[1][0], "judged": models[1].judged},
        "comparison": compared,
        "document": table,
        "tables": [one.told() for one in document_tables(table, models)] if table else [],
    }


def histogram_of(rows: Sequence[ScoreRow], aggregation: str, missing: str) -> dict:
    """How many real and fake videos and frames have a score in each of 25 bins of [0, 1]."""
    edges = np.linspace(0, 1, BINS + 1)
    told = {"edges": edges.round(6).tolist()}
    videos = filled(aggregate_videos(rows, aggregation), missing)
    for level, examples in ((VIDEO, videos), (FRAME, [row for row in rows if row.status == OK])):
        told[level] = {}
        for label, kind in enumerate(("real", "fake")):
            scores = [one.fake_probability for one in examples if one.label == label]
            told[level][kind] = np.histogram(scores, edges)[0].tolist()
    return told


def as_json(report: dict) -> str:
    """The text of `report.json`."""
    return json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _judged(about, rows, threshold, how, trained):
    judged = compute_report(rows, threshold, **how)
    return Judged(about["handle"], about.get("network") or about["handle"], rows, judged, trained)


def _threshold(about, given):
    threshold = about.get("threshold") if given is None else given
    if threshold is None:
        raise ValueError(f"no threshold is known of {about['handle']}; give --threshold, chosen on validation.")
    return threshold


def _place(warning):
    return 0 if warning["code"] in LOUD else 2 if warning["code"] in QUIET else 1


def _crops(rows):
    """Counts of crops, and names of those without a score."""
    crops = [row for row in rows if row.file is not None]
    counts = Counter(row.status for row in crops)
    gone = [row for row in rows if row.status != OK]
    named = [f"{row.file or row.video}: {row.status}" for row in gone[:_NAMED]]
    if len(gone) > _NAMED:
        named.append(f"and {len(gone) - _NAMED:,} more, in the table of scores")
    broken = len(crops) - counts[OK] - counts[NO_FACE]
    told = {"expected": len(crops), "scored": counts[OK], "no_face": counts[NO_FACE], "broken": broken}
    return told | {"unscored": named}
