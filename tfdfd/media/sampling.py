"""Which frames of a video are looked at. Pure, so that it can be proved once and used everywhere."""

# Frames of a video that are looked at unless told otherwise; the field's usual number (DeepfakeBench, SBI, ISPL).
FRAMES = 32


def frame_indices(total: int, count: int) -> list[int]:
    """`count` frame numbers spread equally over `total` frames, ascending and distinct; all of them if fewer.

    Each is the middle of one of `count` equal stretches, so the first and last frame, often black or broken, are
    not relied on, and any part of the clip is at most half a stretch away from a frame that is looked at.
    """
    if count < 1:
        raise ValueError(f"the number of frames must be at least 1; received {count}.")
    if total <= count:
        return list(range(max(total, 0)))
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]
