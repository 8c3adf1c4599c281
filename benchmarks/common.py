"""Shared parts of the benchmarks: hardware line, tables, child processes, clips and crops made on the spot."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

TFDFD = [sys.executable, "-m", "tfdfd"]


def hardware() -> str:
    """Processor, cores and memory as text."""
    import psutil

    from tfdfd import cost

    machine, memory = cost.hardware(), psutil.virtual_memory().total
    return f"{machine['cores']} cores of {machine['processor']}, {memory / 2**30:.0f} GiB"


def verdict(held: bool | None) -> str:
    """`ok` or `MISSED`; a dash for a row without a bound."""
    return "-" if held is None else "ok" if held else "MISSED"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a Markdown table, row by row."""
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)


def print_bounds(columns: Sequence[str], rows: Sequence[Sequence]) -> int:
    """Prints rows whose last cell tells whether a bound was kept; returns the exit status."""
    print_table([*columns, ""], [[*cells, verdict(held)] for *cells, held in rows])
    return 0 if all(row[-1] is not False for row in rows) else 1


def run(command: Sequence[str]) -> bytes:
    """Standard output of a command that must succeed."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout


def seconds_of(command: Sequence[str]) -> float:
    """Wall time of a command that must succeed."""
    start = time.perf_counter()
    run(command)
    return time.perf_counter() - start


def in_child(module: str, function: str, *arguments: object) -> bytes:
    """Standard output of `print(json.dumps(module.function(*arguments)))` in a process of its own."""
    code = f"import json; from {module} import {function}; print(json.dumps({function}(*{arguments!r}), default=float))"
    return run([sys.executable, "-c", code])


@contextlib.contextmanager
def timed(best: np.ndarray, count: int = 1) -> Iterator[None]:
    """Lowers `best`, `(wall seconds, processor seconds)` per item, to the times of the block over `count` items."""
    start = np.array([time.perf_counter(), time.process_time()])
    yield
    best[:] = np.minimum(best, ([time.perf_counter(), time.process_time()] - start) / count)


def write_clip(path: Path, width: int, height: int, seconds: float, faces: int = 1, rate: int = 25) -> Path:
    """An H.264 clip of drifting public-domain portraits (NASA, from scikit-image) over a noisy gray wall."""
    import av
    import cv2
    from skimage.data import astronaut

    portrait = cv2.resize(astronaut()[:360, 60:420], (height // 2, height // 2), interpolation=cv2.INTER_AREA)
    wall = np.random.default_rng(0).integers(90, 110, (height, width, 3), dtype=np.uint8)
    side = portrait.shape[0]
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast"}
        for number in range(round(seconds * rate)):
            frame = wall.copy()
            for face in range(faces):
                center = (face + 1) * width // (faces + 1)
                left = center - side // 2 + round(60 * np.sin(number / 40 + face))
                top = height // 4 + round(40 * np.cos(number / 55 + face))
                frame[top : top + side, left : left + side] = portrait
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    return path


def write_crops(folder: Path, ending: str, count: int, size: int = 256) -> None:
    """Random crops of a photograph in `real/` and `fake/`, which decode as slowly as faces do."""
    import cv2
    from skimage.data import astronaut

    photograph, random = astronaut()[..., ::-1], np.random.default_rng(0)
    for number in range(count):
        label = folder / ("fake" if number % 2 else "real")
        label.mkdir(parents=True, exist_ok=True)
        top, left = random.integers(0, 512 - size, 2)
        crop = photograph[top : top + size, left : left + size]
        cv2.imwrite(str(label / f"{number:05d}.{ending}"), crop)  # JPEG: quality 95
