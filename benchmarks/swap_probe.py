"""Can simple statistics tell swapped faces from real ones? They must not, or figures on them would mean nothing.

    python -m benchmarks.swap_probe SET

A logistic regression on mean, variance and JPEG size of each channel of the crops of a set that `tfdfd data swap`
wrote, scored on photographs it was not fitted to, as in `benchmarks.self_blend_probe`; of each kind of swap besides,
where there are enough. The bound is that of self-blended fakes, an AUC of 0.65. `make bench` does not run it.
"""

from __future__ import annotations

import argparse

import numpy as np

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
    found = np.array([statistics(read_pixels(faces.path(number))) for number in range(len(faces.rows))])
    methods = np.array([row.method for row in fake])
    whole = probe_auc(found[::2], found[1::2])
    ok = whole <= ALLOWED
    print(
        f"{len(fake)} pairs: AUC {whole:.3f} of mean, variance and JPEG size; wanted <= {ALLOWED}: "
        f"{'ok' if ok else 'MISSED'}"
    )
    for method in np.unique(methods):
        chosen = methods == method
        if chosen.sum() >= FEWEST:
            print(f"  {method}, {chosen.sum()} pairs: {probe_auc(found[::2][chosen], found[1::2][chosen]):.3f}")
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
