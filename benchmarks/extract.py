"""`tfdfd extract` against the plain way of `plain_extract.py`, and its memory over 500 videos, with the hardware.

    python -m benchmarks.extract [--videos FOLDER] [--rounds N] [--many N]

Both ways make the face set of the same clips from nothing, start of Python and libraries included, in turns; each takes
its best round. The bounds that are checked are the project's: 5 times with two workers, and memory that does not grow.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.clips import write_clip
from benchmarks.detect import hardware, run
from tfdfd.data.tables import IndexRow, write_table

TFDFD = [sys.executable, "-m", "tfdfd"]


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, help="a folder of videos instead of four generated ones")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--many", type=int, default=500, help="videos of the run whose memory is watched")
    arguments = parser.parse_args(argv)
    print(f"{hardware()}, Python {platform.python_version()}\n")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        root = arguments.videos
        if root is None:
            root = work / "clips"
            root.mkdir()
            for number in range(4):
                write_clip(root / f"{number}.mp4", 1280, 720, 10)
        rows = [speed(root, work, arguments.rounds), memory(work, arguments.many)]
    print("| what | plain | tfdfd | ratio | bound | |\n|---|---|---|---|---|---|")
    for name, plain, ours, ratio, bound, held in rows:
        print(f"| {name} | {plain} | {ours} | {ratio} | {bound} | {'ok' if held else 'MISSED'} |")
    return 0 if all(row[-1] for row in rows) else 1


def speed(root, work, rounds):
    """32 frames of each video under `root` by both ways."""
    paths = sorted(path for path in root.rglob("*.mp4"))
    index = write_index(work / "index.csv", [path.relative_to(root).as_posix() for path in paths])
    plain, ours = [], []
    for _ in range(rounds):
        for way, command, times in (
            ("plain", [sys.executable, "-m", "benchmarks.plain_extract", str(work / "plain"), *map(str, paths)], plain),
            ("ours", extract(index, root, work / "ours", "--workers", "2"), ours),
        ):
            shutil.rmtree(work / way, ignore_errors=True)
            (work / way).mkdir()
            begun = time.perf_counter()
            answer = run(command)
            times.append(time.perf_counter() - begun)
            if way == "plain":
                crops = json.loads(answer)["crops"]
    found = json.loads((work / "ours" / "run.json").read_text())["counts"]["crops"]
    ratio = min(plain) / min(ours)
    name = f"32 frames of {len(paths)} videos"
    told = f"{min(plain):.1f} s, {crops} crops", f"{min(ours):.1f} s, {found} crops"
    return name, *told, f"{ratio:.1f} x", ">= 5 x", ratio >= 5


def memory(work, many):
    """Largest sum of the processes' memory in the first fifth of a run over one clip `many` times, and in the rest.

    Private memory where the system tells it, so that pages that processes share count once.
    """
    root = work / "many"
    root.mkdir()
    clip = write_clip(root / "0000.mp4", 640, 360, 1)
    for number in range(1, many):
        os.link(clip, root / f"{number:04d}.mp4")
    index = write_index(work / "many.csv", [f"{number:04d}.mp4" for number in range(many)])
    faces = work / "many_faces"
    command = extract(index, root, faces, "--workers", "2", "--frames", "4", "--size", "64")
    early = late = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        while child.poll() is None:
            time.sleep(0.2)
            used = _private(child.pid)
            if sum(1 for _ in faces.glob("records/*.json")) <= many // 5:
                early = max(early, used)
            else:
                late = max(late, used)
    growth = late / early
    told = f"{early / 1e6:.0f} MB, then {late / 1e6:.0f} MB"
    held = child.returncode == 0 and growth < 1.1
    return f"memory, first fifth of {many} videos and the rest", "-", told, f"{growth:.2f} x", "< 1.1 x", held


def _private(pid):
    total = 0
    try:
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            total += getattr(process.memory_full_info(), "uss", 0)
    except psutil.Error:
        return 0
    return total


def extract(index, root, folder, *words):
    return [*TFDFD, "extract", str(index), "--root", str(root), "-o", str(folder), "--quiet", *words]


def write_index(path, videos):
    write_table(path, [IndexRow(video, "folder", "video", 0, "original", (video,)) for video in videos], IndexRow)
    return path


if __name__ == "__main__":
    raise SystemExit(main())
