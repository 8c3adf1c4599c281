"""The two sample clips that the package carries, against what `tools/make_sample.py` says about them."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
NAMES = ("genuine", "blended")


@pytest.fixture(scope="module")
def make_sample():
    spec = importlib.util.spec_from_file_location("make_sample", REPOSITORY / "tools/make_sample.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def frames_of(name):
    video = cv2.VideoCapture(str(REPOSITORY / f"tfdfd/samples/{name}.mp4"), cv2.CAP_FFMPEG)
    frames = []
    while True:
        read, frame = video.read()
        if not read:
            return frames
        frames.append(frame)


@pytest.mark.parametrize("name", NAMES)
def test_clip_is_small_h264_with_enough_frames(name):
    file = REPOSITORY / f"tfdfd/samples/{name}.mp4"
    assert file.stat().st_size < 500_000
    video = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG)
    assert int(video.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little") in (b"h264", b"avc1")
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(25)
    frames = frames_of(name)
    assert len(frames) >= 75
    assert frames[0].shape == (480, 480, 3)


def test_clips_differ_in_the_face_and_nowhere_else(make_sample):
    for number, (genuine, blended) in enumerate(zip(*map(frames_of, NAMES), strict=True)):
        x, y, width, height = (round(value) for value in make_sample.face_box_of(number))
        assert width >= 90
        assert x >= 0 and y >= 0 and x + width <= 480 and y + height <= 480
        difference = np.abs(genuine.astype(np.int16) - blended).mean(axis=-1)
        face = difference[y : y + height, x : x + width].mean()
        # The soft border reaches a little beyond the box.
        difference[max(0, y - 20) : y + height + 20, max(0, x - 20) : x + width + 20] = np.nan
        assert face > 5
        assert np.nanmean(difference) < 2  # what the codec does with other pixels elsewhere


def test_clips_show_what_the_tool_draws(make_sample):
    portrait = pytest.importorskip("skimage.data").astronaut()
    for name, picture in zip(NAMES, (portrait, make_sample.blend_face(portrait)), strict=True):
        frames = frames_of(name)
        assert len(frames) == make_sample.FRAMES
        for number in (0, 49, 99):
            drawn = cv2.cvtColor(make_sample.frame_of(picture, number), cv2.COLOR_RGB2BGR)
            assert cv2.PSNR(frames[number], drawn) > 28


def test_every_frame_moves(make_sample):
    views = np.array([make_sample.view_of(number) for number in range(make_sample.FRAMES)])
    assert (views[:, :2] >= 0).all()
    assert (views[:, :2] + views[:, 2:] <= 512).all()
    assert (np.diff(views[:, 2]) < 0).all()
