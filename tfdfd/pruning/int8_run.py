"""A run's network in 8 bits beside its weights, judged on the run's validation split."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from tfdfd.files import write_atomically
from tfdfd.metrics.comparison import compare
from tfdfd.models import load
from tfdfd.pruning.int8 import REPRESENTATIVE, quantise_int8
from tfdfd.pruning.judged import score_rows
from tfdfd.pruning.zeros import sizes
from tfdfd.training.crop_set import TRAIN, VAL, CropSet
from tfdfd.training.recipe import Recipe
from tfdfd.training.run_folder import finished_run
from tfdfd.weights.store import locate

FILE = "int8.tflite"


def quantise_run(folder: str | os.PathLike, where: str | os.PathLike) -> dict:
    """Writes `int8.tflite` into the folder of a finished run, and what is returned beside it as `int8.json`.

    Args:
        folder: of a run of single faces.
        where: the face set that it was made on: ranges are measured on crops of `train`, the file is judged on `val`.

    Returns:
        `file`, `bytes`, `gzip_bytes`; `apart` and `apart_mean`: distance of P(fake) from the Keras model's, on all
        `crops` of the validation split; `auc`: the comparison of both there (`tfdfd.metrics.comparison.compare`).

    Raises:
        ValueError: no finished run, another set, or a network that 8 bits are too few for.
    """
    told = finished_run(folder)
    recipe = Recipe.from_settings(told["recipe"])
    model = load(*locate(folder))
    size = model.input_shape[1]
    crops = CropSet(where, recipe, size, allow_leaks=True)  # the run has looked for leaks
    what = f"{os.fspath(where)} is not the set that {os.fspath(folder)} was made on, or has changed"
    crops.refuse_other(told["data"], what)
    few = CropSet(where, replace(recipe, limit=REPRESENTATIVE), size, allow_leaks=True)
    representative = np.concatenate([np.asarray(image) for image, _ in few.images(TRAIN)[0]])
    images, rows = crops.images(VAL)
    path = Path(folder) / FILE
    found = quantise_int8(model, representative, (np.asarray(image) for image, _ in images), path)
    of_both = (score_rows(rows, found.pop(name)) for name in ("expected", "scores"))
    found |= {"file": str(path), "crops": len(rows), "auc": compare(*of_both, cluster="source")} | sizes(path)
    write_atomically(path.with_suffix(".json"), json.dumps(found, indent=1) + "\n")
    return found
