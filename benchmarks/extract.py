"""`tfdfd extract` against the plain way (`benchmarks.plain`), and its memory over 500 videos.

    python -m benchmarks.extract [--videos FOLDER] [--rounds N] [--many N]

Both ways extract the same clips, start of Python and libraries included, in turns; the best round counts. Bounds: 5
times as fast with two workers, and memory that does not grow.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.common import TFDFD, hardware, in_child, print_bounds, run, write_clip
from tfdfd.data.tables import IndexRow, write_table


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, help="folder of videos (default: four generated ones)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--many", type=int, default=500, help="number of videos of the run whose memory is measured")
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
    return print_bounds(("what", "plain", "tfdfd", "ratio", "bound"), rows)


def speed(root, work, rounds):
    """Time of both ways for 32 frames of each video in `root`."""
    paths = sorted(path for path in root.rglob("*.mp4"))
    index = write_index(work / "index.csv", [path.relative_to(root).as_posix() for path in paths])
    plain, ours = [], []
    for _ in range(rounds):
        for way, times in (("plain", plain), ("ours", ours)):
            shutil.rmtree(work / way, ignore_errors=True)
            (work / way).mkdir()
            start = time.perf_counter()
            if way == "ours":
                run(extract(index, root, work / "ours", "--workers", "2"))
            else:
                answer = in_child("benchmarks.plain", "extract", str(work / "plain"), list(map(str, paths)))
            times.append(time.perf_counter() - start)
    crops = json.loads(answer)["crops"]
    extracted = json.loads((work / "ours" / "run.json").read_text())["counts"]["crops"]
    ratio = min(plain) / min(ours)
    name = f"32 frames of {len(paths)} videos"
    text = f"{min(plain):.1f} s, {crops} crops", f"{min(ours):.1f} s, {extracted} crops"
    return name, *text, f"{ratio:.1f} x", ">= 5 x", ratio >= 5


def memory(work, many):
    """Peak memory of all processes in the first fifth of a run over one clip `many` times, and in the rest.

    Counts private memory where the system reports it, so that shared pages count once.
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
    text = f"{early / 1e6:.0f} MB, then {late / 1e6:.0f} MB"
    held = child.returncode == 0 and growth < 1.1
    return f"memory, first fifth of {many} videos and the rest", "-", text, f"{growth:.2f} x", "< 1.1 x", held


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
