"""Reseption V1 and V2 against InceptionV3: wall time per batch against multiply-accumulates, in one run.

    python -m benchmarks.reseption [--batch N] [--rounds N] [--runtime tensorflow|openvino]

The bound on a network's share of InceptionV3's time is its share of the multiply-accumulates plus 15 %. Rounds
alternate between the networks and the best counts, because times on shared machines drift.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.common import hardware, print_table, timed, verdict

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
    from tfdfd.runtime.networks import network_on

    models = {name: build(name) for name in NETWORKS}
    crops = np.random.default_rng(0).integers(0, 256, (arguments.batch, 299, 299, 3), np.uint8)
    score = {name: network_on(arguments.runtime, model) for name, model in models.items()}
    for call in score.values():
        call(crops)
    times = {name: np.full(2, np.inf) for name in NETWORKS}
    for _ in range(arguments.rounds):
        for name, call in score.items():
            with timed(times[name]):
                call(crops)
    macs = {name: thesis_macs(model) for name, model in models.items()}
    print(f"{hardware()}; {arguments.runtime}, batch {arguments.batch}, best of {arguments.rounds}\n")
    rows, held = [], True
    for name in NETWORKS:
        work, spent = macs[name] / macs["inception_v3"], times[name][0] / times["inception_v3"][0]
        within, first = spent <= work * ALLOWED, name == "inception_v3"
        bound = ("-", "") if first else (f"<= {work * ALLOWED:.3f}", verdict(within))
        cells = f"{macs[name] / 1e9:.2f} G", f"{work:.3f}", f"{times[name][0]:.3f}", f"{spent:.3f}"
        rows.append((name, *cells, *bound))
        held &= first or within
    columns = ("network", "MACs (thesis)", "of InceptionV3's", "seconds a batch", "of InceptionV3's", "bound", "")
    print_table(columns, rows)
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
