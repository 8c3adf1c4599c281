"""Crops a second that the training pipeline gives, against those that training `meso_inception4` takes, in one run.

    python -m benchmarks.pipelines [--crops N] [--rounds N]

Crops of 256 x 256 pixels cut at random from a photograph, as JPEG, as PNG, and as shards of the JPEGs; batches of 32 at
256 x 256. The JPEGs also with each augmentation policy, and self-blended pairs of real crops that show the face.
Training is `train_on_batch` on a batch that lies in memory. Rounds alternate and each takes its best, since the times
of shared machines drift; the processor's own time for a crop says what it costs whatever else runs. The bound is 3 for
each.
"""

from __future__ import annotations

import argparse
import contextlib
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


def write_faces(folder: Path, count: int) -> None:
    """Real crops of 256 pixels with a face in the middle, none like the other."""
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
    from tfdfd.pipelines.datasets import blended_pipeline, train_pipeline
    from tfdfd.pipelines.shards import plan_shards, write_shards

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
    print("| what | crops/s | of training's | bound | | processor time, ms a crop |")
    print("|---|---|---|---|---|---|")
    wall, processor = spent.pop("training")
    print(f"| meso_inception4, train_on_batch | {1 / wall:,.0f} | 1 | - | | {1000 * processor:.1f} |")
    held = True
    for name, (seconds, used) in spent.items():
        ratio = wall / seconds
        held &= ratio >= BOUND
        told = "ok" if ratio >= BOUND else "MISSED"
        print(f"| {name} | {1 / seconds:,.0f} | {ratio:.1f} | >= {BOUND} | {told} | {1000 * used:.1f} |")
    return 0 if held else 1


@contextlib.contextmanager
def timed(best, count):
    """Keeps the least seconds and processor seconds of one of `count` in `best`, each by itself."""
    begun = np.array([time.perf_counter(), time.process_time()])
    yield
    best[:] = np.minimum(best, ([time.perf_counter(), time.process_time()] - begun) / count)


if __name__ == "__main__":
    raise SystemExit(main())
