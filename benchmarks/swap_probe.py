"""Probe of swapped faces: simple statistics must not separate them from real crops.

    python -m benchmarks.swap_probe SET

A logistic regression on mean, variance and JPEG size of each channel of the crops of a set that `tfdfd data swap`
wrote, scored on held-out photographs, as in `benchmarks.self_blend_probe`; also for each kind of swap with enough
pairs. Bound: AUC 0.65. `make bench` does not run it.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.common import verdict
from benchmarks.self_blend_probe import ALLOWED, FOLDS, probe_auc, statistics
from tfdfd.data.crops import faces_of, read_pixels

FEWEST = 100  # pairs of a kind


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", metavar="SET", help="face set of 'tfdfd data swap'")
    faces = faces_of(parser.parse_args(argv).set)
    real, fake = faces.rows[::2], faces.rows[1::2]
    if [row.label for row in faces.rows] != [0, 1] * len(fake) or len(fake) < 2 * FOLDS:
        raise ValueError(
            f"{faces.root} holds {len(real)} and {len(fake)} crops; expected at least {2 * FOLDS} pairs of "
            "'tfdfd data swap'"
        )
    values = np.array([statistics(read_pixels(faces.path(number))) for number in range(len(faces.rows))])
    methods = np.array([row.method for row in fake])
    whole = probe_auc(values[::2], values[1::2])
    ok = whole <= ALLOWED
    print(f"{len(fake)} pairs: AUC {whole:.3f} of mean, variance and JPEG size; wanted <= {ALLOWED}: {verdict(ok)}")
    for method in np.unique(methods):
        chosen = methods == method
        if chosen.sum() >= FEWEST:
            print(f"  {method}, {chosen.sum()} pairs: {probe_auc(values[::2][chosen], values[1::2][chosen]):.3f}")
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
