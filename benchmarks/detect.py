"""`tfdfd detect` against the plain way (`benchmarks.plain`), as ratios in one run.

    python -m benchmarks.detect [--clip FILE] [--rounds N]

Times on shared machines drift, so cold calls of both ways alternate, warm rounds run in one process each, and the best
round counts; compare the ratios. Bounds: 6 times as fast warm, 3 times cold, two clips in less than twice the time of
one, 1.5 GB at 1080p, help in half a second.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.common import TFDFD, hardware, in_child, print_bounds, seconds_of, write_clip
from benchmarks.detectors import iou
from tfdfd.extract.extraction import Request
from tfdfd.extract.pool import FaceExtractor
from tfdfd.media.inputs import Input


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clip", type=Path, help="video (default: a generated one, 13 s of 1280 x 720)")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args(argv)
    print(f"{hardware()}, Python {platform.python_version()}\n")
    with tempfile.TemporaryDirectory() as folder:
        clip = arguments.clip or write_clip(Path(folder, "clip.mp4"), 1280, 720, 13)
        twin = Path(folder, "twin.mp4")
        twin.write_bytes(clip.read_bytes())
        rows = compare(clip, twin, arguments.rounds)
        rows += memory(write_clip(Path(folder, "long.mp4"), 1920, 1080, 60))
    rows.append(help_time(arguments.rounds))
    return print_bounds(("what", "plain", "tfdfd", "ratio", "bound"), rows)


def compare(clip, twin, rounds):
    """Cold and warm times of both ways on one clip, the faces found, and two clips at once."""
    plain_cold, ours_cold, cold_two = [], [], []
    for _ in range(rounds):
        start = time.perf_counter()
        in_child("benchmarks.plain", "detect", str(clip), 1)
        plain_cold.append(time.perf_counter() - start)
        ours_cold.append(seconds_of([*TFDFD, "detect", str(clip), "--json", "-", "--quiet"]))
        cold_two.append(seconds_of([*TFDFD, "detect", str(clip), str(twin), "--json", "-", "--quiet"]))
    plain = json.loads(in_child("benchmarks.plain", "detect", str(clip), rounds))
    times = json.loads(in_child("benchmarks.detect", "warm", str(clip), str(twin), rounds))
    warm, warm_two = times["one_s"], times["two_s"]
    best = min(plain["rounds"], key=lambda r: sum(r.values()))
    plain_warm = sum(best.values())
    matched, expected = same_faces(plain, clip)
    parts = " + ".join(f"{best[key]:.2f}" for key in ("decode_s", "detect_s", "score_s"))
    return [
        _row("one clip, warm", plain_warm, min(warm), 6, f"{plain_warm:.2f} s ({parts})"),
        _row("one clip, cold", min(plain_cold), min(ours_cold), 3),
        ("two clips at once, warm", "-", f"{min(warm_two):.2f} s", f"{min(warm_two) / min(warm):.2f} x one", "< 2",
         min(warm_two) < 2 * min(warm)),
        ("two clips at once, cold", "-", f"{min(cold_two):.2f} s", f"{min(cold_two) / min(ours_cold):.2f} x one",
         "< 2", min(cold_two) < 2 * min(ours_cold)),
        ("main face of the plain way found too", expected, matched, "-", "all", matched == expected),
    ]  # fmt: skip


def same_faces(plain, clip):
    """The number of frames on which `detect` also finds the plain way's main face (IoU >= 0.5), and of frames with one.

    The main face has the highest detector score. All detected faces count, doubtful second ones included.
    """
    with FaceExtractor() as extractor:
        (outcome,) = extractor.extract([Input(str(clip))], Request())
    mine = {frame.index: [face.box for face in frame.faces] for frame in outcome.frames}
    main = {index: boxes[0] for index, boxes in zip(plain["indices"], plain["boxes"], strict=True) if boxes}
    both = sum(any(iou(box, other) >= 0.5 for other in mine.get(index, ())) for index, box in main.items())
    return both, len(main)


def memory(clip):
    """Peak resident memory of one cold call, summed over its processes; shared pages count in each."""
    import psutil

    child = subprocess.Popen([*TFDFD, "detect", str(clip), "--quiet"], stdout=subprocess.DEVNULL)
    peak = 0
    done = threading.Event()
    threading.Thread(target=lambda: (child.wait(), done.set()), daemon=True).start()
    while not done.wait(0.05):
        try:
            processes = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
            peak = max(peak, sum(process.memory_info().rss for process in processes))
        except psutil.NoSuchProcess:
            continue
    gigabytes = peak / 1e9
    return [("peak memory, 60 s of 1920 x 1080", "-", f"{gigabytes:.2f} GB", "-", "< 1.5 GB", gigabytes < 1.5)]


def help_time(rounds):
    """Best time of `tfdfd --help`, interpreter included."""
    times = [seconds_of([*TFDFD, "--help"]) for _ in range(rounds + 2)]
    return "tfdfd --help", "-", f"{min(times):.2f} s", "-", "< 0.5 s", min(times) < 0.5


def warm(clip: str, twin: str, rounds: int) -> dict:
    """Times of a warm `Detector` on one clip and on two at once."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    from tfdfd import Detector

    times = {"one_s": [], "two_s": []}
    with Detector() as detector:
        detector.detect_many([clip, twin])
        for _ in range(rounds):
            for key, clips in (("one_s", [clip]), ("two_s", [clip, twin])):
                start = time.perf_counter()
                outcomes = detector.detect_many(clips)
                times[key].append(time.perf_counter() - start)
                if any(outcome.status != "ok" for outcome in outcomes):
                    raise SystemExit(f"not scored: {[outcome.message for outcome in outcomes]}")
    return times


def _row(name, plain, ours, bound, plain_text=None):
    ratio = plain / ours
    return name, plain_text or f"{plain:.2f} s", f"{ours:.2f} s", f"{ratio:.1f} x", f">= {bound} x", ratio >= bound


if __name__ == "__main__":
    raise SystemExit(main())
