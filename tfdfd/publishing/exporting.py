"""Export of trained weights to a folder in another format: complete and proved, or not at all."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from tfdfd.data.crops import clips_of, faces_of, read_pixels
from tfdfd.extract.extraction import Request, extract_faces
from tfdfd.faces import build_detector
from tfdfd.faces.crop import equal_parts, resize_crop
from tfdfd.files import new_folder, sha256
from tfdfd.media import Limits
from tfdfd.models import clip_frames, load
from tfdfd.publishing.formats import FORMATS, Expected
from tfdfd.runtime.equality import BOUNDS, PROOF_CLIPS, PROOF_CROPS, in_batches, proof_crops
from tfdfd.version import __version__
from tfdfd.weights.store import CARD, locate

if TYPE_CHECKING:
    from tfdfd.weights import WeightRecord

SCHEMA = 1

_log = logging.getLogger(__name__)


def export(
    model: str | os.PathLike,
    folder: str | os.PathLike,
    format: str = "savedmodel",
    data: str | os.PathLike | None = None,
) -> dict:
    """Writes a trained network in another format, with answers proved equal to the Keras model's.

    Args:
        model: a handle, a weights file, or the folder of a run.
        folder: output; made by this call.
        format: one of `FORMATS`.
        data: a face set with more crops for the comparison.

    Returns:
        The card, as it stands in `model_card.json`.

    Raises:
        ValueError: unknown format or weights, a missing library, an existing `folder`, or an exported network whose
            answers differ from the Keras model's.
        OSError: the folder cannot be written.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}; received {format!r}.")
    folder = Path(os.path.abspath(folder))
    if any(folder.iterdir()) if folder.is_dir() else folder.exists():
        raise ValueError(f"{folder} is there already; give a new folder.")
    record, path = locate(model)
    network = load(record, path)
    expected = _expected(network, proof_images(network.input_shape[-2], data, clip_frames(record)))
    with new_folder(folder, "tfdfd export") as partial:
        _log.info("writing %s as %s, compared with Keras on %d crops", record.handle, format, len(expected.crops))
        facts = FORMATS[format](network, partial, expected)
        card = _card(record, format, facts, expected, partial)
        (partial / CARD).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return card


def _expected(model: keras.Model, crops: np.ndarray) -> Expected:
    def both(crops: np.ndarray) -> np.ndarray:
        scores, features = outputs(crops / np.float32(255), training=False)
        return np.concatenate([np.asarray(scores), np.asarray(features)], axis=1)

    outputs = keras.Model(model.input, [model.output, model.get_layer("features").output])
    answers = in_batches(both, crops)
    return Expected(crops, answers[:, :1], answers[:, 1:])


def _card(record: WeightRecord, format: str, facts: dict[str, Any], expected: Expected, folder: Path) -> dict[str, Any]:
    """The model card: facts of the weights and of the exported files."""
    of_weights = {name: getattr(record, name) for name in ("file", "sha256", "bytes", "layout")}
    known = {name: value for name, value in record.card.items() if name not in of_weights}
    proofs = PROOF_CROPS if expected.crops.ndim == 4 else PROOF_CLIPS
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "schema": SCHEMA,
        **known,
        # The exported files answer P(fake), whatever the polarity of the weights file.
        "polarity": "fake=1",
        "weights": of_weights | {"polarity": record.polarity},
        "format": format,
        **facts,
        "tolerance": BOUNDS["export"].tolerance,
        "proof_crops": len(expected.crops),
        # `tfdfd detect --server` recognizes the model by these.
        "proof_scores": [round(float(score), 6) for score in expected.scores[:proofs, 0]],
        "tfdfd": __version__,
        "libraries": {name: version(name) for name in ("keras", "tensorflow")},
        "files": {
            path.relative_to(folder).as_posix(): {"sha256": sha256(path), "bytes": path.stat().st_size}
            for path in files
        },
    }


CLIPS = ("genuine.mp4", "blended.mp4")
# Frames of each clip, and crops or clips of a user's set, evenly spread.
_FRAMES, _CROPS, _SET_CLIPS = 4, 64, 8


def proof_images(size: int, data: str | os.PathLike | None = None, frames: int | None = None) -> np.ndarray:
    """uint8 RGB crops `(n, size, size, 3)`, or clips `(n, frames, size, size, 3)`: noise, faces of two bundled videos,
    then of `data`.

    Args:
        size: side of the crops in pixels.
        data: a face set, or a folder with `real/` and `fake/`; up to 64 of its crops, or 8 of its clips, evenly spread.
        frames: crops of a clip; None for single crops.

    Raises:
        ValueError: there are no crops or clips in `data`, or one cannot be read.
    """
    images = list(proof_crops(size, frames=frames))
    for faces in _bundled_faces(size, frames or _FRAMES):
        images += [np.stack([faces[place] for place in equal_parts(len(faces), frames)])] if frames else faces
    if data is not None:
        known = faces_of(data)
        chosen = [*range(len(known.rows))] if frames is None else clips_of(known.rows, frames)[0]
        if not chosen:
            raise ValueError(f"{os.fspath(data)} has no video with two crops of one face, hence no clip to compare.")
        for index in np.unique(np.linspace(0, len(chosen) - 1, _SET_CLIPS if frames else _CROPS).astype(int)):
            places = [index] if frames is None else chosen[index].frames(frames)
            crops = [resize_crop(read_pixels(known.path(place)), size) for place in places]
            images.append(np.stack(crops) if frames else crops[0])
    return np.stack(images)


def _bundled_faces(size: int, frames: int) -> Iterator[list[np.ndarray]]:
    detector = build_detector("haar")
    for clip in CLIPS:
        found = extract_faces(str(files("tfdfd") / "samples" / clip), detector, Request(frames, size), Limits())
        crops = [face.crop for frame in found.frames for face in frame.faces]
        if not crops:
            raise ValueError(f"no face was found in the bundled clip {clip} ({found.status}: {found.message}).")
        yield crops
