"""Records the numbers that describe networks and metrics, for the package and the tests.

    python -m tools.record NAME...           a new or changed network or metric
    python -m tools.record --all             all of them
    python -m tools.record --check [NAME...] writes nothing; exits with 1 if a record is missing, stale or different

Network: its counts (`tfdfd/models/counts.json`); its outputs for seeded weights, and whether `tfdfd prune` and Grad-CAM
support it (`tests/records/networks.json`); a default search space (`tuning/spaces/NAME.json`) if it has none.
Metric: its value on a seeded set of scores (`tests/records/metrics.json`).

Records that agree within the tolerance of the tests are kept, so a diff shows only real changes. Review it before you
commit.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.seeded import METRICS, NETWORKS, agrees, labels_and_scores, metric_values, numbers, seeded
from tfdfd.models import COUNTS, build, list_models

SPACES = Path("tuning", "spaces")
SEARCH: dict[str, Any] = {
    "optimizer": {"choices": ["adam", "radam", "sgdm"]},
    "learning_rate": {"min": 0.0001, "max": 0.01, "scale": "log"},
    "batch_size": {"choices": [16, 32, 64]},
    "schedule": {"choices": ["constant", "cosine", "plateau"]},
    "ema": {"choices": [None, 0.99, 0.999]},
    "augment": {"choices": [None, "s1", "s2", "modern"]},
}


def network_counts(name: str) -> dict[str, int]:
    """Parameters and multiply-accumulates of a network at its default size, as `tfdfd.models.ModelSpec` has them."""
    from tfdfd.models.counting import learned, macs, total, trainable

    model = build(name)
    return {"params": total(model), "learned": learned(model), "trainable": trainable(model), "macs": macs(model)}


def network_record(name: str) -> dict[str, Any]:
    """Outputs for seeded weights, whether the network has a tf_keras twin, and its number of Grad-CAM maps or None."""
    from tfdfd.explain.gradients import last_maps
    from tfdfd.pruning.child import describe

    model = seeded(name)
    record: dict[str, Any] = {"outputs": numbers(model), "twin": True, "gradcam_maps": None}
    try:
        describe(model)
    except ValueError as error:
        print(f"{name}: not prunable: {error}", file=sys.stderr)
        record["twin"] = False
    try:
        record["gradcam_maps"] = len(last_maps(model))
    except ValueError as error:
        print(f"{name}: no Grad-CAM: {error}", file=sys.stderr)
    return record


def default_space(name: str) -> dict[str, Any] | None:
    """A search space of the settings that all networks have; None for a network without a self-blended recipe."""
    from tfdfd.recipes import list_recipes

    recipe = f"sbi-{name.replace('_', '-')}"
    if recipe not in list_recipes():
        return None
    return {"network": name, "recipe": recipe, "fixed": {"patience": 5}, "search": SEARCH}


def update(file: Path, known: Iterable[str], measured: dict[str, Any], write: bool) -> list[str]:
    """Compares measured records with those of a file, and with `write` changes the file where they differ.

    Args:
        file: a JSON object by name.
        known: all names that may have a record, in their order; other records are stale.
        measured: new records by name.
        write: whether to change the file.

    Returns:
        A line for each difference.
    """
    records = json.loads(file.read_text("utf-8")) if file.exists() else {}
    known = list(known)
    lines = [f"{file.name}: {name} is stale" for name in records if name not in known]
    for name, record in measured.items():
        if name not in records:
            lines.append(f"{file.name}: {name} is new")
        elif not agrees(record, records[name]):
            lines.append(f"{file.name}: {name} was {json.dumps(records[name])}, is {json.dumps(record)}")
        else:
            continue
        records[name] = record
    if lines and write:
        rows = [f" {json.dumps(name)}: {json.dumps(records[name])}" for name in known if name in records]
        file.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
    return lines


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.record", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks or metrics")
    parser.add_argument("--all", action="store_true", help="all networks and metrics")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a record differs")
    arguments = parser.parse_args(argv)
    values = metric_values(*labels_and_scores())
    everything = [*list_models(), *values]
    unknown = [name for name in arguments.names if name not in everything]
    if unknown or not (arguments.names or arguments.all or arguments.check):
        parser.error(f"expected --all or names out of {', '.join(everything)}; received {' '.join(unknown) or 'none'}")
    names = arguments.names or everything
    networks = [name for name in names if name in list_models()]
    counts, records = {}, {}
    for name in networks:
        print(f"{name} …", file=sys.stderr)
        counts[name], records[name] = network_counts(name), network_record(name)
    write = not arguments.check
    lines = update(COUNTS, list_models(), counts, write)
    lines += update(NETWORKS, list_models(), records, write)
    lines += update(METRICS, values, {name: value for name, value in values.items() if name in names}, write)
    for name in networks:
        space, file = default_space(name), SPACES / f"{name}.json"
        if space and not file.exists():
            lines.append(f"{file} is new")
            if write:
                file.write_text(json.dumps(space, indent=1) + "\n", encoding="utf-8")
    print("\n".join(lines) or "all records agree")
    return 1 if lines and arguments.check else 0


if __name__ == "__main__":
    raise SystemExit(main())
