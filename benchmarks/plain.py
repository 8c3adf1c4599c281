"""The plain way, as in the single-file scripts of peers, for comparison with `tfdfd detect` and `tfdfd extract`.

Seeks to each of 32 frames, runs `mtcnn`'s own `detect_faces` on the whole frame, and `model.predict` on each crop. The
frames, networks, weights and crops are those of tfdfd. `benchmarks.detect` and `benchmarks.extract` run each in a
separate process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import numpy as np

FRAMES = 32


def detect(path: str, rounds: int) -> dict:
    """Timings of each round, and the boxes and scores of the last."""
    start = time.perf_counter()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow  # noqa: F401
    from mtcnn import MTCNN

    from tfdfd.faces.crop import crop_face
    from tfdfd.models import build

    detector = MTCNN()
    model = build("meso_inception4", "tfdfd/meso_inception4")
    result = {"import_s": time.perf_counter() - start, "rounds": []}
    for _ in range(rounds):
        clock = [time.perf_counter()]
        indices, frames = zip(*_frames(path), strict=True)
        clock.append(time.perf_counter())
        faces = [sorted(detector.detect_faces(frame), key=lambda face: -face["confidence"]) for frame in frames]
        boxes = [[face["box"] for face in some] for some in faces]
        clock.append(time.perf_counter())
        scores = []
        for frame, some in zip(frames, boxes, strict=True):
            for box in some:
                crop = crop_face(frame, box, 256)[None].astype("float32") / 255
                scores.append(float(model.predict(crop, verbose=0)[0, 0]))
        clock.append(time.perf_counter())
        decode, find, score = np.diff(clock).tolist()
        result["rounds"].append({"decode_s": decode, "detect_s": find, "score_s": score})
    return result | {"indices": indices, "boxes": boxes, "scores": scores}


def extract(folder: str, paths: list[str]) -> dict:
    """Writes a PNG for each face; returns seconds and the number of crops."""
    start = time.perf_counter()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import cv2
    from mtcnn import MTCNN

    from tfdfd.faces.crop import crop_face

    detector, crops = MTCNN(), 0
    loaded = time.perf_counter()
    for number, path in enumerate(paths):
        for index, frame in _frames(path):
            for k, face in enumerate(detector.detect_faces(frame)):
                crop = crop_face(frame, face["box"], 256)[..., ::-1]
                cv2.imwrite(os.path.join(folder, f"{number}-{index}-{k}.png"), crop)
                crops += 1
    return {"import_s": loaded - start, "work_s": time.perf_counter() - loaded, "crops": crops}


def _frames(path) -> Iterator[tuple[int, np.ndarray]]:
    import cv2

    from tfdfd.media import frame_indices

    capture = cv2.VideoCapture(path)
    for index in frame_indices(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), FRAMES):
        capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        yield index, cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)
