"""Image degradations: JPEG, blur, loss of resolution, noise and H.264.

Images are RGB uint8 `(height, width, 3)`. Everything random is drawn from the `np.random.Generator` passed in, so the
same seed gives the same image.

H.264 is encoded and decoded in memory with PyAV, which brings the encoder (x264) and the decoder (FFmpeg). Colors are
BT.601, limited range, 4:2:0, each chroma sample the mean of four pixels, as in most videos. It runs in one thread
without lookahead: the same library versions give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import cv2
import numpy as np

PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
CRF = 0, 51
# U and V of an RGB pixel, BT.601, limited range, with the weights of `cv2.COLOR_RGB2YUV_I420`.
_CHROMA = np.float32([[-0.148, -0.291, 0.439, 128], [0.439, -0.368, -0.071, 128]])  # type: ignore[arg-type]
_VIDEO_SHARE = 0.75
LEVELS = np.arange(256, dtype=np.float32)[:, None]


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Values rounded and clipped to 0 to 255, as uint8."""
    rounded = np.rint(values)
    return np.clip(rounded, 0, 255, out=rounded).astype(np.uint8)


def map_levels(image: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Replaces each of the 256 levels by the entry of `levels`, `(256, 3)` or `(256, 1)`."""
    return cv2.LUT(image, to_uint8(np.broadcast_to(levels, (256, 3)))[None])


def compress_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Encodes and decodes the image as JPEG at a quality from 1 to 100."""
    written, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not written:
        raise ValueError(f"image {image.shape} could not be encoded as JPEG of quality {quality}")
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)  # type: ignore[return-value]


def blur(image: np.ndarray, sigma: float, size: int = 0) -> np.ndarray:
    """Gaussian blur of uint8 or float32 images; a kernel `size` of 0 follows from `sigma`, both in pixels."""
    return cv2.GaussianBlur(image, (size, size), sigma)


def shrink(image: np.ndarray, scale: float, interpolation: int = cv2.INTER_AREA) -> np.ndarray:
    """Scales both sides by `scale`, at most 1, to at least one pixel."""
    height, width = image.shape[:2]
    return cv2.resize(image, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=interpolation)


def resize_and_back(
    image: np.ndarray, scale: float, down: int = cv2.INTER_AREA, up: int = cv2.INTER_LINEAR
) -> np.ndarray:
    """Scales the image down by `scale` and up to its size again, with OpenCV's interpolations `down` and `up`."""
    return cv2.resize(shrink(image, scale, down), image.shape[1::-1], interpolation=up)


def add_noise(image: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Adds Gaussian noise of a standard deviation in gray levels, independent in every pixel and channel."""
    return to_uint8(image + rng.normal(0, deviation, image.shape).astype(np.float32))


def compress_h264(frames: np.ndarray, crf: float, preset: str = "veryfast") -> np.ndarray:
    """Encodes frames as one H.264 clip and decodes them.

    The first frame is intra-coded, each later one is predicted from those before. Threads may call it concurrently.

    Args:
        frames: RGB uint8 `(frames, height, width, 3)`, or one image `(height, width, 3)`, of any size.
        crf: constant rate factor, 0 to 51. 17 is visually lossless, 23 is x264's default; c23 and c40 of
            FaceForensics++ are 23 and 40.
        preset: x264's trade of speed for size, one of `PRESETS`.

    Returns:
        uint8 of the shape of `frames`. A CRF of 0 loses chroma resolution only.

    Raises:
        ValueError: invalid frames, rate factor or preset; or PyAV has no x264.
        RuntimeError: encoder and decoder disagree on the number of frames.
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim not in (3, 4) or frames.shape[-1] != 3 or not frames.size:
        raise ValueError(
            f"frames are {frames.dtype} {frames.shape}; expected RGB uint8 (frames, height, width, 3), or one image "
            "(height, width, 3)"
        )
    if not CRF[0] <= crf <= CRF[1]:
        raise ValueError(f"crf is {crf!r}; expected a number from {CRF[0]} to {CRF[1]}")
    if preset not in PRESETS:
        raise ValueError(f"preset is {preset!r}; expected one of {', '.join(PRESETS)}")
    clip = frames if frames.ndim == 4 else frames[None]
    height, width = clip.shape[1:3]
    # 4:2:0 needs even sides.
    even = [cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE) for frame in clip]
    decoded = _decode(_encode(even, crf, preset))
    if len(decoded) != len(clip):
        raise RuntimeError(f"{len(clip)} frames went into the H.264 encoder and {len(decoded)} came out of the decoder")
    rgb = [cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_I420)[:height, :width] for planes in decoded]
    return np.stack(rgb) if frames.ndim == 4 else np.ascontiguousarray(rgb[0])


def simulate_video(
    images: Sequence[np.ndarray], crf: float, rng: np.random.Generator, frames: int = 3, preset: str = "veryfast"
) -> list[np.ndarray]:
    """Returns each image as the last frame of an H.264 clip with slight camera motion, the same for all images.

    From frame to frame the image drifts by up to 1 % of its longer side, turns by up to 0.5 degrees and scales by up to
    1 %, so that the last frame is mostly predicted, as frames of videos are.

    Args:
        images: RGB uint8 `(height, width, 3)`, all of one size.
        crf: see `compress_h264`.
        rng: draws the motion.
        frames: length of the clip; 1 codes the image by itself.
        preset: see `compress_h264`.

    Returns:
        uint8 images of the same shapes, aligned with the input.

    Raises:
        ValueError: images of several sizes, no image, or `frames` below 1; errors of `compress_h264`.
    """
    shapes = {image.shape for image in images}
    if len(shapes) != 1 or frames < 1:
        raise ValueError(f"expected images of one size and at least 1 frame; received {shapes} and {frames}")
    height, width = images[0].shape[:2]
    drift = rng.uniform(-0.01, 0.01, 2) * max(height, width)
    turn, growth = rng.uniform(-0.5, 0.5), rng.uniform(-0.01, 0.01)
    moves = []
    for before in range(frames - 1, 0, -1):
        move = cv2.getRotationMatrix2D((width / 2, height / 2), before * turn, 1 + before * growth)
        move[:, 2] += before * drift
        moves.append(move)

    def clip(image: np.ndarray) -> np.ndarray:
        moved = [cv2.warpAffine(image, move, (width, height), borderMode=cv2.BORDER_REFLECT_101) for move in moves]
        return np.stack([*moved, image])

    return [compress_h264(clip(image), crf, preset)[-1] for image in images]


def degrade_pair(
    real: np.ndarray, fake: np.ndarray, rng: np.random.Generator, video: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Degrades a real image and its fake with the same draws, so that the degradation says nothing about the label.

    Lighting, blur, loss of resolution, noise and JPEG (quality 40 to 100) are each applied with some probability. The
    size is kept.

    Args:
        real, fake: RGB uint8 images of one shape.
        rng: draws kinds and strengths.
        video: degrade three of four pairs as video frames: down to a third in size, then H.264 (CRF 16 to 38), the
            last of two frames (`simulate_video`).

    Raises:
        ValueError: the shapes differ.
    """
    if real.shape != fake.shape:
        raise ValueError(f"real is {real.shape} and fake is {fake.shape}; a pair has one shape")
    pair = [real, fake]
    of_video = video and rng.random() < _VIDEO_SHARE
    if rng.random() < 0.5:
        gains = (rng.uniform(0.85, 1.15) * rng.uniform(0.95, 1.05, 3)).astype(np.float32)
        offset = np.float32(rng.uniform(-15, 15))
        pair = [map_levels(image, LEVELS * gains + offset) for image in pair]
    if rng.random() < 0.25:
        sigma = rng.uniform(0.3, 1.0)
        pair = [blur(image, sigma) for image in pair]
    upscaling = cv2.INTER_LINEAR
    if rng.random() < 0.4:
        scale = rng.uniform(0.33 if of_video else 0.5, 1.0)
        upscaling = int(rng.choice([cv2.INTER_LINEAR, cv2.INTER_CUBIC]))
        pair = [shrink(image, scale) for image in pair]
    if rng.random() < 0.25:
        noise = rng.normal(0, rng.uniform(1, 6), pair[0].shape).astype(np.float32)
        pair = [to_uint8(image + noise) for image in pair]
    if of_video:
        pair = simulate_video(pair, int(rng.integers(16, 39)), rng, frames=2, preset="superfast")
    elif rng.random() < 0.7:
        quality = int(rng.integers(40, 101))
        pair = [compress_jpeg(image, quality) for image in pair]
    if pair[0].shape != real.shape:
        pair = [cv2.resize(image, real.shape[1::-1], interpolation=upscaling) for image in pair]
    return pair[0], pair[1]


def _encode(frames: Sequence[np.ndarray], crf: float, preset: str) -> list:
    """H.264 packets of the frames."""
    import av

    height, width = frames[0].shape[:2]
    try:
        encoder = av.CodecContext.create("libx264", "w")
    except av.codec.codec.UnknownCodecError as error:
        raise ValueError(
            "this PyAV was built without x264: its wheel has it; run pip install --force-reinstall --only-binary av av."
        ) from error
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.thread_count = Fraction(1, 25), 1
    encoder.options = {"preset": preset, "tune": "zerolatency", "crf": str(crf)}
    packets = []
    for number, frame in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(_to_i420(frame), format="yuv420p")
        picture.pts = number
        packets += encoder.encode(picture)
    return packets + encoder.encode(None)


def _decode(packets: Sequence[Any]) -> list[np.ndarray]:
    """YUV planes of each frame, in OpenCV's I420 layout."""
    import av

    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    frames = [frame for packet in packets for frame in decoder.decode(packet)]
    return [frame.to_ndarray() for frame in frames + decoder.decode(None)]


def _to_i420(frame: np.ndarray) -> np.ndarray:
    """RGB `(height, width, 3)` with even sides to the planes Y, U, V below each other, `(1.5 height, width)`."""
    height, width = frame.shape[:2]
    planes = cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420)
    # OpenCV subsamples chroma by taking one pixel in four; encoders take the mean.
    half = cv2.resize(frame, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    chroma = cv2.transform(half, _CHROMA)  # type: ignore[call-overload]
    planes[height:] = np.moveaxis(chroma, 2, 0).reshape(height // 2, width)
    return planes
