"""Reseption V1 and V2 against InceptionV3: wall time of a batch, in one run, beside the ratio of their MACs.

    python -m benchmarks.reseption [--batch N] [--rounds N] [--runtime tensorflow|openvino]

A network is no slower than its work says if its share of InceptionV3's time is at most its share of the
multiply-accumulates and 15 % more. Rounds alternate between the networks and each takes its best, since the times of
shared machines drift.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from benchmarks.detect import hardware

NETWORKS = ("inception_v3", "reseption_v1", "reseption_v2")
ALLOWED = 1.15


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--runtime", choices=("tensorflow", "openvino"), default="tensorflow")
    arguments = parser.parse_args(argv)
    from tfdfd.models import build
    from tfdfd.models.counting import thesis_macs
    from tfdfd.runtime.opening import network_on

    models = {name: build(name) for name in NETWORKS}
    crops = np.random.default_rng(0).integers(0, 256, (arguments.batch, 299, 299, 3), np.uint8)
    score = {name: network_on(arguments.runtime, model) for name, model in models.items()}
    for call in score.values():
        call(crops)
    times = {name: [] for name in NETWORKS}
    for _ in range(arguments.rounds):
        for name, call in score.items():
            begun = time.perf_counter()
            call(crops)
            times[name].append(time.perf_counter() - begun)
    macs = {name: thesis_macs(model) for name, model in models.items()}
    print(f"{hardware()}; {arguments.runtime}, batch {arguments.batch}, best of {arguments.rounds}\n")
    print("| network | MACs (thesis) | of InceptionV3's | seconds a batch | of InceptionV3's | bound | |")
    print("|---|---|---|---|---|---|---|")
    held = True
    for name in NETWORKS:
        work, spent = macs[name] / macs["inception_v3"], min(times[name]) / min(times["inception_v3"])
        row = f"| {name} | {macs[name] / 1e9:.2f} G | {work:.3f} | {min(times[name]):.3f} | {spent:.3f} |"
        if name == "inception_v3":
            print(f"{row} - | |")
            continue
        held &= spent <= work * ALLOWED
        print(f"{row} <= {work * ALLOWED:.3f} | {'ok' if spent <= work * ALLOWED else 'MISSED'} |")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
