"""What OpenCV reads from the environment, once, when it is loaded."""

from __future__ import annotations

from tfdfd.media.limits import Limits


def decoder_environment(limits: Limits) -> dict[str, str]:
    """Variables for a decoding process: limits that hold before a pixel is allocated, and silence.

    They must be set before `cv2` is imported.
    """
    return {
        "OPENCV_IO_MAX_IMAGE_PIXELS": str(limits.max_pixels),
        "OPENCV_LOG_LEVEL": "SILENT",
    }
