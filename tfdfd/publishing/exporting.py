"""From trained weights to a folder in a format that others run: written whole and proved, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np

from tfdfd.files import locked_folder, sync_folder
from tfdfd.models import load
from tfdfd.publishing.equality import TOLERANCE, in_batches
from tfdfd.publishing.formats import FORMATS, Expected
from tfdfd.publishing.proof_images import proof_images
from tfdfd.runtime.opening import PROOF_CROPS
from tfdfd.version import __version__
from tfdfd.weights.store import locate

SCHEMA = 1
CARD = "model_card.json"


def export(
    model: str | os.PathLike,
    folder: str | os.PathLike,
    format: str = "savedmodel",
    data: str | os.PathLike | None = None,
) -> dict:
    """Writes a trained network in another format, after its answers were proved equal to those of the Keras model.

    Args:
        model: a handle, a weights file, or the folder of a run.
        folder: where; made by this call.
        format: one of `FORMATS`.
        data: a face set whose crops are compared, too.

    Returns:
        The card, as it stands in `model_card.json`.

    Raises:
        ValueError: unknown format or weights, a library that is missing, `folder` is there already, or the exported
            network answers something else than the Keras model.
        OSError: the folder cannot be written.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}; received {format!r}.")
    folder = Path(os.path.abspath(folder))
    if any(folder.iterdir()) if folder.is_dir() else folder.exists():
        raise ValueError(f"{folder} is there already; give a new folder.")
    record, path = locate(model)
    network = load(record, path)
    expected = _expected(network, proof_images(network.input_shape[1], data))
    partial = folder.with_name(f".{folder.name}.partial")
    lock = locked_folder(partial, "tfdfd export")
    try:
        _clear(partial)
        facts = FORMATS[format](network, partial, expected)
        card = _card(record, format, facts, expected, partial)
        (partial / CARD).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        # Whole after a power cut, too: all of it is on the disk before it is renamed.
        for place, _, _ in os.walk(partial, topdown=False):
            sync_folder(place)
        os.replace(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        if lock is not None:
            os.close(lock)
    return card


def _expected(model, crops):
    def both(crops):
        scores, features = outputs(crops / np.float32(255), training=False)
        return np.concatenate([np.asarray(scores), np.asarray(features)], axis=1)

    outputs = keras.Model(model.input, [model.output, model.get_layer("features").output])
    answers = in_batches(both, crops)
    return Expected(crops, answers[:, :1], answers[:, 1:])


def _card(record, format, facts, expected, folder):
    """What is known of the weights, and of these files; the files' own digests come from the folder."""
    of_weights = {name: getattr(record, name) for name in ("file", "sha256", "bytes", "layout")}
    known = {name: value for name, value in record.card.items() if name not in of_weights}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "schema": SCHEMA,
        **known,
        # Whatever the file of the weights says at 1, these files say fake.
        "polarity": "fake=1",
        "weights": of_weights | {"polarity": record.polarity},
        "format": format,
        **facts,
        "tolerance": TOLERANCE,
        "proof_crops": len(expected.crops),
        # By which `tfdfd detect --server` knows the model again.
        "proof_scores": [round(float(score), 6) for score in expected.scores[:PROOF_CROPS, 0]],
        "tfdfd": __version__,
        "libraries": {name: version(name) for name in ("keras", "tensorflow")},
        "files": {path.relative_to(folder).as_posix(): _facts_of(path) for path in files},
    }


def _facts_of(path):
    data = path.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _clear(folder):
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
