"""Generated face sets: noise that is slightly smoother in fakes, so a network can tell them apart."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np

from tfdfd.data.tables import FAKE, FaceRow, write_table

# The splits of six videos of one class, in turn.
SPLITS = ("train", "train", "train", "val", "val", "test")


def make_faces(
    folder: Path,
    videos: int = 24,
    frames: int = 4,
    side: int = 64,
    seed: int = 0,
    fakes: float = 0.5,
    pairs: bool = False,
) -> list[FaceRow]:
    """Writes PNGs and their `faces.csv`, and returns its rows.

    Every video has a source of its own; with `pairs`, the n-th fake is made from the n-th real video.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draw, before = np.random.default_rng(seed), [0, 0]
    rows: list[FaceRow] = []
    for video in range(videos):
        label = int((video + 1) * fakes) - int(video * fakes)
        split = SPLITS[before[label] % len(SPLITS)]
        before[label] += 1
        source = f"pair{before[label]:03}" if pairs else f"{video:03}"
        for frame in range(frames):
            noise = draw.integers(0, 256, (side, side, 3), np.uint8)
            image = cv2.GaussianBlur(noise, (0, 0), 0.9 + 0.5 * label + draw.uniform(0, 0.2))
            name = f"{video:03}_{frame}.png"
            cv2.imwrite(str(folder / name), image)
            rows.append(
                FaceRow(
                    file=name,
                    dataset="made",
                    video=f"{video:03}.mp4",
                    frame=frame,
                    time_s=frame / 25,
                    track=0,
                    box=(0, 0, side, side),
                    score=1.0,
                    label=label,
                    method="Deepfakes" if label == FAKE else "original",
                    source_id=(source,),
                    split=split,
                    sha256=hashlib.sha256((folder / name).read_bytes()).hexdigest(),
                )
            )
    write_table(folder / "faces.csv", rows, FaceRow)
    return rows
