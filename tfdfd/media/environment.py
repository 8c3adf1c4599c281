"""What OpenCV and FFmpeg read from the environment, and OpenCV only once, when it is loaded."""

from __future__ import annotations

from tfdfd.media.kinds import VIDEO_DEMUXERS
from tfdfd.media.limits import Limits


def decoder_environment(limits: Limits) -> dict[str, str]:
    """Variables for a decoding process: limits that hold before a pixel is allocated, known containers only, silence.

    They must be set before `cv2` is imported.
    """
    return {
        "OPENCV_IO_MAX_IMAGE_PIXELS": str(limits.max_pixels),
        "OPENCV_FFMPEG_CAPTURE_OPTIONS": f"format_whitelist;{','.join(VIDEO_DEMUXERS)}|max_pixels;{limits.max_pixels}",
        "OPENCV_FFMPEG_LOGLEVEL": "-8",
        "OPENCV_LOG_LEVEL": "SILENT",
    }
