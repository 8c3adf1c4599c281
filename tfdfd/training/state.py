"""All that a training needs to go on, in one file that is the old one or the new one, never half of one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import keras
import numpy as np

from tfdfd.files import write_atomically
from tfdfd.training.errors import TrainingError

_KEY = "tfdfd"


def save_state(path: str | os.PathLike, variables: list[keras.Variable], told: dict) -> None:
    """Writes variables in their order, and what else is to be known (JSON).

    Raises:
        TrainingError: the disk is full or the folder cannot be written; the state before stays.
    """
    from safetensors.numpy import save

    arrays = {f"{number:05}": _array(variable) for number, variable in enumerate(variables)}
    try:
        write_atomically(path, save(arrays, {_KEY: json.dumps(told)}))
    except OSError as error:
        raise TrainingError(
            f"{path} could not be written: {error}. The last saved state stays; make room, then the same command goes "
            "on with it."
        ) from error


def load_state(path: str | os.PathLike, variables: list[keras.Variable]) -> dict | None:
    """Fills the variables and returns what was told; None where nothing was saved yet.

    Raises:
        TrainingError: the file is damaged, or of other variables.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).exists():
        return None
    try:
        with safe_open(path, "np") as file:
            told = json.loads((file.metadata() or {})[_KEY])
            arrays = [file.get_tensor(name) for name in sorted(file.keys())]  # noqa: SIM118 - no dict
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise TrainingError(f"{path} is no saved state: {error}; remove it to begin anew.") from error
    shapes, expected = [array.shape for array in arrays], [tuple(variable.shape) for variable in variables]
    if shapes != expected:
        raise TrainingError(
            f"{path} holds {len(shapes)} arrays of other shapes than the {len(expected)} of this training; remove it "
            "to begin anew."
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
    return told


def _array(variable):
    # (`ascontiguousarray` would make arrays of single numbers.)
    return np.array(keras.ops.convert_to_numpy(variable.value), order="C")
