"""Held-out figures of trained networks side by side, for the lab log (`docs/lab.md`): validation only.

    python -m tools.lab RUN|HANDLE|FILE… --faces utk/split.csv --cache FOLDER [--swaps swapped] [--flip]

`A+B` is the mean of two networks' scores; with `--flip`, each score is the mean of a crop's and its mirror image's.

Columns, all of the validation split, AUC of single crops with a 95 % bootstrap interval over photographs: self-blended
pairs as photographs, the same as frames of videos (H.264), varied ones as frames of videos, and faces of other people
swapped in (`tfdfd data swap`), which no network is trained on. The judged sets (test split, crops, clips) are not
opened here: what is chosen by this table may be judged on them afterwards.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from tfdfd.data.crops import faces_of, read_pixels
from tfdfd.data.pair_sets import PHOTO, PLAIN, VARIED, VIDEO, BlendedPairs
from tfdfd.faces.crop import resize_crop
from tfdfd.metrics.intervals import bootstrap_interval
from tfdfd.metrics.metrics import auc
from tfdfd.runtime.network import Scorer
from tfdfd.runtime.opening import open_network
from tfdfd.weights.store import locate

SEED = 7  # of the pairs: other ones than those by which training chooses its epoch
SETS = {"photo": (PLAIN, PHOTO), "video": (PLAIN, VIDEO), "varied video": (VARIED, VIDEO)}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="RUN|HANDLE|FILE")
    parser.add_argument("--faces", required=True, help="face set with splits (real crops)")
    parser.add_argument("--swaps", help="face set that 'tfdfd data swap' wrote")
    parser.add_argument("--flip", action="store_true", help="mean of each crop and its mirror image")
    parser.add_argument("--cache", type=Path, required=True, help="folder where pixels are kept")
    arguments = parser.parse_args(argv)
    cv2.setNumThreads(1)
    arguments.cache.mkdir(parents=True, exist_ok=True)
    names = [*SETS, *(["swapped"] if arguments.swaps else [])]
    print("| network | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for model in arguments.models:
        scorers = [Scorer(open_network(*locate(part))[0]) for part in model.split("+")]
        cells = [_cell(scorers, name, arguments) for name in names]
        print(f"| {model} | " + " | ".join(cells) + " |", flush=True)


def _cell(scorers, name, arguments):
    scores = []
    for scorer in scorers:
        pixels, labels, photographs = _pixels(name, scorer.size, arguments)
        scores.append(scorer(pixels))
        if arguments.flip:
            scores.append(scorer(pixels[:, :, ::-1]))
    scores = np.mean(scores, axis=0)
    low, high = bootstrap_interval(auc, labels, scores, photographs)
    return f"{auc(labels, scores):.3f} [{low:.3f}, {high:.3f}]"


def _pixels(name, size, arguments):
    """Crops of a set, uint8, their labels, and the photograph of each; made once per size."""
    kept = arguments.cache / f"{name.replace(' ', '-')}-{size}.npz"
    if not kept.exists():
        made = _swapped(arguments.swaps, size) if name == "swapped" else _blended(arguments.faces, size, *SETS[name])
        partial = kept.with_name(f"partial-{kept.name}")
        np.savez(partial, *made)
        partial.replace(kept)
    with np.load(kept) as made:
        return tuple(made[name] for name in made.files)


def _blended(faces, size, fakes, medium):
    pairs = BlendedPairs(faces, size, split="val", seed=SEED, fakes=fakes, medium=medium)
    with ThreadPoolExecutor() as pool:
        pixels = np.concatenate(list(pool.map(lambda number: pairs.pair(number, None), range(len(pairs)))))
    return pixels, np.tile([0, 1], len(pairs)), np.repeat(np.arange(len(pairs)), 2)


def _swapped(folder, size):
    faces = faces_of(folder, "val")
    pixels = [resize_crop(read_pixels(faces.path(number)), size) for number in range(len(faces.rows))]
    rows = faces.rows
    # Whichever photograph two crops share, they stay together: that of the face which was covered.
    photographs = np.unique([row.video.partition("#")[0] for row in rows], return_inverse=True)[1]
    return np.stack(pixels), np.array([row.label for row in rows]), photographs


if __name__ == "__main__":
    main()
