"""Plots of a report: ROC, precision-recall, reliability, confusion matrices, and histograms of the scores."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from tfdfd.metrics.report import FRAME, LEVELS, VIDEO

_REAL, _FAKE = "#0b6b8a", "#b42318"
# If each video has one crop the lines coincide; both must stay visible.
_LINES = {
    VIDEO: {"color": "#4f46e5", "linewidth": 1.4, "zorder": 3},
    FRAME: {"color": "#f59e0b", "linewidth": 3.6, "alpha": 0.6},
}


def check_matplotlib() -> None:
    """Raises `ValueError` if matplotlib is missing: call it before scoring, not after an hour of it."""
    _pyplot()


def draw_plots(report: dict, histogram: dict) -> dict[str, bytes]:
    """PNGs by name; plots without data are left out.

    Args:
        report: of `tfdfd.metrics.report.compute_report`.
        histogram: of `tfdfd.evaluation.report.score_histogram`.

    Raises:
        ValueError: matplotlib is not installed.
    """
    pyplot = _pyplot()
    pictures = {}
    for name, draw in _PLOTS.items():
        with pyplot.rc_context({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3}):
            figure = draw(pyplot, report, histogram)
            if figure is None:
                continue
            target = io.BytesIO()
            # Without version and date the same scores give the same bytes.
            figure.savefig(target, format="png", dpi=110, metadata={"Software": None})
            pyplot.close(figure)
            pictures[name] = target.getvalue()
    return pictures


def _roc(pyplot: Any, report: dict[str, Any], histogram: dict[str, Any]) -> Any:
    def draw(axis: Any, level: str) -> None:
        curve = report["curves"][level]["roc"]
        axis.plot(curve["fpr"], curve["tpr"], label=_label(report, level, "auc", "AUC"), **_LINES[level])

    def decorate(axis: Any) -> None:
        axis.plot([0, 1], [0, 1], color="grey", linestyle=":", label="chance")
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
        axis.plot([0, 1], [0, 1], color="grey", linestyle=":", label="calibrated")
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


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError(
            "plots need matplotlib, which is not installed: run pip install 'tfdfd[train]', or use --no-plots."
        ) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
