"""Table of docs/pruning.md: zeros and file sizes of each pruned network, without accuracy.

    python -m tools.pruning_table --data SET [NAME...]

Weights are random, at the smallest input size of a network (except MesoNet, whose dense layer depends on it), after
four steps on crops of SET with tfmot's ConstantSparsity. Zeros and their compression depend on neither.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

from tfdfd.cli.output import TrainingProgress
from tfdfd.models import build, list_models, spec
from tfdfd.pruning import CONSTANT, PruneOptions, prunable, sizes, zeros
from tfdfd.pruning.child import run_twin, write_work
from tfdfd.training.crop_set import CropSet
from tfdfd.training.recipe import Recipe
from tfdfd.weights.reading import read_safetensors

COLUMNS = (
    "| network | prunable kernels | their share of all values | zeros in them | dense | gzip | pruned, gzip | ratio |"
)


def row_of(name: str, data: str, sparsity: float) -> str:
    """The row of one network."""
    known = spec(name)
    size = known.input_shape[0] if name.startswith("meso") else known.min_size
    recipe = Recipe("table", "", "", name, size=size, batch_size=4, steps=4, limit=16)
    model = build(name, input_shape=(size, size, 3))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_work(model, np.random.default_rng(0).random((2, size, size, 3), dtype=np.float32), work)
        job = {"recipe": recipe.settings(), "options": PruneOptions(sparsity, CONSTANT).settings()}
        job |= {"data": data, "size": size, "digests": CropSet(data, recipe, size).digests()}
        (work / "job.json").write_text(json.dumps(job), encoding="utf-8")
        run_twin([work], TrainingProgress(quiet=True))
        weights = read_safetensors(work / "pruned.safetensors")
        counted = zeros(weights, prunable(json.loads((work / "graph.json").read_text("utf-8"))))
        dense, pruned = sizes(work / "dense.safetensors"), sizes(work / "pruned.safetensors")
    share = counted["values"] / sum(values.size for values in weights.values())
    return (
        f"| `{name}` | {len(counted['kernels'])} | {share:.3f} | {counted['share']:.4f} | {_mb(dense['bytes'])} | "
        f"{_mb(dense['gzip_bytes'])} | {_mb(pruned['gzip_bytes'])} | {pruned['gzip_bytes'] / dense['bytes']:.3f} |"
    )


def _mb(count):
    return f"{count / 1e6:.2f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks (default: all)")
    parser.add_argument("--data", required=True, help="a face set with splits")
    parser.add_argument("--sparsity", type=float, default=0.8)
    arguments = parser.parse_args()
    print(COLUMNS)
    print("|---" * COLUMNS.count(" | ") + "|---|")
    for name in arguments.names or list_models():
        try:
            print(row_of(name, arguments.data, arguments.sparsity), flush=True)
        except ValueError as error:
            print(f"{name} is not pruned: {error}", file=sys.stderr)
        keras.backend.clear_session()


if __name__ == "__main__":
    main()
