"""Crops a second that the training pipeline gives, against those that training `meso_inception4` takes, in one run.

    python -m benchmarks.pipelines [--crops N] [--rounds N]

Crops of 256 x 256 pixels cut at random from a photograph, as JPEG, as PNG, and as shards of the JPEGs; batches of 32 at
256 x 256. Training is `train_on_batch` on a batch that lies in memory. Rounds alternate and each takes its best, since
the times of shared machines drift. The bound is 3 for each.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.detect import hardware

BATCH, SIZE, STEPS, BOUND = 32, 256, 5, 3


def write_crops(folder: Path, ending: str, count: int) -> None:
    """Crops with the texture of a photograph, which decode as slowly as faces do."""
    import cv2
    from skimage.data import astronaut

    photograph, random = astronaut()[..., ::-1], np.random.default_rng(0)
    for number in range(count):
        label = folder / ("fake" if number % 2 else "real")
        label.mkdir(parents=True, exist_ok=True)
        top, left = random.integers(0, 512 - SIZE, 2)
        crop = photograph[top : top + SIZE, left : left + SIZE]
        cv2.imwrite(str(label / f"{number:05d}.{ending}"), crop)  # JPEG: quality 95


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crops", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args(argv)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    from tfdfd.data.crops import faces_of
    from tfdfd.models import build
    from tfdfd.pipelines.planning import plan_shards
    from tfdfd.pipelines.records import write_shards
    from tfdfd.pipelines.training import train_pipeline

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for ending in ("jpg", "png"):
            write_crops(folder / ending, ending, arguments.crops)
        faces = faces_of(folder / "jpg")
        for _ in write_shards(faces, plan_shards(faces, 4), folder / "shards"):
            pass
        sources = {
            "JPEG files": train_pipeline(folder / "jpg", SIZE, BATCH, split=None),
            "shards of them": train_pipeline(folder / "shards", SIZE, BATCH, split=None),
            "PNG files": train_pipeline(folder / "png", SIZE, BATCH, split=None),
            "PNG files, cached": train_pipeline(folder / "png", SIZE, BATCH, split=None, cache=True),
        }
        model = build("meso_inception4")
        model.compile("adam", "binary_crossentropy")
        image, label = next(iter(sources["JPEG files"]))
        model.train_on_batch(image, label)
        for _ in sources["PNG files, cached"]:
            pass
        speed = dict.fromkeys(("training", *sources), 0.0)
        for _ in range(arguments.rounds):
            begun = time.perf_counter()
            for _ in range(STEPS):
                model.train_on_batch(image, label)
            speed["training"] = max(speed["training"], STEPS * BATCH / (time.perf_counter() - begun))
            for name, batches in sources.items():
                begun = time.perf_counter()
                for _ in batches:
                    pass
                speed[name] = max(speed[name], arguments.crops / (time.perf_counter() - begun))
    print(f"{hardware()}; {arguments.crops} crops of {SIZE} px, batch {BATCH}, best of {arguments.rounds}\n")
    print("| what | crops/s | of training's | bound | |")
    print("|---|---|---|---|---|")
    print(f"| meso_inception4, train_on_batch | {speed['training']:,.0f} | 1 | - | |")
    held = True
    for name in sources:
        ratio = speed[name] / speed["training"]
        held &= ratio >= BOUND
        print(f"| {name} | {speed[name]:,.0f} | {ratio:.1f} | >= {BOUND} | {'ok' if ratio >= BOUND else 'MISSED'} |")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
