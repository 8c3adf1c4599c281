"""Scores as rows of a model card: every figure with its counts, level, threshold, interval and the majority's share."""

from __future__ import annotations

from collections.abc import Sequence

from tfdfd.metrics.comparison import compare
from tfdfd.metrics.intervals import bootstrap_interval
from tfdfd.metrics.metrics import auc, balanced_accuracy
from tfdfd.metrics.report import FRAME, VIDEO, compute_report
from tfdfd.metrics.scores import OK, ScoreRow

RESAMPLES = 2000
# A photograph stays with the fake that was made of it.
CLUSTER = "source"
# Ending of the key of a 95 % interval, beside the key of its figure.
INTERVAL = "_ci95"
_FIGURES = {
    "auc": "auc",
    "eer": "eer",
    "balanced_accuracy": "balanced_accuracy",
    "accuracy": "accuracy",
    "tpr_at_fpr_0.05": "tpr_at_fpr_5",
}
_CALIBRATION = {"brier": "brier", "ece": "ece", "ece_debiased": "ece_debiased", "log_loss": "log_loss"}
_DIGITS = 4


def figures(
    name: str, weights: str, rows: Sequence[ScoreRow], threshold: float, level: str = "image", note: str | None = None
) -> tuple[dict, dict, list[dict]]:
    """What a network's scores of a set are worth.

    Args:
        name: of the set.
        weights: whose scores they are.
        rows: the scores; each image is a video of its own, or the rows of one video are its crops.
        threshold: from which up the verdict is fake; not chosen on these.
        level: what an example is.
        note: what a reader must know of the set.

    Returns:
        A row of figures, a row of calibration, and the examples furthest from their label, wrong verdicts first.
    """
    judged = compute_report(rows, threshold, cluster=CLUSTER, resamples=RESAMPLES)
    found = judged[VIDEO]
    if judged[FRAME]["n"] != found["n"]:
        level = "video, mean of its crops"
    head = {"set": name, "weights": weights, "level": level, "n_real": found["n_real"], "n_fake": found["n_fake"]}
    counts, notes = found["confusion"], [note] if note else []
    told = head | {"threshold": round(threshold, 6)} | _rounded(found, _FIGURES, notes)
    told["tpr_at_threshold"] = _share(counts["fake_as_fake"], found["n_fake"])
    told["fpr_at_threshold"] = _share(counts["real_as_fake"], found["n_real"])
    told["majority_baseline"] = round(found["majority"], _DIGITS)
    without = sum(row.status != OK for row in rows)
    if without:
        notes.append(f"{without} without a score are in no figure")
    if notes:
        told["note"] = "; ".join(dict.fromkeys(notes))
    return told, head | _rounded(found, _CALIBRATION, []), judged["hardest"]


def difference(name: str, rows: Sequence[ScoreRow], others: Sequence[ScoreRow], against: str) -> dict | None:
    """The AUC of the first less that of the second on the same examples; None where a class has not two of them.

    `p` is of a paired bootstrap; `p_delong` of DeLong's test, where each example is of a source of its own.

    Args:
        name: of the set.
        rows: scores of one network.
        others: of the other one.
        against: what the other one is called.
    """
    compared = compare(rows, others, cluster=CLUSTER, resamples=RESAMPLES)
    found, tested = compared["auc"], compared["delong"]
    # What a class has one of is the same in every resample.
    sources = [{_source(row) for row in rows if row.label == label} for label in (0, 1)]
    if found is None or min(map(len, sources)) < 2:
        return None
    alone = sum(map(len, sources)) == len(rows)
    return {
        "set": name,
        "against": against,
        "auc_difference": round(found["difference"], _DIGITS),
        f"auc_difference{INTERVAL}": [round(end, _DIGITS) for end in found["interval"]],
        "p": round(found["p"], _DIGITS),
        "p_delong": float(f"{tested['p']:.3g}") if alone and tested and tested["p"] is not None else None,
    }


def short_figures(rows: Sequence[ScoreRow], threshold: float) -> dict:
    """AUC with its interval, and balanced accuracy, of images."""
    scored = [row for row in rows if row.status == OK]
    labels, scores = [row.label for row in scored], [row.fake_probability for row in scored]
    sources = [_source(row) for row in scored]
    low, high = bootstrap_interval(auc, labels, scores, sources, RESAMPLES)
    return {
        "auc": round(auc(labels, scores), _DIGITS),
        f"auc{INTERVAL}": [round(low, _DIGITS), round(high, _DIGITS)],
        "balanced_accuracy": round(balanced_accuracy(labels, scores, threshold), _DIGITS),
    }


def mean_auc(rows: Sequence[dict]) -> list[dict]:
    """For each set of weights the mean of its AUCs over the sets on which all of them have one, whatever their sizes.

    Args:
        rows: of `figures`.
    """
    names = list(dict.fromkeys(row["weights"] for row in rows))
    by_set = {}
    for row in rows:
        by_set.setdefault(row["set"], {})[row["weights"]] = row["auc"]
    sets = [name for name, found in by_set.items() if all(found.get(weights) is not None for weights in names)]
    return [
        {
            "weights": weights,
            "mean_auc": round(sum(by_set[name][weights] for name in sets) / len(sets), _DIGITS) if sets else None,
            "sets": sets,
        }
        for weights in names
    ]


def _rounded(found, names, notes):
    told, reasons = {}, {}
    for ours, theirs in names.items():
        one = found[theirs]
        interval = one.get("interval")
        told[ours] = None if one["value"] is None else round(one["value"], _DIGITS)
        told[f"{ours}{INTERVAL}"] = interval and [round(end, _DIGITS) for end in interval]
        for key in ("reason", "interval_reason"):
            if one.get(key):
                reasons.setdefault(one[key].rstrip("."), []).append(ours)
    notes += [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return told


def _source(row):
    return ";".join(row.source_id) or row.video


def _share(part, whole):
    return round(part / whole, _DIGITS) if whole else None
