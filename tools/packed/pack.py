"""Face sets as one or few packed files that training needs nothing besides: crops as JPEG, mesh points, labels, groups.

    python -m tools.packed.pack SET/faces.csv … -o PACK.npz --mesh mediapipe-0.10.14-….whl

A crop without a face mesh is left out and counted. Above `--most` MB the pack goes on in PACK-2.npz and so on; a
training takes all of them.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np

from tfdfd.faces.mesh import FaceMesh
from tfdfd.files import write_atomically
from tools.packed.mesh_points import POINTS

# Longest side of a packed crop: that of the canvas it is put on.
SIDE = 256
# Nearest other people, by the places of their features.
DONORS = 8
_SAME_PLACES_CHUNK = 512


def main(arguments=None):
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
    rows, crops, points, sizes, left_out = [], [], [], [], 0
    mesh = FaceMesh(options.mesh)
    for file in options.sets:
        for row in _held_out(list(csv.DictReader(file.open(encoding="utf-8", newline=""))), options.hold_out):
            if row["split"] not in ("train", "val"):
                continue
            data, pixels = _jpeg(file.parent / row["file"])
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
        raise SystemExit(f"{', '.join(map(str, options.sets))}: no crop with a face mesh; expected at least one.")
    points, sizes = np.float32(points), np.int16(sizes)
    donors = nearest(points, [(row["dataset"], row["split"]) for row in rows], [row["video"] for row in rows], rows)
    _write(options.output, rows, crops, points, sizes, donors, options.most * 1e6)
    print(f"{len(rows)} crops packed; {left_out} have no face mesh", file=sys.stderr)


def _held_out(rows, share):
    """The rows, with a share of the videos of each data set that has nothing to validate on moved to `val`."""
    validated = {row["dataset"] for row in rows if row["split"] == "val"}
    for row in rows:
        drawn = zlib.crc32(row["video"].encode()) / 2**32
        if row["dataset"] not in validated and row["split"] == "train" and drawn < share:
            row["split"] = "val"
    return rows


def nearest(points, kinds, videos, rows):
    """For each genuine crop the genuine crops of its kind and of another video whose features lie most alike,
    int32 `(n, DONORS)`; itself where there is nobody."""
    labels = np.array([int(row["label"]) for row in rows])
    shapes = points - points.mean(axis=1, keepdims=True)
    shapes = shapes / np.linalg.norm(shapes, axis=(1, 2), keepdims=True)
    flat = shapes.reshape(len(shapes), -1)
    result = np.repeat(np.arange(len(rows), dtype=np.int32)[:, None], DONORS, axis=1)
    people = np.array(videos)
    for kind in set(kinds):
        members = np.array([i for i, other in enumerate(kinds) if other == kind and labels[i] == 0], int)
        for start in range(0, len(members), _SAME_PLACES_CHUNK):
            here = members[start : start + _SAME_PLACES_CHUNK]
            apart = -flat[here] @ flat[members].T
            apart[people[here][:, None] == people[members][None]] = np.inf
            order = np.argsort(apart, axis=1)[:, :DONORS]
            usable = np.isfinite(np.take_along_axis(apart, order, axis=1))
            filled = np.where(usable, members[order], here[:, None])
            result[here, : filled.shape[1]] = filled
    return result


def _jpeg(file):
    data = file.read_bytes()
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise SystemExit(f"{file} is no image that can be decoded.")
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
        columns = {
            name: np.array([rows[number][name] for number in numbers])
            for name in ("dataset", "video", "method", "source_id", "split", "label")
        }
        held = io.BytesIO()
        np.savez(
            held,
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
        write_atomically(file, held.getvalue())
        print(f"{file}: {len(numbers)} crops, {held.tell() / 1e6:.1f} MB, {_digest(held)}", file=sys.stderr)


def _digest(held):
    return f"sha256 {hashlib.sha256(held.getbuffer()).hexdigest()}"


if __name__ == "__main__":
    main()
