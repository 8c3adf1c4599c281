"""The plain way, as single-file scripts of peers do it: seek to each of 32 frames, `mtcnn`'s own `detect_faces` on the
whole frame, `model.predict` on each crop. Prints its timings and boxes as JSON. Run by `benchmarks.detect`.

The same frames, the same network and weights, and the same crops as `tfdfd detect`.
"""

from __future__ import annotations

import json
import os
import sys
import time

FRAMES = 32


def main(path: str, rounds: int) -> dict:
    begun = time.perf_counter()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import cv2
    import numpy as np
    import tensorflow  # noqa: F401
    from mtcnn import MTCNN

    from tfdfd.faces.crop import crop_face
    from tfdfd.media import frame_indices
    from tfdfd.models import build

    detector = MTCNN()
    model = build("meso_inception4", "tfdfd/meso_inception4")
    answer = {"import_s": time.perf_counter() - begun, "rounds": []}
    for _ in range(rounds):
        clock = [time.perf_counter()]
        capture = cv2.VideoCapture(path)
        indices = frame_indices(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), FRAMES)
        frames = []
        for index in indices:
            capture.set(cv2.CAP_PROP_POS_FRAMES, index)
            frames.append(cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB))
        clock.append(time.perf_counter())
        found = [sorted(detector.detect_faces(frame), key=lambda face: -face["confidence"]) for frame in frames]
        boxes = [[face["box"] for face in faces] for faces in found]
        clock.append(time.perf_counter())
        scores = []
        for frame, found in zip(frames, boxes, strict=True):
            for box in found:
                crop = crop_face(frame, box, 256)[None].astype("float32") / 255
                scores.append(float(model.predict(crop, verbose=0)[0, 0]))
        clock.append(time.perf_counter())
        decode, detect, score = np.diff(clock).tolist()
        answer["rounds"].append({"decode_s": decode, "detect_s": detect, "score_s": score})
    answer |= {"indices": indices, "boxes": boxes, "scores": scores}
    return answer


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2])), default=float))
