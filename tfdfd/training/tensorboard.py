"""The log of a training as TensorBoard reads it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def write_scalars(folder: str | os.PathLike, history: list[dict]) -> None:
    """Writes all rows so far, by `step` where they have it, else by `epoch`; anew, so that none is in it twice after a
    run was killed and went on.

    Raises:
        ValueError: tensorboard is not installed.
    """
    try:
        from tensorboard.summary import Writer
    except ImportError as error:
        raise ValueError(
            "TensorBoard's log is written with tensorboard, which is not installed: run pip install 'tfdfd[train]'."
        ) from error
    partial = Path(folder).with_name(".tensorboard.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    writer = Writer(str(partial))
    for row in history:
        unit = "step" if "step" in row else "epoch"
        for name, value in row.items():
            if name != unit and value is not None:
                writer.add_scalar(name, value, step=row[unit])
    writer.close()
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
