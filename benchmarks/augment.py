"""Images a second through each augmentation policy: as a Keras layer in tf.data, and crop by crop.

    python -m benchmarks.augment [--size N] [--batch N] [--rounds N]

Reads nothing and decodes nothing: one public-domain portrait, over and over. The best round counts, since the times of
shared machines drift; the processor's own time for an image says what it costs whatever else runs. Crop by crop (as
`train_pipeline` does it, given a policy's name) runs in one thread.
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np

from benchmarks.detect import hardware


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--batches", type=int, default=10, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import cv2
    from skimage.data import astronaut

    from tfdfd.data.augment import POLICIES, CropAugmenter
    from tfdfd.pipelines.augmentation import Augmentation

    portrait = cv2.resize(astronaut(), (arguments.size, arguments.size), interpolation=cv2.INTER_AREA)
    images = np.repeat(portrait[None].astype(np.float32) / 255, arguments.batch, axis=0)
    print(f"{hardware()}; {arguments.size} x {arguments.size}, batches of {arguments.batch}\n")
    print("| policy | images/s | processor time, ms an image |")
    print("|---|---|---|")
    for name in POLICIES:
        wall, processor = measured(Augmentation(name, seed=0), images, arguments)
        print(f"| {name} as a layer | {1 / wall:.0f} | {1000 * processor:.1f} |", flush=True)
        wall, processor = measured_by_opencv(CropAugmenter(name), images[0], arguments)
        print(f"| {name} | {1 / wall:.0f} | {1000 * processor:.1f} |", flush=True)
    return 0


def measured(layer, images, arguments):
    """Seconds and processor seconds an image, the least of all rounds after the first, which traces the graph."""
    import tensorflow as tf

    data = tf.data.Dataset.from_tensors(images).repeat(arguments.batches)
    data = data.map(lambda batch: layer(batch, training=True)).prefetch(1)
    spent = []
    for _ in range(arguments.rounds + 1):
        begun = np.array([time.perf_counter(), time.process_time()])
        for _ in data:
            pass
        spent.append(([time.perf_counter(), time.process_time()] - begun) / (arguments.batches * len(images)))
    return np.min(spent[1:], axis=0)


def measured_by_opencv(augment, image, arguments):
    """The same of one image after the other."""
    import cv2

    cv2.setNumThreads(1)
    count, spent = arguments.batches * arguments.batch, []
    for epoch in range(arguments.rounds):
        begun = np.array([time.perf_counter(), time.process_time()])
        for place in range(count):
            augment(image, epoch, place)
        spent.append(([time.perf_counter(), time.process_time()] - begun) / count)
    return np.min(spent, axis=0)


if __name__ == "__main__":
    raise SystemExit(main())
