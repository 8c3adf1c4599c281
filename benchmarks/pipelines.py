"""Throughput of the training pipeline against the training of `meso_inception4`, in one run.

    python -m benchmarks.pipelines [--crops N] [--rounds N]

Random crops of a photograph, 256 x 256 pixels, as JPEG, as PNG, and as shards of the JPEGs, in batches of 32; the JPEGs
with each augmentation policy as well, and self-blended pairs of real faces.
Training is `train_on_batch` on a batch in memory. Rounds alternate and the best counts, because times on shared
machines drift; processor time per crop is independent of other load. The bound is 3 for each.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import hardware, print_table, timed, verdict, write_crops

BATCH, SIZE, STEPS, BOUND = 32, 256, 5, 3


def write_faces(folder: Path, count: int) -> None:
    """Real crops of 256 pixels with a face in the middle, all different."""
    import cv2
    from skimage.data import astronaut

    portrait, random = astronaut()[40:190, 150:300, ::-1], np.random.default_rng(0)
    (folder / "real").mkdir(parents=True)
    for number in range(count):
        top, left = random.integers(0, 12, 2)
        crop = cv2.resize(portrait[top : top + 138, left : left + 138], (SIZE, SIZE))
        cv2.imwrite(str(folder / "real" / f"{number:05d}.jpg"), crop)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crops", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args(argv)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    from tfdfd.data.augment import POLICIES
    from tfdfd.data.crops import faces_of
    from tfdfd.models import build
    from tfdfd.pipelines import plan_shards, write_shards
    from tfdfd.pipelines.datasets import blended_pipeline, train_pipeline

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for ending in ("jpg", "png"):
            write_crops(folder / ending, ending, arguments.crops)
        faces = faces_of(folder / "jpg")
        for _ in write_shards(faces, plan_shards(faces, 4), folder / "shards"):
            pass
        write_faces(folder / "faces", arguments.crops // 2)
        sources = {
            "JPEG files": train_pipeline(folder / "jpg", SIZE, BATCH, split=None),
            "shards of them": train_pipeline(folder / "shards", SIZE, BATCH, split=None),
            "PNG files": train_pipeline(folder / "png", SIZE, BATCH, split=None),
            "PNG files, cached": train_pipeline(folder / "png", SIZE, BATCH, split=None, cache=True),
        }
        for name in POLICIES:
            sources[f"JPEG files, policy {name}"] = train_pipeline(
                folder / "jpg", SIZE, BATCH, split=None, augment=name
            )
        sources["self-blended pairs"] = blended_pipeline(folder / "faces", SIZE, BATCH, split=None)
        model = build("meso_inception4")
        model.compile("adam", "binary_crossentropy")
        image, label = next(iter(sources["JPEG files"]))
        model.train_on_batch(image, label)
        for _ in sources["PNG files, cached"]:
            pass
        spent = {name: np.full(2, np.inf) for name in ("training", *sources)}
        for _ in range(arguments.rounds):
            with timed(spent["training"], STEPS * BATCH):
                for _ in range(STEPS):
                    model.train_on_batch(image, label)
            for name, batches in sources.items():
                with timed(spent[name], arguments.crops):
                    for _ in batches:
                        pass
    print(f"{hardware()}; {arguments.crops} crops of {SIZE} px, batch {BATCH}, best of {arguments.rounds}\n")
    wall, processor = spent.pop("training")
    rows = [("meso_inception4, train_on_batch", f"{1 / wall:,.0f}", 1, "-", "", f"{1000 * processor:.1f}")]
    for name, (seconds, used) in spent.items():
        ratio = wall / seconds
        cells = f"{1 / seconds:,.0f}", f"{ratio:.1f}", f">= {BOUND}", verdict(ratio >= BOUND), f"{1000 * used:.1f}"
        rows.append((name, *cells))
    columns = ("what", "crops/s", "of training's", "bound", "", "processor time, ms a crop")
    print_table(columns, rows)
    held = all(wall / seconds >= BOUND for seconds, _ in spent.values())
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
