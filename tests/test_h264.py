"""H.264 in memory: what comes back is the picture with the losses of a real encoder, the same each time."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from tfdfd.data.degrade import compress_h264, simulate_video

pytest.importorskip("av")


@pytest.fixture(scope="module")
def face(astronaut):
    return np.ascontiguousarray(astronaut[20:221, 120:319])


@pytest.fixture(scope="module")
def clip(face):
    return np.stack([np.roll(face, (number, 2 * number), (0, 1)) for number in range(4)])


def test_frames_come_back_in_order_and_in_place(clip):
    back = compress_h264(clip, 18)
    assert (back.dtype, back.shape) == (np.uint8, clip.shape)
    assert [np.argmax([cv2.PSNR(frame, other) for other in clip]) for frame in back] == [0, 1, 2, 3]
    assert min(map(cv2.PSNR, clip, back)) > 32


def test_a_higher_rate_factor_loses_more(face):
    kept = [cv2.PSNR(face, compress_h264(face, crf)) for crf in (0, 18, 23, 28.5, 34, 40, 51)]
    assert kept == sorted(kept, reverse=True)
    assert kept[1] > 36 and kept[-2] < 30


def test_colours_stay(face):
    """Of a flat picture all that is left is rounding to limited range."""
    for colour in ((200, 40, 90), (16, 235, 128), (255, 255, 255), (0, 0, 0)):
        flat = np.full((48, 64, 3), colour, np.uint8)
        assert np.abs(compress_h264(flat, 10).astype(int) - flat).max() <= 3
    assert np.abs(compress_h264(face, 18).mean((0, 1)) - face.mean((0, 1))).max() < 1


def test_chroma_is_the_mean_of_four_pixels():
    """Two colours in a checkerboard of pixels become their mean chroma, wherever the board begins."""
    board = np.indices((32, 32)).sum(0) % 2
    colours = np.uint8([(200, 60, 60), (60, 60, 200)])
    one, other = (compress_h264(colours[board ^ flip], 0).reshape(-1, 3).mean(0) for flip in (0, 1))
    np.testing.assert_allclose(one, other, atol=2)
    np.testing.assert_allclose(one, colours.mean(0), atol=3)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 5), (37, 1), (64, 65), (65, 64)])
def test_any_size(face, shape):
    picture = face[: shape[0], : shape[1]]
    assert compress_h264(picture, 23).shape == (*shape, 3)
    assert compress_h264(np.stack([picture] * 2), 23).shape == (2, *shape, 3)
    assert simulate_video([picture], 23, np.random.default_rng(0))[0].shape == (*shape, 3)


def test_the_same_again_in_threads(clip):
    alone = compress_h264(clip, 30).tobytes()
    with ThreadPoolExecutor(4) as pool:
        assert {back.tobytes() for back in pool.map(lambda _: compress_h264(clip, 30), range(8))} == {alone}


def test_the_input_is_left_alone(clip):
    before = clip.copy()
    compress_h264(clip, 40)
    compress_h264(clip[:, ::-1, ::2], 40)
    np.testing.assert_array_equal(clip, before)


def test_a_filmed_pair_lies_where_it_lay_and_shares_its_motion(face):
    fake = face.copy()
    fake[80:120, 80:120] = fake[80:120, 80:120][:, ::-1]
    real_back, fake_back = simulate_video([face, fake], 26, np.random.default_rng(4))
    shift, _ = cv2.phaseCorrelate(*(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY).astype(np.float32) for x in (face, real_back)))
    assert np.hypot(*shift) < 0.2
    again = simulate_video([face], 26, np.random.default_rng(4))[0]
    np.testing.assert_array_equal(again, real_back)
    assert not np.array_equal(simulate_video([face], 26, np.random.default_rng(5))[0], real_back)
    far = np.s_[170:]
    assert cv2.PSNR(real_back[far], fake_back[far]) > 35 > cv2.PSNR(real_back[80:120], fake_back[80:120])


def test_a_later_frame_differs_from_one_coded_by_itself(face):
    alone, last = (simulate_video([face], 34, np.random.default_rng(1), frames)[0] for frames in (1, 4))
    np.testing.assert_array_equal(alone, compress_h264(face, 34))
    assert not np.array_equal(alone, last)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda face: compress_h264(face.astype(np.float32), 23), r"float32 \(201, 199, 3\); expected RGB uint8"),
        (lambda face: compress_h264(face[..., 0], 23), r"uint8 \(201, 199\); expected"),
        (lambda face: compress_h264(face[:0], 23), r"uint8 \(0, 199, 3\); expected"),
        (lambda face: compress_h264(face[None][:0], 23), r"\(0, 201, 199, 3\); expected"),
        (lambda face: compress_h264(face, -1), "crf is -1; expected a number from 0 to 51"),
        (lambda face: compress_h264(face, float("nan")), "crf is nan"),
        (lambda face: compress_h264(face, 23, "placebo:crf=0"), "preset is 'placebo:crf=0'; expected one of ultrafast"),
        (lambda face: simulate_video([face, face[1:]], 23, np.random.default_rng(0)), "images of one size"),
        (lambda face: simulate_video([], 23, np.random.default_rng(0)), "images of one size"),
        (lambda face: simulate_video([face], 23, np.random.default_rng(0), 0), "at least 1 frame.* 0"),
    ],
)
def test_what_does_not_fit_is_told(face, call, told):
    with pytest.raises(ValueError, match=told):
        call(face)
