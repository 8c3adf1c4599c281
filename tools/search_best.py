"""Searches the settings of `tuning/best/` with a small budget, in which the first trial has the recipe's own settings.

    python -m tools.search_best --data ../shared/data/real_deepfakes -o SEARCHES \\
        --imagenet ../shared/data/imagenet ../shared/data/imagenet_more [NETWORK…]

For each network (default: all of `BUDGETS`), runs `tfdfd tune` in `SEARCHES/NETWORK` and writes
`tuning/best/NETWORK.json`, the search's `best.json` with `budget` and `recipe_default`, the score of the first trial.
The same command resumes after an interruption; what is finished is not repeated. A failed network does not stop the
others.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from tfdfd.cli.main import main as tfdfd
from tfdfd.files import write_atomically
from tfdfd.tuning.outcome import BEST, score_of
from tfdfd.tuning.search import make_search, trial_folder
from tfdfd.tuning.search_space import read_space

TARGET = Path(__file__).parents[1] / "tuning" / "best"
SEED = 1
# Labeled crops of both classes alike; a network's own: trials, epochs, crops of a split at most, and further settings.
SETTINGS = ("data=crops", "order=balanced")
BUDGETS: dict[str, tuple[int, int, int, tuple[str, ...]]] = {
    "mobilenet_v1": (6, 6, 4100, ("size=160", "arguments.alpha=0.5")),
    "mobilenet_v3": (6, 6, 4100, ("size=160", "norm_momentum=0.9")),
    "meso4": (6, 4, 4100, ("weights=tfdfd/meso4",)),
    "meso_inception4": (6, 4, 4100, ("weights=tfdfd/meso_inception4",)),
    "reseption_v1": (6, 3, 1500, ("size=128", "weights=tfdfd/reseption_v1")),
    "efficientnet_lite0": (6, 3, 4100, ("size=128",)),
}
# ImageNet's weights that a recipe begins with, by file name.
IMAGENET = {
    "mobilenet_v1": "mobilenet_v1_0.5_no_top.weights.h5",
    "mobilenet_v3": "mobilenet_v3_small.weights.h5",
    "efficientnet_lite0": "efficientnet_lite0_no_top.safetensors",
}


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(BUDGETS)} (default: all)")
    parser.add_argument("--data", required=True, metavar="SET", help="a face set with labels and splits")
    parser.add_argument(
        "--imagenet",
        nargs="+",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="folders of ImageNet's weights",
    )
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="SEARCHES")
    parser.add_argument("--workers", type=int, metavar="N", help="processes of a search on this machine")
    parser.add_argument("--target", type=Path, default=TARGET, metavar="DIR", help="default: tuning/best")
    parser.add_argument("--quick", action="store_true", help="two trials of one epoch of few crops, to try the command")
    options = parser.parse_args(words)
    failed = []
    for network in options.networks or BUDGETS:
        if network not in BUDGETS:
            parser.error(f"{network!r} has no budget; expected one of {', '.join(BUDGETS)}.")
        start = time.monotonic()
        try:
            weights = imagenet_weights(network, options.imagenet)
            content = search(network, options.data, options.output, weights, options.quick, options.workers)
        except (ValueError, OSError, RuntimeError) as error:
            sys.stderr.write(f"{network}: {error}\n")
            failed.append(network)
            continue
        options.target.mkdir(parents=True, exist_ok=True)
        path = options.target / f"{network}.json"
        write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        best, default = content["score"]["value"], content["recipe_default"]["value"]
        sys.stdout.write(f"{path}: {best:.4f}, recipe's own {default:.4f}, {time.monotonic() - start:.0f} s\n")
    return 1 if failed else 0


def imagenet_weights(network: str, folders: list[Path]) -> tuple[str, ...]:
    """The setting for the weights that a network begins with, if it begins with ImageNet's.

    Raises:
        ValueError: no folder has the file.
    """
    if network not in IMAGENET:
        return ()
    for folder in folders:
        if (folder / IMAGENET[network]).is_file():
            return (f"weights=imagenet:{folder / IMAGENET[network]}",)
    raise ValueError(f"{IMAGENET[network]} is in none of the folders of --imagenet.")


def search(
    network: str,
    data: str,
    folder: Path,
    weights: tuple[str, ...] = (),
    quick: bool = False,
    workers: int | None = None,
) -> dict[str, Any]:
    """Returns the content of a file of `tuning/best/`.

    Raises:
        RuntimeError: the search failed.
    """
    trials, epochs, limit, own = (2, 1, 24, ("size=64",)) if quick else BUDGETS[network]
    settings = (*SETTINGS, f"epochs={epochs}", f"limit={limit}", *own, *weights)
    command = ["tune", network, "--data", data, "-o", str(folder / network), "--max-trials", str(trials)]
    command += ["--seed", str(SEED), *(word for setting in settings for word in ("--set", setting))]
    command += [] if workers is None else ["--workers", str(workers)]
    code = tfdfd(command)
    if code >= 128:  # stopped by a signal
        raise SystemExit(code)
    if code not in (0, 3):  # 3: some trials failed, and are listed
        raise RuntimeError(f"'{shlex.join(['tfdfd', *command])}' ended with {code}.")
    own_search = make_search(
        read_space(network), data, folder / network, max_trials=trials, seed=SEED, settings=settings
    )
    content = json.loads((folder / network / BEST).read_bytes())
    first = trial_folder(own_search, content["trials"][0]["trial"])
    budget = (
        f"{trials} trials of {epochs} epochs on at most {limit} crops of a split: a search for settings that learn "
    )
    budget += "fast, not for the best final score."
    return content | {
        "budget": budget,
        "recipe_default": {
            **score_of(own_search, own_search.recipe, first),
            "settings": own_search.space.own_values(),
            "note": "The first trial, which has the recipe's own values of the searched settings. One training, "
            "against the best of several; intervals that overlap say that neither is better.",
        },
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
