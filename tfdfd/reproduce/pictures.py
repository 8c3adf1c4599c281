"""Pictures of a reproduction: those of the run folders, and accuracy and CPU cost against removed blocks."""

from __future__ import annotations

import io
from collections.abc import Sequence

from tfdfd.reproduce.documents import CONFUSION, CURVES, GRADIENT_FLOW, KERNELS, ROC, Entry
from tfdfd.reproduce.results import Measured, Outcome, Verdict

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
