"""Page of a reproduction: one HTML file that needs nothing else, with the pictures of the runs in it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from tfdfd.html import data_uri, environment
from tfdfd.reproduce import CONFUSION, CURVES, GRADIENT_FLOW, KERNELS, ROC, Entry
from tfdfd.reproduce.contradictions import Contradiction
from tfdfd.reproduce.results import CANNOT, DRAWN, NOT_REPRODUCED, REPRODUCED, Measured, Outcome, Verdict, number

_CLASSES = {REPRODUCED: "good", NOT_REPRODUCED: "bad", CANNOT: "soft", DRAWN: "soft"}


def render(
    answer: dict,
    verdicts: Sequence[Verdict],
    contradictions: Sequence[Contradiction],
    pictures: Mapping[tuple[str, str], bytes],
) -> str:
    """The page.

    Args:
        answer: of `tfdfd.reproduce.runner.reproduce`.
        verdicts: of the document's entries, in its order.
        contradictions: of the document.
        pictures: PNGs by experiment and name.
    """
    tables = []
    for place, some in groupby(verdicts, key=lambda verdict: verdict.entry.place):
        tables.append({"title": place, "rows": [_row(verdict) for verdict in some]})
    figures: dict[tuple[str, str], list[str]] = {}
    for verdict in verdicts:
        key = (verdict.entry.experiment or "", verdict.entry.picture or "")
        if key in pictures:
            figures.setdefault(key, []).append(f"{verdict.entry.place}: {verdict.entry.what}")
    if ("", "removed_blocks") in pictures:
        figures[("", "removed_blocks")] = ["figures 13, 14: CPU cost and accuracy against removed blocks"]
    shown = [{"title": "; ".join(titles), "uri": data_uri(pictures[key], "png")} for key, titles in figures.items()]
    template = environment(Path(__file__).parent).get_template("page.html.j2")
    return template.render(answer=answer, tables=tables, figures=shown, contradictions=contradictions)


def _row(verdict: Verdict) -> dict[str, str]:
    entry, ours = verdict.entry, verdict.measured
    interval = ""
    if ours and ours.interval:
        interval = f"[{number(ours.interval[0], entry)}, {number(ours.interval[1], entry)}]"
    return {
        "what": entry.what,
        "printed": number(entry.printed, entry),
        "ours": number(ours.value, entry) if ours else "–",
        "interval": interval,
        "protocol": ours.protocol if ours else "",
        "verdict": verdict.status,
        "reason": verdict.reason,
        "kind": _CLASSES[verdict.status],
    }


# Name of a picture -> its file, in the run or in the evaluation of the last split.
_OF_RUN = {CURVES: "curves.png", GRADIENT_FLOW: "gradient_flow.png", KERNELS: "first_kernels.png"}
_OF_EVALUATION = {ROC: "plots/roc.png", CONFUSION: "plots/confusion.png"}
_BLOCKS = ("mobilenet_v3", "mobilenet_v3_r1", "mobilenet_v3_r2", "mobilenet_v3_r3")
REFERENCE = "meso_inception4"


def pictures_of(entry: Entry, outcome: Outcome) -> dict[tuple[str, str], bytes]:
    """Returns the PNG of an entry of a finished experiment, by experiment and name; empty without one."""
    if outcome.run is None or entry.picture is None or entry.experiment is None:
        return {}
    if entry.picture in _OF_RUN:
        file = outcome.run / _OF_RUN[entry.picture]
    elif entry.picture in _OF_EVALUATION and outcome.evaluations:
        file = outcome.evaluations[list(outcome.evaluations)[-1]] / _OF_EVALUATION[entry.picture]
    else:
        return {}
    return {(entry.experiment, entry.picture): file.read_bytes()} if file.is_file() else {}


def draw_removed_blocks(verdicts: Sequence[Verdict], costs: dict[str, Measured]) -> bytes | None:
    """Figures 13 and 14 of S0 as one PNG: CPU cost, and accuracy, of MobileNetV3 without 0 to 3 blocks.

    Args:
        verdicts: verdicts on S0's entries, with accuracies as `frame.accuracy`.
        costs: CPU seconds as `cost.NETWORK`.

    Returns:
        The PNG file, or None without accuracies and costs.
    """
    accuracies = {
        verdict.entry.what.partition(":")[0]: verdict.measured.value
        for verdict in verdicts
        if verdict.entry.measure == "frame.accuracy" and verdict.measured
    }
    seconds = {name: costs[f"cost.{name}"].value for name in (*_BLOCKS, REFERENCE) if f"cost.{name}" in costs}
    if not accuracies and not seconds:
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, values, title in (
        (left, seconds, "CPU seconds, 1,000 images"),
        (right, accuracies, "accuracy, test frames"),
    ):
        removed = [number for number, name in enumerate(_BLOCKS) if name in values]
        axis.plot(removed, [values[_BLOCKS[number]] for number in removed], marker="o", label="MobileNetV3")
        if REFERENCE in values:
            axis.axhline(values[REFERENCE], linestyle="--", color="gray", label="MesoInception4")
        axis.set(xlabel="removed blocks", title=title, xticks=range(len(_BLOCKS)))
        axis.grid(alpha=0.3)
        axis.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    pyplot.close(figure)
    return picture.getvalue()
