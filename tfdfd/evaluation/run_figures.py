"""What a run says of its own training, for tables that lay it beside the test."""

from __future__ import annotations

import os
from pathlib import Path

from tfdfd.training.run_folder import LOG, finished_run, read_log
from tfdfd.weights.store import RUN

RUN_PICTURES = {
    "curves": "Training",
    "gradient_flow": "Gradients of each layer, early and late",
    "first_kernels": "Kernels of the first layer",
}


def training_figures(run: str | os.PathLike | None) -> dict[str, float | None]:
    """`train_accuracy` and `val_accuracy` of crops at 0.5, `train_loss`, all of the kept epoch, and `seconds` in all.

    Empty without a run; None for what it does not say.

    Raises:
        ValueError: the run is not finished, or a file of it is damaged.
    """
    if run is None or not os.path.isfile(os.path.join(run, RUN)):
        return {}
    result, history = finished_run(run)["result"], _history(run)
    # Without an epoch that was best, the last one was kept.
    kept = next((row for row in history if row.get("epoch") == result.get("best_epoch")), history[-1])
    return {
        "train_accuracy": result.get("train_accuracy", kept.get("accuracy")),
        "val_accuracy": result.get("val_crop_accuracy", kept.get("val_accuracy")),
        "train_loss": result.get("train_cross_entropy", kept.get("loss")),
        "seconds": result.get("training_seconds", history[-1].get("seconds")),
    }


def run_pictures(run: str | os.PathLike | None) -> dict[str, bytes]:
    """The PNGs of a run's training, by name: its curves, gradient flow and first kernels; empty without a run."""
    files = {name: Path(run or "", f"{name}.png") for name in RUN_PICTURES}
    return {name: file.read_bytes() for name, file in files.items() if run is not None and file.is_file()}


def _history(run):
    try:
        return [{name: float(cell) for name, cell in row.items() if cell} for row in read_log(run)] or [{}]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{Path(run) / LOG} is no log of a training: {error}.") from error
