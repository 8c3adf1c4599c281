"""Small clips of one moving face, their index, and the command that extracts their faces, for tests of face sets."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tfdfd.data.tables import IndexRow, write_table

FRAMES, CLIPS = 12, 24
ARGUMENTS = {"detector": "haar", "frames": 4, "size": 64}
_WORDS = ("--detector", "haar", "--frames", "4", "--size", "64", "--workers", "2")


def index_row(path: str, label: int = 0, original: str | None = None) -> IndexRow:
    kind = "image" if path.endswith(".png") else "video"
    method = "made" if label else "original"
    return IndexRow(path, "folder", kind, label, method, (Path(path).stem, "b"), "c23", original, split="val")


def make_clips(root: Path, make_video: Callable[..., Path], photograph: np.ndarray) -> Path:
    """Writes real and fake clips and two indexes, of all and of four of them; returns the folder."""
    (root / "real").mkdir()
    (root / "fake").mkdir()
    rows = []
    for i in range(CLIPS):
        path = f"{'fake' if i % 2 else 'real'}/{i // 2:02d}.mp4"
        frames = [np.roll(photograph[:192, 128:320], (i % 5 + k, i + k), (0, 1)) for k in range(FRAMES)]
        make_video(root / path, frames)
        rows.append(index_row(path, i % 2, path.replace("fake", "real") if i % 2 else None))
    write_table(root / "index.csv", rows, IndexRow)
    write_table(root / "few.csv", [rows[i] for i in (0, 1, 6, 7)], IndexRow)
    return root


def command(clips: Path, folder: Path, *words: str | Path) -> list[str | Path]:
    """The command line of `tfdfd extract` with `ARGUMENTS`."""
    where = clips / "index.csv", "--root", clips, "-o", folder
    return [sys.executable, "-m", "tfdfd", "extract", *where, *_WORDS, *words]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
