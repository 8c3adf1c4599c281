"""What H.264 leaves of pictures: frames of a short clip through the encoder of most videos and back, in memory.

PyAV brings the encoder (x264) and the decoder (FFmpeg). Colours go the way of most videos: BT.601 of limited range,
4:2:0, each chroma sample the mean of four pixels. One thread, no lookahead: the same library gives the same bytes.
"""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np

PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
CRF = 0, 51
# U and V of an RGB pixel, BT.601, limited range, as `cv2.COLOR_RGB2YUV_I420` weighs them.
_CHROMA = np.float32([[-0.148, -0.291, 0.439, 128], [0.439, -0.368, -0.071, 128]])


def compress_h264(frames: np.ndarray, crf: float, preset: str = "veryfast") -> np.ndarray:
    """Encodes frames as one H.264 clip and decodes them.

    The first frame is coded by itself, each later one as what differs from those before. Called in several threads, it
    keeps none of them waiting.

    Args:
        frames: RGB uint8 `(frames, height, width, 3)`, or one picture `(height, width, 3)`, of any size.
        crf: constant rate factor, 0 to 51: how much may be lost. 17 is hardly visible, 23 x264's default; FF++'s c23
            and c40 are 23 and 40.
        preset: of x264, one of `PRESETS`: how hard it looks for savings.

    Returns:
        uint8 of the shape of `frames`. A CRF of 0 loses nothing but colour: 4:2:0 halves its resolution.

    Raises:
        ValueError: not such frames, no such rate factor or preset; PyAV has no x264.
        RuntimeError: encoder and decoder differ in how many frames there are.
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim not in (3, 4) or frames.shape[-1] != 3 or not frames.size:
        raise ValueError(
            f"frames are {frames.dtype} {frames.shape}; expected RGB uint8 (frames, height, width, 3), or one picture "
            "(height, width, 3)"
        )
    if not CRF[0] <= crf <= CRF[1]:
        raise ValueError(f"crf is {crf!r}; expected a number from {CRF[0]} to {CRF[1]}")
    if preset not in PRESETS:
        raise ValueError(f"preset is {preset!r}; expected one of {', '.join(PRESETS)}")
    clip = frames if frames.ndim == 4 else frames[None]
    height, width = clip.shape[1:3]
    # 4:2:0 has no odd sizes.
    even = [cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE) for frame in clip]
    decoded = _decoded(_encoded(even, crf, preset))
    if len(decoded) != len(clip):
        raise RuntimeError(f"{len(clip)} frames went into the H.264 encoder and {len(decoded)} came out of the decoder")
    rgb = [cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_I420)[:height, :width] for planes in decoded]
    return np.stack(rgb) if frames.ndim == 4 else np.ascontiguousarray(rgb[0])


def filmed(
    images: list[np.ndarray], crf: float, rng: np.random.Generator, frames: int = 3, preset: str = "veryfast"
) -> list[np.ndarray]:
    """Pictures as the last frames of H.264 clips in which the same camera moves a little.

    Frame by frame the picture drifts by up to 1 % of its longer side, turns by up to 0.5 degrees and grows or shrinks
    by up to 1 %, so that the last frame is mostly predicted from those before, as frames of videos are.

    Args:
        images: RGB uint8 `(height, width, 3)`, all of one size; a real picture and its fake go through the same.
        crf: as of `compress_h264`.
        rng: the motion is drawn from it.
        frames: length of the clip; 1: the picture is coded by itself.
        preset: as of `compress_h264`.

    Returns:
        Pictures of the same shapes, uint8; they lie where they lay.

    Raises:
        ValueError: pictures of several sizes, none, or `frames` below 1; errors of `compress_h264`.
    """
    shapes = {image.shape for image in images}
    if len(shapes) != 1 or frames < 1:
        raise ValueError(f"expected pictures of one size and at least 1 frame; received {shapes} and {frames}")
    height, width = images[0].shape[:2]
    drift = rng.uniform(-0.01, 0.01, 2) * max(height, width)
    turn, growth = rng.uniform(-0.5, 0.5), rng.uniform(-0.01, 0.01)
    moves = []
    for before in range(frames - 1, 0, -1):
        move = cv2.getRotationMatrix2D((width / 2, height / 2), before * turn, 1 + before * growth)
        move[:, 2] += before * drift
        moves.append(move)
    return [compress_h264(_moving(image, moves), crf, preset)[-1] for image in images]


def _moving(image, moves):
    size = image.shape[1], image.shape[0]
    return np.stack([*(cv2.warpAffine(image, move, size, borderMode=cv2.BORDER_REFLECT_101) for move in moves), image])


def _encoded(frames, crf, preset):
    """Packets of H.264."""
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
        picture = av.VideoFrame.from_ndarray(_as_i420(frame), format="yuv420p")
        picture.pts = number
        packets += encoder.encode(picture)
    return packets + encoder.encode(None)


def _decoded(packets):
    """Planes of each frame, as `cv2` has them in one array."""
    import av

    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    frames = [frame for packet in packets for frame in decoder.decode(packet)]
    return [frame.to_ndarray() for frame in frames + decoder.decode(None)]


def _as_i420(frame):
    """RGB `(height, width, 3)` -> planes Y, U, V below each other, `(1.5 height, width)`; both sides are even."""
    height, width = frame.shape[:2]
    planes = cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420)
    # OpenCV takes the chroma of one pixel in four, encoders their mean.
    half = cv2.resize(frame, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    chroma = cv2.transform(half, _CHROMA)
    planes[height:] = np.moveaxis(chroma, 2, 0).reshape(height // 2, width)
    return planes
