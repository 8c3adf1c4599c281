"""Validation AUCs of trained networks side by side, for the lab log (`docs/lab.md`).

    python -m tools.lab RUN|HANDLE|FILE… --faces utk/split.csv --cache FOLDER [--swaps swapped] [--flip]

`A+B` is the mean of two networks' scores; with `--flip`, each score is the mean of a crop's and its mirror image's.

Columns, all of the validation split, AUC of single crops with a 95 % bootstrap interval over photographs: self-blended
pairs as photographs, the same as frames of videos (H.264), varied ones as frames of videos, and swapped faces (`tfdfd
data swap`), on which no network is trained. The test sets (test split, crops, clips) are not opened.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from tfdfd.data.crops import faces_of
from tfdfd.data.pair_sets import PHOTO, PLAIN, VARIED, VIDEO
from tfdfd.evaluation.scoring import cached_scores, open_model
from tfdfd.evaluation.sets import UNCHANGED, BlendedSet, DegradedSet, EvalSet
from tfdfd.metrics import auc
from tfdfd.metrics.intervals import bootstrap_interval
from tfdfd.metrics.scores import OK

SEED = 7  # of the pairs; differs from the pairs by which training chooses its epoch
SETS = {"photo": (PLAIN, PHOTO), "video": (PLAIN, VIDEO), "varied video": (VARIED, VIDEO)}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="RUN|HANDLE|FILE")
    parser.add_argument("--faces", required=True, help="face set with splits (real crops)")
    parser.add_argument("--swaps", help="face set of 'tfdfd data swap'")
    parser.add_argument("--flip", action="store_true", help="mean of each crop and its mirror image")
    parser.add_argument("--cache", type=Path, required=True, help="folder for cached scores")
    arguments = parser.parse_args(argv)
    cv2.setNumThreads(1)
    faces = faces_of(arguments.faces, "val").with_digests()
    sets = {
        name: BlendedSet(arguments.faces, faces, 256, "val", seed=SEED, keep=True, fakes=fakes, medium=medium)
        for name, (fakes, medium) in SETS.items()
    }
    if arguments.swaps:
        swaps = faces_of(arguments.swaps, "val").with_digests()
        sets["swapped"] = DegradedSet(EvalSet(arguments.swaps, swaps, 256, "val"), UNCHANGED, 256)
    print("| network | " + " | ".join(sets) + " |\n|---|" + "---|" * len(sets))
    for models in arguments.models:
        networks = [open_model(model) for model in models.split("+")]
        cells = [_cell(networks, name, one, arguments) for name, one in sets.items()]
        print(f"| {models} | " + " | ".join(cells) + " |", flush=True)


def _cell(networks, name, one, arguments):
    tables = []
    for network in networks:
        for mirrored in (False, True) if arguments.flip else (False,):
            sized = one.resized(network.size)
            if mirrored:
                batches = sized.batches
                sized.batches = lambda *some, batches=batches: (batch[:, :, ::-1] for batch in batches(*some))
            rows = cached_scores(network, sized, arguments.cache, [name, str(mirrored)])
            tables.append([row for row in rows if row.status == OK])
    scores = np.mean([[row.fake_probability for row in rows] for rows in tables], axis=0)
    labels = [row.label for row in tables[0]]
    # By the target photograph; by donors too, all photographs would be one cluster.
    photographs = [row.video.partition("#")[0] for row in tables[0]]
    low, high = bootstrap_interval(auc, labels, scores, photographs)
    return f"{auc(labels, scores):.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
