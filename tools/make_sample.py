"""Makes the two bundled sample clips: a genuine pan over a portrait, and the same with a blended face.

    pip install av==18.1.0 scikit-image
    python tools/make_sample.py

The portrait is scikit-image's `data.astronaut()`: NASA's photograph of Eileen Collins, in the public domain.
`genuine.mp4` pans and zooms over it; `blended.mp4` does the same over a copy whose face was replaced by an altered
version of itself: softer (rendered at half the size, as face swaps are), slightly darker, redder and displaced, blended
with a soft border. No other person's face and no network is involved. The same versions of NumPy, OpenCV and PyAV give
the same bytes.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from tfdfd.data import self_blending

FOLDER = Path(__file__).resolve().parents[1] / "tfdfd/samples"
FRAMES, RATE, SIDE = 100, 25, 480
# Constant rate factor of x264; 23 is its default and what FaceForensics++ calls c23.
QUALITY = 23

LANDMARKS = np.array([[204, 100], [245, 102], [224, 126], [202, 139], [244, 140]], np.float32)
FACE_BOX = (182, 64, 83, 107)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the two clips go")
    folder = parser.parse_args(argv).folder
    from skimage.data import astronaut

    folder.mkdir(parents=True, exist_ok=True)
    portrait = astronaut()
    for name, picture in (("genuine", portrait), ("blended", blend_face(portrait))):
        file = folder / f"{name}.mp4"
        write_clip(file, [frame_of(picture, number) for number in range(FRAMES)])
        print(f"{file}: {file.stat().st_size} bytes")


def blend_face(picture):
    """A copy of the portrait, uint8 RGB, with its face replaced by an altered version of itself."""
    height, width = picture.shape[:2]
    mask = self_blending.blending_mask((height, width), LANDMARKS, np.random.default_rng(7), "face")[..., None]
    half = cv2.resize(picture, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    face = cv2.resize(half, (width, height), interpolation=cv2.INTER_CUBIC)
    middle = [float(value) for value in LANDMARKS.mean(axis=0)]
    matrix = cv2.getRotationMatrix2D(middle, 0.8, 1.03)
    matrix[:, 2] += (0.8, 1.2)
    face = cv2.warpAffine(face, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    face = face * np.float32(0.93) + np.float32([10, -4, -10])
    return np.clip(np.rint(mask * face + (1 - mask) * picture), 0, 255).astype(np.uint8)


def view_of(number):
    """The square of the picture that frame `number` shows: `(left, top, side)` in pixels, as floats."""
    way = number / (FRAMES - 1)
    way = way * way * (3 - 2 * way)  # slow at both ends, as a hand moves
    side = 440 - 120 * way
    x, y = 244 - 16 * way, 222 - 58 * way
    return x - side / 2, y - side / 2, side


def frame_of(picture, number):
    """Frame `number`, uint8 RGB `(480, 480, 3)`."""
    left, top, side = view_of(number)
    scale = SIDE / side
    matrix = np.array([[scale, 0, -left * scale], [0, scale, -top * scale]])
    return cv2.warpAffine(picture, matrix, (SIDE, SIDE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)


def face_box_of(number):
    """Where frame `number` shows the face: `(x, y, width, height)` in its pixels, as floats."""
    left, top, side = view_of(number)
    x, y, width, height = FACE_BOX
    scale = SIDE / side
    return (x - left) * scale, (y - top) * scale, width * scale, height * scale


def write_clip(file, frames):
    """Frames, RGB uint8, as H.264 with 4:2:0 colour, the index at the front so that a browser plays it at once."""
    import av

    with av.open(str(file), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        # Otherwise the same frames now and then came out as other bytes: with threads, with vector code, and with
        # PyAV's own conversion of colours.
        stream.options = {"crf": str(QUALITY), "preset": "slow", "threads": "1", "x264-params": "asm=0"}
        for frame in frames:
            planes = cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode())


if __name__ == "__main__":
    main()
