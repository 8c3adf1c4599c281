"""Time of each stage of `tfdfd detect`, and its distance from the limits.

    python -m benchmarks.cost [--clip FILE] [--rounds N]

Decoding, face search and network are timed alone in one process, beside bare decoding (FFmpeg decodes every frame and
converts none), which no detector that looks at the whole clip can beat. The whole is `Detector.detect`, where decoding
and search overlap. The plain way (`benchmarks.plain`) runs in the same rounds; compare ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

from benchmarks.common import TFDFD, hardware, in_child, print_bounds, print_table, seconds_of, write_clip

RUNTIMES = ("openvino", "tensorflow")
MANY = 8
WARM, COLD, COLD_PLAIN, EACH = 15.0, 2.0, 3.5, 0.7


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clip", type=Path, help="video (default: a generated one, 13 s of 1280 x 720)")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        clip = arguments.clip or write_clip(Path(folder, "clip.mp4"), 1280, 720, 13)
        clips = [Path(folder, f"clip{number}{clip.suffix}") for number in range(MANY)]
        for copy in clips:
            copy.write_bytes(clip.read_bytes())
        plain, cold = [], {runtime: [] for runtime in RUNTIMES}
        times = {runtime: [] for runtime in RUNTIMES}
        for _ in range(arguments.rounds):
            rounds = json.loads(in_child("benchmarks.plain", "detect", str(clip), 2))["rounds"]
            plain.append(sum(rounds[-1].values()))
            for runtime in RUNTIMES:
                command = [*TFDFD, "detect", "--runtime", runtime, "--json", "-", "--quiet"]
                one, many = seconds_of([*command, str(clip)]), seconds_of([*command, *map(str, clips)])
                cold[runtime].append((one, many))
                paths = list(map(str, clips))
                times[runtime].append(json.loads(in_child("benchmarks.cost", "parts", paths, runtime)))
    print(f"{hardware()}, Python {platform.python_version()}\n")
    best = {runtime: {key: min(round_[key] for round_ in times[runtime]) for key in times[runtime][0]}
            for runtime in RUNTIMES}  # fmt: skip
    print_table(("one clip, warm", "seconds", "share", "of bare decoding"), shares(best))
    print()
    return print_bounds(("what", "runtime", "measured", "bound", "missed by"), limits(min(plain), best, cold))


def parts(clips: list[str], runtime: str) -> dict[str, float]:
    """Seconds of each part of one clip alone, of one clip in a warm detector, and of all clips, each of them."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import av
    import cv2
    import numpy as np

    from tfdfd import Detector
    from tfdfd.extract.extraction import DETECTION_BATCH
    from tfdfd.faces import build_detector
    from tfdfd.faces.crop import crop_face
    from tfdfd.faces.detectors import VIDEO_SIDE, detect_bounded
    from tfdfd.media import FRAMES, Limits
    from tfdfd.media.decode import Frame, read_media

    def bare():
        with av.open(clips[0]) as container:
            container.streams.video[0].thread_type = "AUTO"
            for _ in container.decode(video=0):
                pass

    def decode():
        with open(clips[0], "rb") as file:
            return [item.pixels for item in read_media(file, FRAMES, Limits()) if isinstance(item, Frame)]

    def search():
        return [
            faces
            for start in range(0, len(frames), DETECTION_BATCH)
            for faces in detect_bounded(finder, frames[start : start + DETECTION_BATCH], VIDEO_SIDE)
        ]

    frames, finder = decode(), build_detector()
    cv2.setNumThreads(os.cpu_count() or 1)
    with Detector(runtime=runtime) as detector:
        side = detector._request.size
        crops = [
            crop_face(frame, face.box, side) for frame, found in zip(frames, search(), strict=True) for face in found
        ]
        detector.detect_many(clips)
        return {
            "bare": _seconds(bare),
            "decode": _seconds(decode),
            "faces": _seconds(search),
            "network": _seconds(lambda: detector._scorer(np.stack(crops))),
            "one": _seconds(lambda: detector.detect(clips[0])),
            "each": _seconds(lambda: detector.detect_many(clips)) / len(clips),
        }


def shares(best: dict[str, dict[str, float]]) -> list[tuple]:
    """Rows of the table of parts; the whole is less than their sum where they overlap."""
    first = best[RUNTIMES[0]]
    total = first["decode"] + first["faces"] + first["network"]

    def cells(name, seconds, whole):
        return name, f"{seconds:.2f}", f"{seconds / whole:.0%}" if whole else "-", f"{seconds / first['bare']:.1f} x"

    rows = [cells("bare decoding, the limit", first["bare"], None)]
    rows += [cells(name, first[key], total) for name, key in (("decoding of 32 frames", "decode"), ("faces", "faces"))]
    for runtime in RUNTIMES:
        rows.append(cells(f"network, {runtime}", best[runtime]["network"], total))
    for runtime in RUNTIMES:
        rows.append(cells(f"whole, {runtime}", best[runtime]["one"], None))
        rows.append(cells(f"each of {MANY} at once, {runtime}", best[runtime]["each"], None))
    return rows


def limits(plain: float, best: dict[str, dict[str, float]], cold: dict[str, list[tuple[float, float]]]) -> list[tuple]:
    """Rows of what is promised, whether it holds, and by how much not."""
    rows = []
    for runtime in RUNTIMES:
        one, many = (min(column) for column in zip(*cold[runtime], strict=True))
        ratio, each = plain / best[runtime]["one"], best[runtime]["each"]
        bound = COLD if runtime == "openvino" else COLD_PLAIN
        rows += [
            ("warm, plain way / tfdfd", runtime, f"{ratio:.1f} x", f">= {WARM:g} x", _missed(WARM / ratio),
             ratio >= WARM),
            ("one clip, cold", runtime, f"{one:.2f} s", f"<= {bound} s", _missed(one / bound), one <= bound),
            (f"each of {MANY} clips, warm", runtime, f"{each:.2f} s", f"<= {EACH} s", _missed(each / EACH),
             each <= EACH),
            (f"each of {MANY} clips, cold", runtime, f"{many / MANY:.2f} s", "-", "-", None),
        ]  # fmt: skip
    return rows


def _missed(factor: float) -> str:
    return f"{factor:.2f} x" if factor > 1 else "-"


def _seconds(function) -> float:
    """Best of two after one."""
    function()
    times = []
    for _ in range(2):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    raise SystemExit(main())
