"""The evaluation report: `report.json` (see `report.schema.json`), its plots, and its Markdown and HTML forms."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfdfd.data.crops import crop_path, read_pixels
from tfdfd.data.pair_sets import METHOD
from tfdfd.evaluation.sets import EvalSet
from tfdfd.evaluation.tables import (
    ScoredModel,
    Table,
    as_markdown,
    class_table,
    comparison_table,
    confusion_table,
    coverage_table,
    document_tables,
    format_number,
    format_value,
    hardest_table,
    main_table,
    part_tables,
    protocol_line,
)
from tfdfd.html import as_jpeg, data_uri, environment
from tfdfd.metrics.intervals import RESAMPLES, compare
from tfdfd.metrics.report import FRAME, LEVELS, VIDEO, compute_report
from tfdfd.metrics.scores import NO_FACE, OK, ScoreRow, aggregate_videos, filled
from tfdfd.text import escape_control_chars
from tfdfd.training.history import load_pyplot, png_of
from tfdfd.version import __version__

_REAL, _FAKE = "#0b6b8a", "#b42318"
# If each video has one crop the lines coincide; both must stay visible.
_LINES = {
    VIDEO: {"color": "#4f46e5", "linewidth": 1.4, "zorder": 3},
    FRAME: {"color": "#f59e0b", "linewidth": 3.6, "alpha": 0.6},
}


def check_matplotlib() -> None:
    """Raises `ValueError` if matplotlib is missing: call it before scoring, not after an hour of it."""
    load_pyplot(", or use --no-plots")


def draw_plots(report: dict, histogram: dict) -> dict[str, bytes]:
    """PNGs by name; plots without data are left out.

    Args:
        report: as returned by `tfdfd.metrics.report.compute_report`.
        histogram: as returned by `tfdfd.evaluation.report.score_histogram`.

    Raises:
        ValueError: matplotlib is not installed.
    """
    pyplot = load_pyplot(", or use --no-plots")
    pictures = {}
    for name, draw in _PLOTS.items():
        with pyplot.rc_context({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3}):
            figure = draw(pyplot, report, histogram)
            if figure is None:
                continue
            # Without version and date the same scores give the same bytes.
            pictures[name] = png_of(figure, dpi=110, metadata={"Software": None})
    return pictures


def _roc(pyplot: Any, report: dict[str, Any], histogram: dict[str, Any]) -> Any:
    def draw(axis: Any, level: str) -> None:
        curve = report["curves"][level]["roc"]
        axis.plot(curve["fpr"], curve["tpr"], label=_label(report, level, "auc", "AUC"), **_LINES[level])

    def decorate(axis: Any) -> None:
        axis.plot([0, 1], [0, 1], color="gray", linestyle=":", label="chance")
        axis.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC")
        axis.legend(loc="lower right")

    return _of_levels(pyplot, report, "roc", draw, decorate)


def _precision_recall(pyplot: Any, report: dict[str, Any], histogram: dict[str, Any]) -> Any:
    def draw(axis: Any, level: str) -> None:
        curve = report["curves"][level]["precision_recall"]
        label = _label(report, level, "average_precision", "AP")
        axis.step(curve["recall"], curve["precision"], where="pre", label=label, **_LINES[level])
        metrics = report[level]
        axis.axhline(metrics["n_fake"] / metrics["n"], color=_LINES[level]["color"], linestyle=":", linewidth=1)

    def decorate(axis: Any) -> None:
        axis.set(xlabel="recall of fakes", ylabel="precision of fakes", title="Precision and recall (dotted: chance)")
        axis.set_ylim(0, 1.02)
        axis.legend(loc="lower left")

    return _of_levels(pyplot, report, "precision_recall", draw, decorate)


def _reliability(pyplot: Any, report: dict[str, Any], histogram: dict[str, Any]) -> Any:
    def draw(axis: Any, level: str) -> None:
        bins = report["curves"][level]["reliability"]
        columns = [one["score"] for one in bins], [one["fakes"] for one in bins]
        label = _label(report, level, "ece", "ECE")
        axis.plot(*columns, marker="o", markersize=4, label=label, **_LINES[level])

    def decorate(axis: Any) -> None:
        axis.plot([0, 1], [0, 1], color="gray", linestyle=":", label="calibrated")
        axis.set(xlabel="mean P(fake) of the bin", ylabel="share of fakes in it", title="Reliability")
        axis.legend()

    return _of_levels(pyplot, report, "reliability", draw, decorate)


def _confusion(pyplot: Any, report: dict[str, Any], histogram: dict[str, Any]) -> Any:
    figure, axes = pyplot.subplots(1, len(LEVELS), figsize=(7.6, 3.7), layout="constrained")
    for axis, level in zip(axes, LEVELS, strict=True):
        counts = report[level]["confusion"]
        if counts is None:
            axis.set_axis_off()
            continue
        rows = [[counts[f"{kind}_as_{verdict}"] for verdict in ("real", "fake")] for kind in ("real", "fake")]
        shares = [[value / max(1, sum(row)) for value in row] for row in rows]
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for y, row in enumerate(rows):
            for x, value in enumerate(row):
                color = "white" if shares[y][x] > 0.5 else "black"
                axis.text(x, y, f"{value:,}\n{shares[y][x]:.1%}", ha="center", va="center", color=color)
        axis.set_xticks([0, 1], ["called real", "called fake"])
        axis.set_yticks([0, 1], ["real", "fake"])
        axis.set_title(f"{level}s at {report['protocol']['threshold']:.4g}")
        axis.grid(False)
    return figure


def _scores(pyplot: Any, report: dict[str, Any], histogram: dict[str, Any]) -> Any:
    figure, axes = pyplot.subplots(1, len(LEVELS), figsize=(7.6, 3.2), layout="constrained")
    edges = histogram["edges"]
    for axis, level in zip(axes, LEVELS, strict=True):
        for kind, color in (("real", _REAL), ("fake", _FAKE)):
            counts = histogram[level][kind]
            shares = [count / max(1, sum(counts)) for count in counts]
            axis.stairs(shares, edges, fill=True, alpha=0.45, color=color, label=f"{kind} ({sum(counts):,})")
        axis.axvline(report["protocol"]["threshold"], color="black", linestyle="--", linewidth=1, label="threshold")
        axis.set(xlabel="P(fake)", ylabel="share of the class", title=f"Scores of {level}s")
        axis.set_xlim(0, 1)
        axis.legend()
    return figure


_PLOTS: dict[str, Callable] = {
    "roc": _roc,
    "precision_recall": _precision_recall,
    "reliability": _reliability,
    "confusion": _confusion,
    "scores": _scores,
}


def _of_levels(
    pyplot: Any, report: dict[str, Any], curve: str, draw: Callable[[Any, str], None], decorate: Callable[[Any], None]
) -> Any:
    levels = [level for level in LEVELS if report["curves"][level][curve]]
    if not levels:
        return None
    figure, axis = pyplot.subplots(figsize=(4.6, 4.2), layout="constrained")
    for level in levels:
        draw(axis, level)
    axis.set_xlim(-0.01, 1.01)
    decorate(axis)
    return figure


def _label(report: dict[str, Any], level: str, name: str, title: str) -> str:
    value = report[level][name]["value"]
    return f"{level}s" if value is None else f"{level}s, {title} {value:.3f}"


SCHEMA = 1
BINS = 25
# Warnings that come first, and those that come last.
LOUD = ("trained_on", "one_verdict", "no_better_than_majority", "worse_than_chance", "no_scores")
QUIET = ("too_few",)
# Longer side of a thumbnail in pixels.
SIDE = 128
# Pixels of a crop by data set, file and method; None if it is not available.
Pictures = Callable[[str, str, str], np.ndarray | None]
_NAMED = 20
# Pictures of a run folder that the report of its model shows, with their titles.
RUN_PICTURES = {
    "curves": "Training",
    "gradient_flow": "Gradients of each layer, early and late",
    "first_kernels": "Kernels of the first layer",
}
_PLOT_TITLES = {
    "roc": "ROC curve",
    "precision_recall": "Precision and recall",
    "reliability": "Reliability",
    "confusion": "Confusion matrices",
    "scores": "Scores of real and fake",
} | RUN_PICTURES


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
    training: Sequence[dict] = (),
) -> dict:
    """Evaluates one model, or several on the same sets; the first two are compared.

    Args:
        scored: for each model its description in `scores.json`, and its scores.
        sets: descriptions of the sets in `scores.json`.
        threshold: on P(fake), for the first model; None: its own. Further models always use their own.
        table: `s0` ... `s4`: adds the tables of a source document.
        aggregation, missing, cluster, resamples, seed: as for `tfdfd.metrics.report.compute_report`.
        leaks: as returned by `tfdfd.evaluation.evaluate.training_overlap`.
        warnings: further warnings, `{code, where, message}`.
        training: for each model, `tfdfd.evaluation.evaluate.training_summary`, for `s3`; missing ones are empty.

    Returns:
        The content of `report.json`, the same for the same scores.

    Raises:
        ValueError: no scores, no threshold, or an invalid argument.
    """
    options: dict[str, Any] = {
        "aggregation": aggregation,
        "missing": missing,
        "cluster": cluster,
        "resamples": resamples,
        "seed": seed,
    }
    models: list[ScoredModel] = []
    for (info, rows), summary in zip(scored, [*training, *[{}] * len(scored)], strict=False):
        own = _threshold(info, None if models else threshold)
        report = compute_report(rows, own, **options)
        models.append(ScoredModel(info["handle"], info.get("network") or info["handle"], rows, report, summary))
    (info, rows), first = scored[0], models[0]
    compared = None
    if len(models) > 1:
        same = {name: options[name] for name in ("aggregation", "cluster", "resamples", "seed")}
        compared = compare(rows, scored[1][1], **same)
    # Warnings about further models name them.
    others = [
        one | {"where": f"{model.name}, {one['where']}", "message": f"{model.name}: {one['message']}"}
        for model in models[1:]
        for one in model.report["warnings"]
    ]
    return {
        "schema": SCHEMA,
        "tfdfd": __version__,
        "model": info,
        "threshold": {
            "value": first.report["protocol"]["threshold"],
            "source": "the model's own" if threshold is None else "given",
        },
        "sets": list(sets),
        "videos_known": bool(sets) and all(one.get("videos_known") for one in sets),
        "crops": _crop_counts(rows),
        "leaks": leaks,
        "warnings": sorted([*first.report["warnings"], *warnings, *others], key=_loudness),
        "judged": first.report,
        "histogram": score_histogram(rows, aggregation, missing),
        "second": None if len(models) == 1 else {"model": scored[1][0], "judged": models[1].report},
        "others": [
            {"model": other, "judged": model.report} for (other, _), model in zip(scored[2:], models[2:], strict=True)
        ],
        "comparison": compared,
        "document": table,
        "tables": [one.to_dict() for one in document_tables(table, models)] if table else [],
    }


def score_histogram(rows: Sequence[ScoreRow], aggregation: str, missing: str) -> dict:
    """Numbers of real and fake videos and frames by score, in 25 bins of [0, 1]."""
    edges = np.linspace(0, 1, BINS + 1)
    histogram = {"edges": edges.round(6).tolist()}
    videos = filled(aggregate_videos(rows, aggregation), missing)
    for level, examples in ((VIDEO, videos), (FRAME, [row for row in rows if row.status == OK])):
        histogram[level] = {}
        for label, kind in enumerate(("real", "fake")):
            scores: Any = [one.fake_probability for one in examples if one.label == label]
            histogram[level][kind] = np.histogram(scores, edges)[0].tolist()
    return histogram


def as_json(report: dict) -> str:
    """The text of `report.json`."""
    return json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def report_tables(report: dict) -> list[Table]:
    """The tables of a report in order, except the hardest videos."""
    judged = report["judged"]
    tables = [*stored_tables(report["tables"]), main_table(judged)]
    tables += [make(judged, level) for level in LEVELS for make in (confusion_table, class_table)]
    tables += part_tables(judged)
    compared = comparison_table(report)
    return tables + [coverage_table(report)] + ([compared] if compared else [])


def stored_tables(values: list[dict]) -> list[Table]:
    """The tables that a report holds as JSON."""
    return [Table(**{name: _tuples(value) for name, value in one.items()}) for one in values]


def as_markdown_report(report: dict, plots: Sequence[str], thumbnails: Sequence[Sequence[str]]) -> str:
    """The text of `report.md`, for any code host, with its plots beside it.

    Args:
        report: as returned by `make_report`.
        plots: paths of the plots, relative to the report.
        thumbnails: for each of the hardest videos, paths likewise.
    """
    return "\n".join(_markdown_lines(report, plots, thumbnails)).rstrip("\n") + "\n"


def _markdown_lines(report: dict[str, Any], plots: Sequence[str], thumbnails: Any) -> Iterator[str]:
    yield from (f"# Evaluation of {_code(report['model']['handle'])}", "")
    for warning in report["warnings"]:
        yield from (f"> **WARNING** {escape_control_chars(warning['message'])}", "")
    for name, value in _facts(report).items():
        yield f"- {name}: {_code(value)}"
    yield ""
    for table in report_tables(report):
        yield from as_markdown(table)
    if plots:
        yield from ("### Plots", "")
        yield from (" ".join(f"![{os.path.basename(name)}]({name})" for name in plots), "")
    yield from as_markdown(hardest_table(report["judged"]))
    for one, files in zip(report["judged"]["hardest"], thumbnails, strict=True):
        if files:
            yield f"{_code(one['video'])}: {' '.join(f'![crop]({name})' for name in files)}"
            yield ""


def render_page(report: dict, plots: Mapping[str, bytes], thumbnails: Sequence[Sequence[bytes]]) -> str:
    """`report.html`: one page without scripts or requests, to read, print and pass on.

    Args:
        report: as returned by `make_report`.
        plots: PNGs by name.
        thumbnails: for each of the hardest videos, JPEGs.
    """
    judged = report["judged"]
    tiles = [
        {"level": level, "auc": format_value(judged[level]["auc"]),
         "balanced": format_value(judged[level]["balanced_accuracy"]),
         "accuracy": format_number(judged[level]["accuracy"]["value"]),
         "majority": format_number(judged[level]["majority"]), "protocol": protocol_line(judged, level)}
        for level in LEVELS
    ]  # fmt: skip
    hardest = hardest_table(judged)
    samples = [
        {"row": row, "wrong": one["wrong"], "pictures": [data_uri(data) for data in pictures]}
        for row, one, pictures in zip(hardest.rows, judged["hardest"], thumbnails, strict=True)
    ]
    template = environment(Path(__file__).parent).get_template("page.html.j2")
    return template.render(
        model=report["model"]["handle"],
        warnings=[{"message": one["message"], "loud": one["code"] in LOUD} for one in report["warnings"]],
        tiles=tiles,
        facts=_facts(report),
        tables=report_tables(report),
        plots={_PLOT_TITLES[name]: data_uri(data, "png") for name, data in plots.items()},
        broad={_PLOT_TITLES[name] for name in ("confusion", "scores", *RUN_PICTURES)},
        hardest=hardest,
        samples=samples,
    )


def pictures_of(sets: Sequence[EvalSet]) -> Pictures:
    """Crops of opened sets, self-blended fakes included."""
    by_name = {name: one for one in sets for name in one.info()["names"]}

    def picture(dataset: str, file: str, method: str) -> np.ndarray | None:
        try:
            return by_name[dataset].pixels(file, method)
        except (KeyError, ValueError):  # not in these sets, or no longer readable
            return None

    return picture


def stored_pictures(sets: Iterable[dict]) -> Pictures:
    """Crops of the sets that a table of scores describes, if they are still in place."""
    roots = {name: one.get("root") for one in sets for name in one.get("names", ())}

    def picture(dataset: str, file: str, method: str) -> np.ndarray | None:
        root = roots.get(dataset)
        if root is None or method == METHOD:
            return None
        try:
            return read_pixels(crop_path(root, file))
        except ValueError:
            return None

    return picture


def thumbnails(hardest: Iterable[dict], pictures: Pictures) -> list[list[bytes]]:
    """For each video of `tfdfd.metrics.report.hardest_videos`, JPEGs of its files, at most 128 pixels a side."""
    crops = [[pictures(one["dataset"], file, one["method"]) for file in one["files"]] for one in hardest]
    return [[as_jpeg(pixels, SIDE) for pixels in some if pixels is not None] for some in crops]


def _facts(report: dict) -> dict[str, str]:
    """The model, the sets, and their overlap with the training data, as text."""
    model, leaks = report["model"], report["leaks"]
    facts = {"Model": model["handle"]}
    if model.get("sha256"):
        facts["SHA-256 of the weights"] = model["sha256"]
    if model.get("run"):
        facts["Run"] = model["run"]
    facts["Threshold"] = f"{report['threshold']['value']:.6g}, {report['threshold']['source']}"
    if report["second"]:
        facts["Second model"] = report["second"]["model"]["handle"]
    for one in report["sets"]:
        made = ", fakes self-blended from its real crops" if one["self_blended"] else ""
        facts[f"Data {', '.join(one['names'])}"] = (
            f"{one['where']}, split {one['split'] or 'none'}, {one['crops']:,} crops{made}, "
            f"rows {one['rows_sha256'][:16]}"
        )
    if leaks:
        checked = "nothing shared" if not leaks["shared"] else f"shared with {', '.join(leaks['shared'])}"
        facts["Overlap with the training data"] = checked if leaks["checked"] else f"not checked: {leaks['why_not']}"
    if model.get("training_data"):
        facts["Training data, from the model card"] = str(model["training_data"])
    facts["tfdfd"] = report["tfdfd"]
    return facts


def _threshold(info: dict[str, Any], given: float | None) -> float:
    threshold = info.get("threshold") if given is None else given
    if threshold is None:
        raise ValueError(f"no threshold is known for {info['handle']}; give --threshold, chosen on validation.")
    return threshold


def _loudness(warning: dict[str, Any]) -> int:
    return 0 if warning["code"] in LOUD else 2 if warning["code"] in QUIET else 1


def _crop_counts(rows: Iterable[ScoreRow]) -> dict[str, Any]:
    """Counts of crops, and names of the rows without a score."""
    crops = [row for row in rows if row.file is not None]
    counts = Counter(row.status for row in crops)
    unscored = [row for row in rows if row.status != OK]
    named = [f"{row.file or row.video}: {row.status}" for row in unscored[:_NAMED]]
    if len(unscored) > _NAMED:
        named.append(f"and {len(unscored) - _NAMED:,} more, in the table of scores")
    broken = len(crops) - counts[OK] - counts[NO_FACE]
    return {
        "expected": len(crops),
        "scored": counts[OK],
        "no_face": counts[NO_FACE],
        "broken": broken,
        "unscored": named,
    }


def _code(text: str) -> str:
    return f"`{escape_control_chars(text).replace('`', chr(39))}`"


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
