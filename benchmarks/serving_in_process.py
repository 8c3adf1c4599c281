"""Rate and price of a SavedModel called in this process, for each batch size, as JSON. Run by `benchmarks.serving`.

Each size maps to images a second and seconds of processor time an image.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def main(folder: str, crops: str, seconds: float, sizes: list[int]) -> dict[int, tuple[float, float]]:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    call = tf.saved_model.load(folder).signatures["image_bytes"]
    jpegs = [file.read_bytes() for file in sorted(Path(crops).glob("*.jpg"))]
    rates = {}
    for size in sizes:
        batches = [[jpegs[(start + n) % len(jpegs)] for n in range(size)] for start in range(0, len(jpegs), size)]
        call(image_bytes=tf.constant(batches[0]))["fake_probability"].numpy()
        done, begun, processor = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() < begun + seconds:
            call(image_bytes=tf.constant(batches[done % len(batches)]))["fake_probability"].numpy()
            done += 1
        images = done * size
        rates[size] = images / (time.perf_counter() - begun), (time.process_time() - processor) / images
    return rates


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), [int(size) for size in sys.argv[4:]])))
