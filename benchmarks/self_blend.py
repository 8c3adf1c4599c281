"""Throughput of self-blended pairs, made from photographs in memory by two workers.

    python -m benchmarks.self_blend [--data FOLDER] [--size N] [--pairs N] [--workers N] [--processes] [--profile]

Bound: 150 pairs per second at 224 pixels on two cores. Photographs are UTKFace's under
`FOLDER/faces/utkface_adults` (default: ../shared/data), their landmarks MTCNN's; without the folder, scikit-image's
public-domain portrait scaled to their size. A pair is made as in training: `self_blend`, `degrade_pair`,
`crop_alike`. Landmark detection is not timed.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from benchmarks.common import hardware, verdict
from tfdfd.data.crops import crop_alike
from tfdfd.data.degrade import degrade_pair
from tfdfd.data.self_blending import self_blend
from tfdfd.faces.detectors import MtcnnDetector

WANTED = 150
PHOTOGRAPHS = 64
MARGIN = (0.95, 1.4)

_faces = []


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TFDFD_TEST_DATA", "../shared/data")))
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--processes", action="store_true", help="worker processes instead of threads")
    parser.add_argument("--profile", action="store_true", help="print where the time of one thread goes")
    arguments = parser.parse_args(argv)
    cv2.setNumThreads(1)  # the workers run in parallel
    faces = found_faces(photographs(arguments.data))
    sides = sorted({image.shape[0] for image, _ in faces})
    print(f"{hardware()}; {len(faces)} photographs of {sides[0]} to {sides[-1]} pixels, crops of {arguments.size}")
    if arguments.profile:
        return profile(faces, arguments)
    pool = ProcessPoolExecutor if arguments.processes else ThreadPoolExecutor
    speeds, processor = [], []
    with pool(arguments.workers, initializer=keep, initargs=(faces,)) as workers:
        list(workers.map(make_pairs, *shares(100, arguments)))
        for _ in range(arguments.rounds):
            start, used = time.perf_counter(), time.process_time()
            made = sum(workers.map(make_pairs, *shares(arguments.pairs, arguments)))
            speeds.append(made / (time.perf_counter() - start))
            processor.append(1000 * (time.process_time() - used) / made)
    kind = "processes" if arguments.processes else "threads"
    # The best round counts, because times on shared machines drift.
    ok = max(speeds) >= WANTED
    text = ", ".join(f"{speed:.0f}" for speed in speeds)
    print(f"{arguments.workers} {kind}: {text} pairs/s; wanted >= {WANTED}: {verdict(ok)}")
    if not arguments.processes:
        print(f"processor time of a pair: {min(processor):.1f} ms")
    return 0 if ok else 1


def photographs(data, count=PHOTOGRAPHS):
    """`count` photographs evenly spaced in UTKFace, or one public-domain portrait."""
    files = sorted((data / "faces/utkface_adults").glob("*.jpg"))
    if files:
        files = [files[number] for number in np.linspace(0, len(files) - 1, min(count, len(files))).astype(int)]
        return [cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB) for file in files]
    from skimage.data import astronaut

    return [cv2.resize(astronaut()[:240, 100:340], (200, 200), interpolation=cv2.INTER_AREA)]


def found_faces(images):
    """`(image, face)` of each photograph with a face."""
    detector = MtcnnDetector()
    found = [(image, detector.detect([image], [1.0])[0]) for image in images]
    return [(image, faces[0]) for image, faces in found if faces]


def shares(pairs, arguments):
    """Arguments of `make_pairs` for small chunks, so that the workers finish at about the same time."""
    starts = range(0, pairs, 50)
    return zip(*((start, min(50, pairs - start), arguments.size) for start in starts), strict=True)


def keep(faces):
    cv2.setNumThreads(1)
    _faces[:] = faces


def make_pairs(start, count, size):
    for number in range(start, start + count):
        image, face = _faces[number % len(_faces)]
        rng = np.random.default_rng([0, number])
        real, fake, mask = self_blend(image, face.landmarks, rng)
        real, fake = degrade_pair(real, fake, rng)
        crop_alike((real, fake, mask), face.box, rng, MARGIN, size=size)
    return count


def profile(faces, arguments):
    keep(faces)
    with cProfile.Profile() as profiler:
        make_pairs(0, arguments.pairs, arguments.size)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(30)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
