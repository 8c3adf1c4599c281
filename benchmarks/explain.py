"""Time of each explanation of one crop: seconds, and CPU seconds, which a busy machine inflates less.

    python -m benchmarks.explain [--model HANDLE|FILE] [--rounds N]

The crop is that of the portrait in scikit-image. The fewest seconds and CPU seconds of the rounds count. Bound: LIME
takes less than 5 s on two idle cores, computed from its CPU seconds: segments, pictures and ridge run on one core, the
network on both.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from functools import partial

import cv2
import numpy as np

from benchmarks.common import hardware, print_bounds, timed
from tfdfd import explain
from tfdfd.explain import LIME, MASK, OF_CROPS, Explainer
from tfdfd.weights import DEFAULT_MODEL

BOUND = 5.0
CORES = 2


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="HANDLE|FILE")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    arguments = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from skimage.data import astronaut

    explainer = Explainer(arguments.model, tuple(method for method in OF_CROPS if method != MASK))
    crop = cv2.resize(astronaut()[20:180, 140:300], (explainer.size, explainer.size), interpolation=cv2.INTER_AREA)
    segments = explain.quickshift_segments(crop)
    ways = {method: partial(explainer.explain, crop, method) for method in OF_CROPS if method != MASK}
    ways["– segments of lime"] = partial(explain.quickshift_segments, crop)
    ways["– pictures and ridge of lime"] = partial(explain.lime, crop, no_score, segments=segments)
    best = {}
    for name, way in ways.items():
        way()  # prepares the network
        best[name] = np.full(2, np.inf)
        for _ in range(arguments.rounds):
            with timed(best[name]):
                way()
    alone = sum(cpu for name, (_, cpu) in best.items() if name not in OF_CROPS)
    idle = alone + max(0.0, best[LIME][1] - alone) / CORES
    rows = [(name, f"{seconds:.2f}", f"{cpu:.2f}", "", None) for name, (seconds, cpu) in best.items()]
    rows.append((f"lime on {CORES} idle cores", f"{idle:.2f}", "", f"< {BOUND:g} s", idle < BOUND))
    name, python = f"{explainer.record.model}, {explainer.size} px", platform.python_version()
    print(f"{name}, {explainer.samples} samples; {hardware()}, Python {python}\n")
    return print_bounds(("method", "s", "CPU s", "bound"), rows)


def no_score(crops):
    return np.zeros(len(crops))


if __name__ == "__main__":
    sys.exit(main())
