"""Hyperparameter search with KerasTuner: `HyperModel` and `space` for its own tuners; `tfdfd tune` is built on them.

import keras_tuner, tfdfd

tuner = keras_tuner.Hyperband(
    tfdfd.tuning.HyperModel("meso_inception4", data="faces"),
    objective=keras_tuner.Objective("val_auc", "max"),
    max_epochs=20,
)
tuner.search()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfdfd.text import optional_import

if TYPE_CHECKING:
    from tfdfd.tuning.hypermodel import HyperModel, space

__all__ = ["TUNERS", "HyperModel", "space"]

# Search strategies of `tfdfd tune`.
TUNERS = ("random", "bayesian", "hyperband", "grid")


def need_keras_tuner() -> None:
    """Raises `ValueError` with the name of the extra if KerasTuner is not installed."""
    with optional_import("a hyperparameter search needs KerasTuner", "tune"):
        import keras_tuner  # noqa: F401


def __getattr__(name: str) -> Any:
    # Imported on first use, since KerasTuner imports TensorFlow.
    if name not in ("HyperModel", "space"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}.")
    need_keras_tuner()
    from tfdfd.tuning import hypermodel

    return getattr(hypermodel, name)
