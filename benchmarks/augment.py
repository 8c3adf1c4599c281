"""Images a second through each augmentation policy: as a Keras layer in tf.data, and crop by crop.

    python -m benchmarks.augment [--size N] [--batch N] [--rounds N]

Reads nothing and decodes nothing: one public-domain portrait, over and over. The best round counts, since the times of
shared machines drift; the processor's own time for an image says what it costs whatever else runs. Crop by crop (as
`train_pipeline` does it, given a policy's name) runs in one thread.
"""

from __future__ import annotations

import argparse
import os

import numpy as np

from benchmarks.common import hardware, print_table, timed


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--batches", type=int, default=10, help="batches per round")
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

    def rows():
        for name in POLICIES:
            yield f"{name} as a layer", *measured(Augmentation(name, seed=0), images, arguments)
            yield name, *measured_by_opencv(CropAugmenter(name), images[0], arguments)

    cells = ((name, f"{1 / wall:.0f}", f"{1000 * processor:.1f}") for name, wall, processor in rows())
    print_table(("policy", "images/s", "processor time, ms an image"), cells)
    return 0


def measured(layer, images, arguments):
    """Lowest seconds and processor seconds per image of all rounds after the first, which traces the graph."""
    import tensorflow as tf

    data = tf.data.Dataset.from_tensors(images).repeat(arguments.batches)
    data = data.map(lambda batch: layer(batch, training=True)).prefetch(1)
    for _ in data:
        pass
    best = np.full(2, np.inf)
    for _ in range(arguments.rounds):
        with timed(best, arguments.batches * len(images)):
            for _ in data:
                pass
    return best


def measured_by_opencv(augment, image, arguments):
    """The same, image by image."""
    import cv2

    cv2.setNumThreads(1)
    count, best = arguments.batches * arguments.batch, np.full(2, np.inf)
    for epoch in range(arguments.rounds):
        with timed(best, count):
            for place in range(count):
                augment(image, epoch, place)
    return best


if __name__ == "__main__":
    raise SystemExit(main())
