"""S3's training from stored values against computing the features of each step's crops anew, in one run.

    python -m benchmarks.bottleneck [--crops N] [--steps N]

500 crops of 256 x 256 pixels cut at random from a photograph, as PNG, split 70/15/15; MobileNetV1 with α = 0.5 at 128
pixels (random weights, which are as fast as any), 2,500 steps of 5 crops. The other way is timed on `--steps` steps:
the training pipeline reads, decodes and resizes the five crops ahead of time, the frozen network computes their
features, and the same gradient step follows. Bounds: the first training in under 20 s (the document: 160 s), libraries
loaded, and a step of a later training at least 50 times as fast as one that computes its features.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.detect import hardware
from benchmarks.pipelines import write_crops

SECONDS, RATIO = 20, 50


class Silent:
    """A report that tells nobody."""

    def step(self, *_):
        """After each step."""

    def note(self, _):
        """What else is to be known."""


def write_set(folder: Path, count: int) -> None:
    """Crops and their table; every crop is a video of its own."""
    from tfdfd.data.crops import faces_of
    from tfdfd.data.tables import FaceRow, write_table

    write_crops(folder, "png", count)
    rows = faces_of(folder).rows
    places = [place % 20 for place in range(len(rows))]
    splits = ["train" if place < 14 else "val" if place < 17 else "test" for place in places]
    write_table(folder / "faces.csv", [replace(row, split=of) for row, of in zip(rows, splits, strict=True)], FaceRow)


def seconds_of_step(body, faces, batch_size: int, steps: int) -> float:
    """Of one step that computes its features, the first left out."""
    from tfdfd.pipelines.training import train_pipeline
    from tfdfd.training.bottlenecks import SoftmaxLayer

    layer, done = SoftmaxLayer(body.output_shape[1], 0, 0.005), 0
    while done <= steps:
        for image, label in train_pipeline(faces, body.input_shape[1], batch_size):
            layer.step(body.predict_on_batch(image), label.numpy()[:, 0].astype(int))
            if done == 0:
                begun = time.perf_counter()
            done += 1
    return (time.perf_counter() - begun) / (done - 1)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crops", type=int, default=500)
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args(argv)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras

    from tfdfd.models import build
    from tfdfd.recipes import find_recipe
    from tfdfd.training.procedures import train

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_set(folder / "set", arguments.crops)
        weights = folder / "mobilenet.weights.h5"
        keras.applications.MobileNet((128, 128, 3), alpha=0.5, include_top=False, weights=None).save_weights(weights)
        recipe = find_recipe("s3-mobilenet-v1-bottleneck").changed([f"weights=imagenet:{weights}"])
        whole, results = [], []
        for name in ("first", "again"):
            begun = time.perf_counter()
            results.append(train(recipe, folder / "set", folder / name, Silent()))
            whole.append(time.perf_counter() - begun)
        model = build("mobilenet_v1", recipe.weights, (128, 128, 3), **recipe.arguments)
        body = keras.Model(model.input, model.get_layer("features").output)
        anew = seconds_of_step(body, folder / "set", recipe.batch_size, arguments.steps)
    stored = results[1]["training_seconds"] / recipe.steps
    ratio = anew / stored
    held = whole[0] < SECONDS and ratio >= RATIO
    print(f"{hardware()}; {arguments.crops} crops, {recipe.steps} steps of {recipe.batch_size}\n")
    print("| what | seconds | bound | |")
    print("|---|---|---|---|")
    print(f"| first training, whole run | {whole[0]:.1f} | < {SECONDS} | {'ok' if whole[0] < SECONDS else 'MISSED'} |")
    print(f"| of it, values of {results[0]['values_computed']} crops | {results[0]['values_seconds']:.1f} | - | |")
    print(f"| later training, whole run | {whole[1]:.1f} | - | |")
    print(f"| of it, stored values and {recipe.steps} steps | {results[1]['training_seconds']:.2f} | - | |")
    print(f"| {recipe.steps} steps that compute their features | {anew * recipe.steps:.1f} | - | |")
    told = "ok" if ratio >= RATIO else "MISSED"
    print(f"\nA step from stored values is {ratio:.0f} times as fast; bound {RATIO}: {told}")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
