"""Scaling of tables with rows, and of face extraction with workers of a Ray cluster.

    python -m benchmarks.scale [--rows N ...] [--no-extract] [--clip FILE]

Trees of small pictures (videos of ten frames) are indexed, split and checked for leaks, by names alone and with all
pictures compared, and their faces.csv is read. Time is processor time, so that other work on the machine counts little;
the exponent follows from the slopes between the three largest sizes, so that the start-up drops out: 1 is linear.
`extract --engine ray` runs on copies of a clip with one and two workers; what a clip costs its workers and the driver
gives the projection to 1,000 cores.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.common import TFDFD, hardware, print_bounds, print_table, write_clip

ROWS = (10_000, 30_000, 100_000)
FRAMES_A_VIDEO = 10
# Largest exponent that counts as linear: sorting, and caches that grow too small, add a little.
LINEAR = 1.15
SHORT = 5.0  # seconds
CORES = 1000
CLIPS = 8
# Numbers of tiny clips whose difference is the driver's work.
DRIVEN = 40, 240
READ = (
    "import sys; from tfdfd.data.tables import FaceRow, read_table; "
    "print(len(read_table(sys.argv[1], FaceRow)), 'rows')"
)


@dataclass(frozen=True)
class Cost:
    """Processor seconds and peak bytes of a process, children that it waited for included in the seconds."""

    seconds: float
    wall: float
    peak: int


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="sizes, ascending (default: %(default)s)")
    parser.add_argument("--no-extract", action="store_true", help="tables only")
    parser.add_argument("--clip", type=Path, help="video (default: a generated one, 4 s of 1280 x 720)")
    arguments = parser.parse_args(argv)
    print(f"{hardware()}\n")
    with tempfile.TemporaryDirectory() as folder:
        costs = []
        for rows in arguments.rows:
            costs.append(tables(Path(folder, str(rows)), rows))
            print(f"{rows:,} rows measured", file=sys.stderr, flush=True)
        status = print_bounds(
            ("what", *(f"{rows:,} rows" for rows in arguments.rows), "a row more", "exponent", "bound"),
            [growth(what, arguments.rows, [each[what] for each in costs]) for what in costs[0]],
        )
        if not arguments.no_extract:
            clip = arguments.clip or write_clip(Path(folder, "clip.mp4"), 1280, 720, 4)
            print()
            print_table(("what", "measured"), extraction(clip, Path(folder)))
    return status


def tables(folder: Path, rows: int) -> dict[str, Cost]:
    """Costs of each command on a tree of this many pictures."""
    tree, index, split, faces = (folder / name for name in ("tree", "index.csv", "split.csv", "faces.csv"))
    write_tree(tree, rows)
    found = {"index": least_cost([*TFDFD, "index", "folder", str(tree), "-o", str(index)])}
    for what, pictures in (("names", ["--no-crops"]), ("pictures", ["--crops", str(tree)])):
        found[f"split, {what}"] = least_cost([*TFDFD, "split", str(index), "-o", str(split), *pictures])
        found[f"check-leaks, {what}"] = least_cost([*TFDFD, "check-leaks", str(split), *pictures])
    write_faces(faces, rows)
    found["faces.csv, read"] = least_cost([sys.executable, "-c", READ, str(faces)])
    return found


def write_tree(tree: Path, rows: int) -> None:
    """Smooth random pictures of 64 pixels, all different, each tenth of the videos' frames nearly alike."""
    import cv2

    random = np.random.default_rng(0)
    for video in range(math.ceil(rows / FRAMES_A_VIDEO)):
        folder = tree / ("fake" if video % 2 else "real") / f"{video // 1000:03d}" / f"{video:06d}"
        folder.mkdir(parents=True)
        base = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        for frame in range(min(FRAMES_A_VIDEO, rows - video * FRAMES_A_VIDEO)):
            noise = random.integers(-40, 41, base.shape)
            small = np.clip(base + noise, 0, 255).astype(np.uint8)
            image = cv2.resize(small, (64, 64), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(folder / f"{frame:04d}.jpg"), image)


def write_faces(path: Path, rows: int) -> None:
    from tfdfd.data.tables import FaceRow, write_table

    def row(number):
        video, frame = divmod(number, 32)
        name = f"{video:06d}"
        return FaceRow(
            f"crops/{name}/{frame:04d}_0.png", "set", f"{name}.mp4", frame * 8, frame * 0.32, 0, (100, 80, 120, 140),
            0.999, video % 2, "original", (name,), split="train", sha256=f"{number:064x}",
        )  # fmt: skip

    write_table(path, map(row, range(rows)), FaceRow)


def least_cost(command: list[str]) -> Cost:
    """The cheapest of three runs of a command, or the only one of a command that takes long: short ones scatter."""
    costs = [cost(command)]
    while costs[0].seconds < SHORT and len(costs) < 3:
        costs.append(cost(command))
    return min(costs, key=lambda each: each.seconds)


def cost(command: list[str]) -> Cost:
    """Runs a command; one that fails is an error, but for leaks (1) and files left out (3)."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1, 3) or b"Traceback" in errors:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {errors.decode()[-2000:]}")
    return Cost(usage.ru_utime + usage.ru_stime, time.perf_counter() - start, usage.ru_maxrss * 1024)


def growth(what: str, rows: list[int], costs: list[Cost]) -> tuple:
    """A row of the table: each size, the processor time and memory that a row adds, and the exponent."""
    cells = [f"{each.seconds:.1f} s, {each.peak / 1e6:.0f} MB" for each in costs]
    if len(rows) < 3:
        return what, *cells, "-", "-", "-", None
    added = rows[-1] - rows[-2]
    seconds, peak = (costs[-1].seconds - costs[-2].seconds) / added, (costs[-1].peak - costs[-2].peak) / added
    power = exponent(rows[-3:], [each.seconds for each in costs[-3:]])
    return what, *cells, f"{seconds * 1e6:.0f} µs, {peak / 1e3:.1f} kB", f"{power:.2f}", f"<= {LINEAR}", power <= LINEAR


def exponent(sizes: list[int], values: list[float]) -> float:
    """The power p of `a + b n^p` through three sizes, by the slopes between them."""
    slopes = np.maximum(np.diff(values), 1e-3) / np.diff(sizes)
    middles = np.sqrt(np.multiply(sizes[:-1], sizes[1:]))
    return 1 + math.log(slopes[1] / slopes[0]) / math.log(middles[1] / middles[0])


def extraction(clip: Path, folder: Path) -> list[tuple[str, str]]:
    """Throughput with one and two Ray workers, and the projection to `CORES`."""
    index = write_copies(clip, folder / "clips", CLIPS)
    rows, rates = [], []
    for workers in (1, 2):
        few, all_ = (extract(index, clips, workers).wall for clips in (1, CLIPS))
        rates.append((CLIPS - 1) / (all_ - few))
        rows.append((f"extract --engine ray, {workers} worker(s)", f"{rates[-1]:.2f} clips/s after the start"))
    core, driver = core_seconds(clip), driver_seconds(folder)
    wanted, most = CORES / core, 1 / driver
    return [
        *rows,
        ("two workers against one", f"{rates[1] / rates[0]:.2f} x on {os.cpu_count()} cores"),
        ("a clip, one core", f"{core:.2f} processor seconds"),
        ("a clip, driver", f"{driver * 1e3:.1f} ms of processor time: at most {most:.0f} clips/s"),
        (f"{CORES:,} cores", f"{wanted:.0f} clips/s, {wanted * clip.stat().st_size / 1e6:.0f} MB/s of video"),
        ("bound", "the workers" if wanted < most else f"the driver, from {most * core:.0f} cores"),
    ]


def write_copies(clip: Path, folder: Path, count: int) -> Path:
    """An index of copies of a clip in `folder/data`, which differ after the last box."""
    (folder / "data/real").mkdir(parents=True)
    for number in range(count):
        box = (12).to_bytes(4, "big") + b"free" + number.to_bytes(4, "big")
        (folder / f"data/real/{number:04d}.mp4").write_bytes(clip.read_bytes() + box)
    cost([*TFDFD, "index", "folder", str(folder / "data"), "-o", str(folder / "index.csv")])
    return folder / "index.csv"


def extract(index: Path, clips: int, workers: int, *options: str) -> Cost:
    """Cost of the extraction of the first clips of an index by Ray; the seconds are the driver's own."""
    some, faces = (index.with_name(f"{name}-{workers}-{clips}") for name in ("index", "faces"))
    some.write_text("".join(index.read_text().splitlines(keepends=True)[: 1 + clips]))
    arguments = ["extract", str(some), "--root", str(index.with_name("data")), "-o", str(faces), "--quiet", *options]
    code = (
        "import sys, time; from tfdfd.cli.main import main; status = main(sys.argv[1:]); "
        "print('driver', time.process_time()); sys.exit(status)"
    )
    command = [sys.executable, "-c", code, *arguments, "--engine", "ray", "--workers", str(workers)]
    start = time.perf_counter()
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {process.stdout}{process.stderr}")
    seconds = float(process.stdout.rpartition("driver")[2])
    return Cost(seconds, time.perf_counter() - start, 0)


def core_seconds(clip: Path) -> float:
    """Processor seconds of the extraction of one clip, decoder and search, in one thread."""
    import cv2

    from tfdfd.extract.extraction import Request, extract_faces
    from tfdfd.faces import build_detector
    from tfdfd.media import Limits

    cv2.setNumThreads(1)
    detector, times = build_detector(), []
    for _ in range(3):
        start = time.process_time()
        with clip.open("rb") as file:
            extract_faces(file, detector, Request(), Limits())
        times.append(time.process_time() - start)
    return min(times)


def driver_seconds(folder: Path) -> float:
    """Processor seconds that each more clip costs the driver: job, record, and 32 rows of faces.csv.

    Tiny clips without a search, so that the workers are soon done.
    """
    clip = write_clip(folder / "tiny.mp4", 64, 64, 1.28, faces=0)
    index = write_copies(clip, folder / "tiny", DRIVEN[1])
    few, many = (extract(index, clips, 2, "--detector", "none", "--size", "64").seconds for clips in DRIVEN)
    return (many - few) / (DRIVEN[1] - DRIVEN[0])


if __name__ == "__main__":
    raise SystemExit(main())
