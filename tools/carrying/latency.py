"""How long `tfdfd detect`'s scorer takes for crops, here and now."""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path

import numpy as np

from tfdfd.cost import hardware_line
from tfdfd.files import write_atomically
from tfdfd.runtime.network import Scorer
from tfdfd.runtime.opening import open_network
from tools.carrying.scoring import Judged

BATCHES = (1, 32)
_SECONDS, _MIN_ROUNDS, _MAX_ROUNDS = 4.0, 5, 50


def latency(network: Judged, cache: Path, again: bool = False) -> dict:
    """Median time from uint8 crops to scores, `{hardware, runtime, load, batches: [{batch, milliseconds, rounds}]}`.

    Args:
        network: that scores.
        cache: folder where the measurement is kept.
        again: whether it is made anew.
    """
    file = cache / "latency" / f"{network.record.sha256[:16]}.json"
    if again or not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(_measured(network), indent=1) + "\n")
    return json.loads(file.read_text("utf-8"))


def _measured(network):
    # Of others' work, before ours begins: a reader must know how busy the machine was.
    load = round(os.getloadavg()[0], 2)
    opened, _ = open_network(network.record, network.path)
    scorer = Scorer(opened)
    batches = [_median(scorer, size) for size in BATCHES]
    return {"hardware": hardware_line(), "runtime": opened.runtime, "load_before": load, "batches": batches}


def _median(scorer, count):
    crops = np.random.default_rng(0).integers(0, 256, (count, scorer.size, scorer.size, 3), np.uint8)
    scorer(crops)  # compiles
    times = []
    while len(times) < _MIN_ROUNDS or (len(times) < _MAX_ROUNDS and sum(times) < _SECONDS):
        begun = time.perf_counter()
        scorer(crops)
        times.append(time.perf_counter() - begun)
    return {"batch": count, "milliseconds": round(1000 * statistics.median(times), 2), "rounds": len(times)}
