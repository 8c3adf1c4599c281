"""Clips for the benchmarks, made on the spot from a public-domain portrait (NASA, carried by scikit-image)."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def write_clip(path: Path, width: int, height: int, seconds: float, faces: int = 1, rate: int = 25) -> Path:
    """H.264 at x264's default quality: one or more portraits that drift over a noisy grey wall."""
    import av
    from skimage.data import astronaut

    portrait = cv2.resize(astronaut()[:360, 60:420], (height // 2, height // 2), interpolation=cv2.INTER_AREA)
    wall = np.random.default_rng(0).integers(90, 110, (height, width, 3), dtype=np.uint8)
    side = portrait.shape[0]
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast"}
        for number in range(round(seconds * rate)):
            frame = wall.copy()
            for face in range(faces):
                centre = (face + 1) * width // (faces + 1)
                left = centre - side // 2 + round(60 * np.sin(number / 40 + face))
                top = height // 4 + round(40 * np.cos(number / 55 + face))
                frame[top : top + side, left : left + side] = portrait
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    return path
