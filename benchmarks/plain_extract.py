"""The plain way to a face set, as single-file scripts of peers do it: one process, seek to each of 32 frames, `mtcnn`'s
own `detect_faces` on the whole frame, a PNG for each face. Prints seconds and crops as JSON; for `benchmarks.extract`.

The same frames, network, weights and crops as `tfdfd extract`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

FRAMES = 32


def main(folder: Path, paths: list[str]) -> dict:
    begun = time.perf_counter()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import cv2
    from mtcnn import MTCNN

    from tfdfd.faces.crop import crop_face
    from tfdfd.media import frame_indices

    detector = MTCNN()
    crops = 0
    started = time.perf_counter()
    for number, path in enumerate(paths):
        capture = cv2.VideoCapture(path)
        for index in frame_indices(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), FRAMES):
            capture.set(cv2.CAP_PROP_POS_FRAMES, index)
            frame = capture.read()[1]
            for k, face in enumerate(detector.detect_faces(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))):
                cv2.imwrite(str(folder / f"{number}-{index}-{k}.png"), crop_face(frame, face["box"], 256))
                crops += 1
    return {"import_s": started - begun, "work_s": time.perf_counter() - started, "crops": crops}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2:])))
