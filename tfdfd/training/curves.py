"""The curves of a training as a picture: loss, accuracy and area under the ROC curve, and learning rate."""

from __future__ import annotations

import io
import os

from tfdfd.files import write_atomically

_PLOTS = (
    ("loss", ("loss", "val_loss")),
    (
        "accuracy (at 0.5) and AUC",
        ("accuracy", "val_accuracy", "val_video_balanced_accuracy", "val_auc", "val_video_auc"),
    ),
    ("learning rate", ("learning_rate",)),
)
_NAMES = {
    "loss": "training",
    "val_loss": "validation",
    "accuracy": "training accuracy",
    "val_accuracy": "validation accuracy",
    "val_video_balanced_accuracy": "validation balanced accuracy, videos",
    "val_auc": "validation AUC, crops",
    "val_video_auc": "validation AUC, videos",
    "learning_rate": "rate",
}


def draw_curves(path: str | os.PathLike, history: list[dict], title: str) -> None:
    """Writes a PNG of the figures of epochs (or steps, where rows have `step`), as `log.csv` has them.

    Raises:
        ValueError: matplotlib is not installed.
    """
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(1, len(_PLOTS), figsize=(15, 4), layout="constrained")
    unit = "step" if "step" in history[0] else "epoch"
    places = [row[unit] for row in history]
    for axis, (words, names) in zip(axes, _PLOTS, strict=True):
        for name in names:
            values = [row.get(name) for row in history]
            axis.plot(places, values, label=_NAMES[name], marker=".")
        axis.set(xlabel=unit, title=words)
        axis.grid(alpha=0.3)
        axis.legend()
    axes[-1].set_yscale("log")
    figure.suptitle(title)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    pyplot.close(figure)
    write_atomically(path, picture.getvalue())


def _pyplot():
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError(
            "curves are drawn with matplotlib, which is not installed: run pip install 'tfdfd[train]'."
        ) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
