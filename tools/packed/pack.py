"""Packs face sets for training: crops as JPEG, mesh points, labels and groups in one or few files.

    python -m tools.packed.pack SET/faces.csv [SET/faces.csv …] -o PACK.npz --mesh mediapipe-0.10.14-….whl

Crops without a face mesh are left out and counted. Above `--most` MB, the pack continues in PACK-2.npz and so on; a
training takes all parts.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import sys
import zlib
from collections.abc import Hashable, Sequence
from pathlib import Path

import cv2
import numpy as np

from tfdfd.data.crops import check_picture, crop_path, read_bytes
from tfdfd.faces.mesh import FaceMesh
from tfdfd.files import write_atomically
from tfdfd.text import text_of_cell
from tools.packed.dataset import ROW_COLUMNS, SIDE
from tools.packed.mesh_points import POINTS

# Donors per genuine crop.
DONORS = 8
_CHUNK = 512


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line. An error is one line, with exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="python -m tools.packed.pack")
    parser.add_argument("sets", nargs="+", type=Path, metavar="FACES.csv", help="face sets with splits")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="PACK.npz")
    parser.add_argument("--mesh", type=Path, required=True, help="mediapipe 0.10.14 wheel, for the face mesh")
    parser.add_argument("--most", type=float, default=50, metavar="MB", help="most bytes of crops in a file")
    parser.add_argument(
        "--hold-out",
        type=float,
        default=0.25,
        metavar="SHARE",
        help="share of the videos of a set without validation rows that validate instead of training",
    )
    options = parser.parse_args(arguments)
    try:
        pack(options.sets, options.output, FaceMesh(options.mesh), options.most * 1e6, options.hold_out)
    except (ValueError, OSError) as error:
        raise SystemExit(f"pack: {' '.join(str(error).split())}") from None


def pack(sets: Sequence[Path], output: Path, mesh, most: float, held_out: float) -> None:
    """Writes a pack.

    Args:
        sets: tables of face sets.
        output: first file of the pack.
        mesh: `FaceMesh`, or a function like it: an RGB crop -> `(points, confidence)`, ValueError where no face is.
        most: most bytes of crops in a file.
        held_out: see `hold_out`.

    Raises:
        ValueError: a table lacks columns, an image cannot be decoded, or no crop has a mesh.
    """
    rows, crops, points, sizes, left_out = [], [], [], [], 0
    for file in sets:
        for row in hold_out(_read(file), held_out):
            if row["split"] not in ("train", "val"):
                continue
            data, pixels = _jpeg(crop_path(file.parent, row["file"]))
            try:
                found, _ = mesh(pixels)
            except ValueError:
                left_out += 1
                continue
            rows.append(row)
            crops.append(data)
            sizes.append(pixels.shape[:2])
            points.append(found[list(POINTS)])
            if len(rows) % 1000 == 0:
                print(f"{len(rows)} crops", file=sys.stderr)
    if not rows:
        raise ValueError(f"{', '.join(map(str, sets))}: no crop for training or validation has a face mesh.")
    points = np.float32(points)
    donors = nearest(
        points,
        [int(row["label"]) for row in rows],
        [(row["dataset"], row["split"]) for row in rows],
        [row["video"] for row in rows],
    )
    _write(output, rows, crops, points, np.int16(sizes), donors, most)
    print(f"{len(rows)} crops packed; {left_out} have no face mesh", file=sys.stderr)


def hold_out(rows: list[dict], share: float) -> list[dict]:
    """Moves a share of the videos of each data set without validation rows from `train` to `val`, in place.

    A video's name alone decides, so it is the same in each table.
    """
    validated = {row["dataset"] for row in rows if row["split"] == "val"}
    for row in rows:
        drawn = zlib.crc32(row["video"].encode()) / 2**32
        if row["dataset"] not in validated and row["split"] == "train" and drawn < share:
            row["split"] = "val"
    return rows


def nearest(points: np.ndarray, labels: Sequence[int], kinds: Sequence[Hashable], videos: Sequence[str]) -> np.ndarray:
    """For each genuine crop, the genuine crops with the most similar face shape.

    Args:
        points: float32 `(n, points, 2)`.
        labels: 0 or 1 per crop.
        kinds: crops are only compared with those of the same kind.
        videos: crops of the same video are left out.

    Returns:
        int32 `(n, DONORS)`, nearest first; the crop's own index where there are too few others, and for fakes.
    """
    labels, videos = np.array(labels), np.array(videos)
    shapes = points - points.mean(axis=1, keepdims=True)
    shapes = shapes / np.linalg.norm(shapes, axis=(1, 2), keepdims=True)
    flat = shapes.reshape(len(shapes), -1)
    result = np.repeat(np.arange(len(points), dtype=np.int32)[:, None], DONORS, axis=1)
    for kind in set(kinds):
        members = np.array([i for i, other in enumerate(kinds) if other == kind and labels[i] == 0], int)
        for start in range(0, len(members), _CHUNK):
            chunk = members[start : start + _CHUNK]
            distances = -flat[chunk] @ flat[members].T
            distances[videos[chunk][:, None] == videos[members][None]] = np.inf
            order = np.argsort(distances, axis=1)[:, :DONORS]
            usable = np.isfinite(np.take_along_axis(distances, order, axis=1))
            filled = np.where(usable, members[order], chunk[:, None])
            result[chunk, : filled.shape[1]] = filled
    return result


def _read(file):
    with file.open(encoding="utf-8", newline="") as table:
        rows = [{name: text_of_cell(cell) for name, cell in row.items()} for row in csv.DictReader(table)]
    missing = {"file", "dataset", "video", "method", "source_id", "split", "label"} - set(rows[0] if rows else ())
    if missing:
        raise ValueError(f"{file} has no rows, or lacks {', '.join(sorted(missing))}; expected a face set with splits.")
    return rows


def _jpeg(file):
    """The bytes of a JPEG of at most `SIDE` pixels, and its RGB pixels. A small JPEG is kept as it is."""
    data = read_bytes(file)
    check_picture(data, file)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if pixels is None:
        raise ValueError(f"{file} cannot be decoded as an image.")
    longest = max(pixels.shape[:2])
    if longest > SIDE:
        size = tuple(max(1, round(side * SIDE / longest)) for side in pixels.shape[1::-1])
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    if longest > SIDE or not data.startswith(b"\xff\xd8"):
        data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return data, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _write(path, rows, crops, points, sizes, donors, most):
    parts, size = [[]], 0
    for number, crop in enumerate(crops):
        if parts[-1] and size + len(crop) > most:
            parts.append([])
            size = 0
        parts[-1].append(number)
        size += len(crop)
    for part, numbers in enumerate(parts, 1):
        columns = {name: np.array([rows[number][name] for number in numbers]) for name in ROW_COLUMNS}
        buffer = io.BytesIO()
        np.savez(
            buffer,
            numbers=np.int32(numbers),
            count=np.int32(len(rows)),
            crops=np.frombuffer(b"".join(crops[number] for number in numbers), np.uint8),
            lengths=np.int64([len(crops[number]) for number in numbers]),
            points=points[numbers].astype(np.float16),
            sizes=sizes[numbers],
            donors=donors[numbers],
            **columns,
        )
        file = path if part == 1 else path.with_stem(f"{path.stem}-{part}")
        data = buffer.getvalue()
        write_atomically(file, data)
        digest = hashlib.sha256(data).hexdigest()
        print(f"{file}: {len(numbers)} crops, {len(data) / 1e6:.1f} MB, sha256 {digest}", file=sys.stderr)


if __name__ == "__main__":
    main()
