"""The tables of a report from what was judged."""

from __future__ import annotations

from tfdfd.evaluation.table import NOTHING, Table, counted, figure, number, percent
from tfdfd.metrics.report import FRAME, VIDEO

LEVELS = (VIDEO, FRAME)
_FIGURES = {
    "auc": "AUC",
    "eer": "EER",
    "average_precision": "average precision",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "tpr_at_fpr_1": "TPR at 1 % FPR",
    "tpr_at_fpr_5": "TPR at 5 % FPR",
    "log_loss": "log-loss",
    "brier": "Brier",
    "ece": "ECE, 15 equal-mass bins",
    "ece_debiased": "ECE, debiased",
}
_COMPARED = {"auc": "AUC", "eer": "EER", "log_loss": "log-loss", "brier": "Brier"}
_CELLS_OF_A_PART = ("auc", "eer", "average_precision", "balanced_accuracy", "tpr_at_fpr_5", "log_loss")
_MISSING = {
    "exclude": "videos without a score are in no figure",
    "as-real": "videos without a score count as P(fake) 0",
    "as-fake": "videos without a score count as P(fake) 1",
    "as-chance": "videos without a score count as P(fake) 0.5",
}


def protocol_line(judged: dict, level: str | None = None, part: dict | None = None) -> str:
    """Data, split, counts, level, threshold, aggregation: what stands beside each figure.

    Args:
        judged: of `tfdfd.metrics.report.compute_report`.
        level: `video` or `frame`; None for both, with how intervals were made.
        part: of `judged["per_dataset"]`, where the figures are of one data set only.
    """
    told, counts = judged["protocol"], part or judged
    data = [part["dataset"]] if part else told["datasets"]
    parts = [f"data {', '.join(data) or 'none'}", f"split {', '.join(told['splits']) or 'none'}"]
    sizes = [f"{counts[each]['n_real']:,} real and {counts[each]['n_fake']:,} fake {each}s" for each in LEVELS]
    parts.append(sizes[LEVELS.index(level)] if level else "; ".join(sizes))
    parts.append(f"threshold {told['threshold']:.6g}")
    if level != FRAME:
        parts.append(f"video score: {told['aggregation']} of its crops; {_MISSING[told['missing']]}")
    drawn = told["bootstrap"]
    if drawn["resamples"] and not level:
        parts.append(
            f"[95 % intervals: bootstrap over {drawn['over']}s, {drawn['resamples']:,} resamples, seed {drawn['seed']}]"
        )
    return "; ".join(parts)


def main_table(judged: dict) -> Table:
    """Every figure of videos and frames."""
    rows, notes = [], []
    for name, title in _FIGURES.items():
        rows.append((title, *(_with_majority(judged[level], name) for level in LEVELS)))
        if name == "auc" and judged[VIDEO][name].get("delong"):
            low, high = judged[VIDEO][name]["delong"]
            rows.append(("AUC, DeLong's 95 % interval", f"[{low:.3f}, {high:.3f}]", NOTHING))
        for level in LEVELS:
            for key in ("reason", "interval_reason"):
                if why := judged[level][name].get(key):
                    notes.append(f"{title} of {level}s: {why}")
    counts = tuple(f"{judged[level]['n_real']:,} / {judged[level]['n_fake']:,}" for level in LEVELS)
    rows.insert(0, ("real / fake", *counts))
    return Table("Figures", protocol_line(judged), ("", "videos", "frames"), tuple(rows), tuple(_grouped(notes)))


def confusion_table(judged: dict, level: str) -> Table:
    """Actual class by verdict."""
    found = judged[level]["confusion"]
    rows = ()
    if found:
        rows = tuple(
            (kind, counted(found[f"{kind}_as_real"]), counted(found[f"{kind}_as_fake"])) for kind in ("real", "fake")
        )
    columns = ("actually", "called real", "called fake")
    return Table(f"Confusion matrix, {level}s", protocol_line(judged, level), columns, rows)


def class_table(judged: dict, level: str) -> Table:
    """Precision, recall, F1 and support of both classes, their means, and accuracy beside the majority's."""
    found, rows = judged[level]["classes"], ()
    if found:
        rows = tuple(
            (name, *(number(row[key]) for key in ("precision", "recall", "f1")), counted(row["support"]))
            for name, row in found.items()
        )
        rows += (
            ("accuracy", "", "", number(judged[level]["accuracy"]["value"]), counted(judged[level]["n"])),
            ("majority baseline", "", "", number(judged[level]["majority"]), counted(judged[level]["n"])),
        )
    columns = ("", "precision", "recall", "F1", "support")
    return Table(f"Classes, {level}s", protocol_line(judged, level), columns, rows)


def part_tables(judged: dict) -> list[Table]:
    """By data set, by method, and by compression where there is one: each fake part against all reals of its set."""
    tables = [_part_table("By data set", judged["per_dataset"], (), judged)]
    tables.append(
        _part_table("By method, each against all reals of its data set", judged["per_method"], ("method",), judged)
    )
    if any(part["compression"] for part in judged["per_compression"]):
        tables.append(_part_table("By compression", judged["per_compression"], ("compression",), judged))
    return tables


def coverage_table(report: dict) -> Table:
    """What became of the videos and of the crops."""
    found, crops = report["judged"]["coverage"], report["crops"]
    rows = [
        ("expected", counted(found["expected"]), counted(crops["expected"])),
        ("scored", counted(found["scored"]), counted(crops["scored"])),
        ("without a face", counted(found["no_face"]), counted(crops["no_face"])),
        ("left out for several faces", counted(found["left_out"]), NOTHING),
        ("broken or missing", counted(found["broken"]), counted(crops["broken"])),
        ("coverage", percent(found["share"]), percent(crops["scored"] / max(1, crops["expected"]))),
    ]
    notes = [f"{_MISSING[report['judged']['protocol']['missing']]} (--missing)."]
    notes += [f"without a score: {text}" for text in crops["unscored"]]
    if not report["videos_known"]:
        notes.append("there is no status.csv beside the crops: of videos without any crop nothing is known.")
    return Table("Coverage", "", ("", "videos", "crops"), tuple(rows), tuple(notes))


def hardest_table(judged: dict) -> Table:
    """The videos furthest from their label."""
    rows = tuple(
        (one["video"], one["dataset"], one["method"], ("real", "fake")[one["label"]], number(one["fake_probability"]),
         "wrong" if one["wrong"] else "right")
        for one in judged["hardest"]
    )  # fmt: skip
    columns = ("video", "data set", "method", "actually", "P(fake)", "verdict")
    return Table(f"The {len(rows)} hardest videos", protocol_line(judged, VIDEO), columns, rows)


def comparison_table(report: dict) -> Table | None:
    """Two models on the same videos, paired."""
    found = report["comparison"]
    if found is None:
        return None
    rows, notes = [], []
    for name, title in _COMPARED.items():
        one = found[name]
        if one is None:
            notes.append(f"{title}: {found[f'{name}_reason']}")
            continue
        low, high = one["interval"]
        difference = f"{one['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
        rows.append((title, *(number(value, 4) for value in one["values"]), difference, _p(one["p"])))
    if found["delong"]:
        one = found["delong"]
        low, high = one["interval"]
        difference = f"{one['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
        rows.append(("AUC, DeLong's test", *(number(value, 4) for value in one["auc"]), difference, _p(one["p"])))
    else:
        notes.append(f"DeLong's test: {found['delong_reason']}")
    counts = found["videos"]
    drawn = found["protocol"]["bootstrap"]
    protocol = (
        f"{counts['both']:,} videos scored by both ({counts['first_only']:,} and {counts['second_only']:,} by one "
        f"only); video score: {found['protocol']['aggregation']} of its crops; paired bootstrap over {drawn['over']}s, "
        f"{drawn['resamples']:,} resamples, seed {drawn['seed']}"
    )
    columns = ("", report["model"]["handle"], report["second"]["model"]["handle"], "difference", "p")
    return Table("Two models on the same videos", protocol, columns, tuple(rows), tuple(notes))


def short_table(report: dict) -> Table:
    """What a person wants to know first, a line a level."""
    judged, names = report["judged"], ("auc", "eer", "balanced_accuracy")
    rows = tuple(
        (f"{level}s", f"{judged[level]['n_real']:,} / {judged[level]['n_fake']:,}",
         *(figure(judged[level][name]) for name in names), number(judged[level]["accuracy"]["value"]),
         number(judged[level]["majority"]))
        for level in LEVELS
    )  # fmt: skip
    columns = ("", "real / fake", "AUC", "EER", "balanced accuracy", "accuracy", "majority")
    return Table(report["model"]["handle"], protocol_line(judged), columns, rows)


def _part_table(title, parts, columns, judged):
    rows = []
    for part in parts:
        for level in LEVELS:
            found = part[level]
            rows.append(
                (part["dataset"], *(str(part[name] or NOTHING) for name in columns), f"{level}s",
                 f"{found['n_real']:,} / {found['n_fake']:,}", *(figure(found[name]) for name in _CELLS_OF_A_PART),
                 number(found["accuracy"]["value"]), number(found["majority"]))
            )  # fmt: skip
    figures = tuple(_FIGURES[name] for name in _CELLS_OF_A_PART)
    heads = ("data set", *columns, "level", "real / fake", *figures, "accuracy", "majority")
    return Table(title, protocol_line(judged), heads, tuple(rows))


def _with_majority(found, name):
    text = figure(found[name])
    return f"{text} (majority: {number(found['majority'])})" if name == "accuracy" else text


def _grouped(notes):
    """One reason that holds for several figures is said once."""
    by_reason = {}
    for note in notes:
        what, _, why = note.partition(": ")
        by_reason.setdefault(why, []).append(what)
    return [f"{', '.join(names)}: {why}" for why, names in by_reason.items()]


def _p(value):
    return NOTHING if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
