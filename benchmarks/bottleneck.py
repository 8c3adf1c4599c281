"""S3's bottleneck training on cached features against computing the features at each step, in one run.

    python -m benchmarks.bottleneck [--crops N] [--steps N]

500 random crops of a photograph, 256 x 256 pixels, as PNG, split 70/15/15; MobileNetV1 with α = 0.5 at 128 pixels
(random weights, which are as fast as any), 2,500 steps of 5 crops. The other way is timed on `--steps` steps: the
training pipeline reads, decodes and resizes the five crops ahead, the frozen network computes their features, and the
same gradient step follows. Bounds: the first training in under 20 s (the document: 160 s), libraries loaded, and a step
of a later training at least 50 times as fast as one that computes its features.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.common import hardware, print_table, verdict, write_crops

SECONDS, RATIO = 20, 50


def write_set(folder: Path, count: int) -> None:
    """Crops and their table; each crop is its own video."""
    from tfdfd.data.crops import faces_of
    from tfdfd.data.tables import FaceRow, write_table

    write_crops(folder, "png", count)
    rows = faces_of(folder).rows
    splits = ["train" if n % 20 < 14 else "val" if n % 20 < 17 else "test" for n in range(len(rows))]
    write_table(folder / "faces.csv", [replace(row, split=of) for row, of in zip(rows, splits, strict=True)], FaceRow)


def seconds_of_step(body, faces, batch_size: int, steps: int) -> float:
    """Seconds of one step that computes its features, excluding the first."""
    from tfdfd.pipelines.datasets import train_pipeline
    from tfdfd.training.bottlenecks import SoftmaxLayer

    layer, done = SoftmaxLayer(body.output_shape[1], 0, 0.005), 0
    while done <= steps:
        for image, label in train_pipeline(faces, body.input_shape[1], batch_size):
            layer.step(body.predict_on_batch(image), label.numpy()[:, 0].astype(int))
            if done == 0:
                start = time.perf_counter()
            done += 1
    return (time.perf_counter() - start) / (done - 1)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crops", type=int, default=500)
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args(argv)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras

    from tfdfd.cli.output import TrainingProgress
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
            start = time.perf_counter()
            results.append(train(recipe, folder / "set", folder / name, TrainingProgress(quiet=True)))
            whole.append(time.perf_counter() - start)
        model = build("mobilenet_v1", recipe.weights, (128, 128, 3), **recipe.arguments)
        body = keras.Model(model.input, model.get_layer("features").output)
        anew = seconds_of_step(body, folder / "set", recipe.batch_size, arguments.steps)
    stored = results[1]["training_seconds"] / recipe.steps
    ratio = anew / stored
    held = whole[0] < SECONDS and ratio >= RATIO
    print(f"{hardware()}; {arguments.crops} crops, {recipe.steps} steps of {recipe.batch_size}\n")
    rows = [
        ("first training, whole run", f"{whole[0]:.1f}", f"< {SECONDS}", verdict(whole[0] < SECONDS)),
        (f"of which: values of {results[0]['values_computed']} crops", f"{results[0]['values_seconds']:.1f}", "-", ""),
        ("later training, whole run", f"{whole[1]:.1f}", "-", ""),
        (f"of which: stored values and {recipe.steps} steps", f"{results[1]['training_seconds']:.2f}", "-", ""),
        (f"{recipe.steps} steps that compute their features", f"{anew * recipe.steps:.1f}", "-", ""),
    ]
    print_table(("what", "seconds", "bound", ""), rows)
    print(f"\nA step from stored values is {ratio:.0f} times as fast; bound {RATIO}: {verdict(ratio >= RATIO)}")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
