"""Packed crops in memory, and the sampling of training batches."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tfdfd.threads import map_in_threads
from tools.packed.settings import Settings

# Side of the canvases, and the longest side of a packed crop.
SIDE = 256
# Shares of the blended pairs by data set, if all are present. Other sets have 0.1 each.
SOURCE_SHARES = {"utk": 0.3, "ffpp": 0.32, "talking_heads": 0.14, "ffhq": 0.1, "voxceleb2": 0.08, "grid": 0.06}
ROW_COLUMNS = ("dataset", "video", "method", "source_id", "split", "label")
_COLUMNS = {"numbers", "count", "crops", "lengths", "points", "sizes", "donors", *ROW_COLUMNS}


class Pack:
    """The crops of one pack.

    Args:
        files: all parts of the pack, as `tools.packed.pack` writes them, in any order.

    Attributes:
        dataset, video, method, source_id, split, label: one value per crop; label is 1 for fakes, else 0.
        canvases: uint8 `(n, SIDE, SIDE, 3)`, crops in the upper left corner.
        points: mesh points, float32 `(n, 118, 2)`.
        sizes: height and width of the crops, float32 `(n, 2)`.
        donors: for each genuine crop, the crops whose face may go into it, `(n, k)`.
        digest: SHA-256 over the files.

    Raises:
        ValueError: a file is truncated or not a pack, a part is missing, a crop cannot be decoded, or a source is in
            training and in validation.
    """

    def __init__(self, files: Sequence[str | os.PathLike]):
        parts = sorted((_read(Path(file)) for file in files), key=lambda part: part["numbers"].tolist())
        numbers = np.concatenate([part["numbers"] for part in parts])
        count = int(parts[0]["count"])
        if sorted(numbers) != list(range(count)):
            raise ValueError(
                f"{', '.join(map(str, files))} hold {len(numbers)} of {count} crops; give each part of one pack once."
            )
        order = np.argsort(numbers)
        columns = {
            name: np.concatenate([part[name] for part in parts])[order]
            for name in (*ROW_COLUMNS, "points", "sizes", "donors")
        }
        self.dataset, self.video, self.method = columns["dataset"], columns["video"], columns["method"]
        self.source_id, self.split = columns["source_id"], columns["split"]
        self.label = columns["label"].astype(int)
        self.points, self.sizes = (columns[name].astype(np.float32) for name in ("points", "sizes"))
        self.donors = columns["donors"]
        self.digest = hashlib.sha256("".join(part["digest"] for part in parts).encode()).hexdigest()
        self._refuse_leaks()
        self.canvases = _canvases(parts, count)

    def _refuse_leaks(self):
        train, val = (
            {source for row in np.flatnonzero(self.split == split) for source in self.source_id[row].split(";")}
            for split in ("train", "val")
        )
        shared = sorted(train & val)
        if shared:
            raise ValueError(
                f"{len(shared)} sources are in training and in validation, such as {shared[0]!r}; split the set by "
                "its sources (tfdfd split)."
            )


class Sampler:
    """Chooses the crops of each batch. A batch depends on its step and the seed alone.

    Raises:
        ValueError: the pack has nothing to train on with these settings.
    """

    def __init__(self, pack: Pack, settings: Settings):
        self._donors, self._settings = pack.donors, settings
        train = pack.split == "train"
        methods = set(pack.method[pack.label == 1])
        unknown = sorted(set(settings.without) - methods)
        if unknown:
            raise ValueError(f"without names {', '.join(unknown)}; methods of the pack: {', '.join(sorted(methods))}.")
        # A fake's first source is its target, whose genuine crops stand beside it.
        fakes = {}
        for row in np.flatnonzero(train & (pack.label == 1) & ~np.isin(pack.method, settings.without)):
            fakes.setdefault(_target(pack, row), {}).setdefault(pack.method[row], []).append(row)
        if settings.pairs and not fakes:
            raise ValueError("the pack has no fakes to train on; set pairs=0 to train on blends alone.")
        videos = {}
        for row in np.flatnonzero(train & (pack.label == 0)):
            videos.setdefault(pack.dataset[row], {}).setdefault(pack.video[row], []).append(row)
        if not videos:
            raise ValueError("the pack has no genuine crops to train on.")
        self._videos = {name: list(rows.values()) for name, rows in videos.items()}
        self._paired = [
            (rows, fakes[target])
            for members in self._videos.values()
            for rows in members
            if (target := _target(pack, rows[0])) in fakes
        ]
        if settings.pairs and not self._paired:
            raise ValueError("no fake of the pack has a genuine crop of its target video beside it.")
        shares = np.array([SOURCE_SHARES.get(name, 0.1) for name in self._videos])
        self._names, self._shares = list(self._videos), shares / shares.sum()

    def __call__(self, step: int):
        """Indices of a batch: reals, fakes, blended and donors, and whether a donor's face is blended in."""
        settings, rng = self._settings, np.random.default_rng([self._settings.seed, step])
        reals, fakes = [], []
        for choice in rng.integers(len(self._paired), size=settings.pairs) if self._paired else ():
            rows, methods = self._paired[choice]
            method = rng.choice(sorted(methods))
            reals.append(rng.choice(rows))
            fakes.append(rng.choice(methods[method]))
        blended = []
        for name in rng.choice(self._names, p=self._shares, size=settings.blends):
            video = self._videos[name][rng.integers(len(self._videos[name]))]
            blended.append(rng.choice(video))
        blended = np.array(blended, np.int32)
        donors = self._donors[blended, rng.integers(self._donors.shape[1], size=len(blended))]
        swapped = (rng.random(len(blended)) < settings.swapped) & (donors != blended)
        return np.array(reals, np.int32), np.array(fakes, np.int32), blended, donors, swapped


def _target(pack, row):
    return pack.source_id[row].split(";")[0]


def _read(file):
    data = file.read_bytes()
    try:
        with np.load(io.BytesIO(data)) as archive:
            columns = {name: archive[name] for name in archive.files}
        missing = _COLUMNS - columns.keys()
        if missing:
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        if len({len(columns[name]) for name in _COLUMNS - {"count", "crops"}}) > 1:
            raise ValueError("its columns differ in length")
        if columns["lengths"].sum() != columns["crops"].size:
            raise ValueError("its crops are truncated")
    # NumPy raises many types of exceptions for a truncated or foreign file.
    except Exception as error:
        raise ValueError(f"{file} is not a whole pack: {error}. Make it with python -m tools.packed.pack.") from error
    return columns | {"file": file, "digest": hashlib.sha256(data).hexdigest()}


def _canvases(parts, count):
    canvases = np.zeros((count, SIDE, SIDE, 3), np.uint8)

    def fill(crop):
        part, number, end, length = crop
        try:
            with Image.open(io.BytesIO(part["crops"][end - length : end].tobytes())) as image:
                pixels = np.asarray(image.convert("RGB"))
            canvases[number, : pixels.shape[0], : pixels.shape[1]] = pixels
        # Pillow raises several types of exceptions for a damaged image; a picture that is too large is a ValueError.
        except Exception as error:
            raise ValueError(f"crop {number} in {part['file']} cannot be decoded: {error}.") from error

    crops = (
        (part, *crop)
        for part in parts
        for crop in zip(part["numbers"], np.cumsum(part["lengths"]), part["lengths"], strict=True)
    )
    for _ in map_in_threads(fill, crops):
        pass
    return canvases
