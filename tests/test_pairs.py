"""S2's formulas for pair batches against hand-made numbers, and which crops are taken for a fake and its original."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfdfd.data.orders import dual_frames, pair_faces, various_frame
from tfdfd.data.tables import FaceRow


@pytest.mark.parametrize(
    ("length", "epoch", "epochs", "batch", "frames"),
    [
        (300, 0, 30, 12, [0, 45, 90, 135, 180, 225]),  # (300 - 30) / 6 = 45; [0:300:45] has a seventh, 270
        (300, 29, 30, 12, [29, 74, 119, 164, 209, 254]),
        (301, 3, 50, 24, [3, 23, 43, 63, 83, 103, 123, 143, 163, 183, 203, 223]),  # floor(251 / 12) = 20
        (4, 1, 2, 4, [1, 2]),
    ],
)
def test_dual_frames(length, epoch, epochs, batch, frames):
    assert dual_frames(length, epoch, epochs, batch).tolist() == frames


@pytest.mark.parametrize(
    ("length", "epoch", "epochs", "n", "frame"),
    [
        (300, 0, 30, 8, 0),
        (300, 5, 30, 8, 40),
        (100, 20, 30, 8, 21),  # 160 mod 70 = 20, floor(160 / 100) = 1
        (100, 29, 30, 8, 24),  # 232 mod 70 = 22, floor(232 / 100) = 2
        (300, 7, 30, 50, 81),  # 350 mod 270 = 80, floor(350 / 300) = 1
        (4, 2, 3, 8, 3),  # 16 mod 1 = 0, floor(16 / 4) = 4 is past the end
    ],
)
def test_various_frame(length, epoch, epochs, n, frame):
    assert various_frame(length, epoch, epochs, n) == frame


@given(st.data())
def test_dual_frames_exist_are_equally_spaced_and_differ_between_neighbouring_epochs(data):
    half, epochs = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 60))
    length = data.draw(st.integers(epochs + half, 3000))
    epoch = data.draw(st.integers(0, epochs - 1))
    frames = dual_frames(length, epoch, epochs, 2 * half)
    assert len(frames) == half and frames[0] == epoch and frames[-1] < length
    assert set(np.diff(frames)) <= {(length - epochs) // half}
    if epoch + 1 < epochs:
        assert (dual_frames(length, epoch + 1, epochs, 2 * half) == frames + 1).all()


@given(st.data())
def test_various_frames_exist(data):
    epochs, n = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 40))
    length, epoch = data.draw(st.integers(epochs + 1, 3000)), data.draw(st.integers(0, epochs - 1))
    assert 0 <= various_frame(length, epoch, epochs, n) < length


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: dual_frames(300, 0, 30, 11), "even size of at least 2; received 11"),
        (lambda: dual_frames(300, 30, 30, 12), r"from 0 to total_epochs - 1 \(29\); received 30"),
        (lambda: dual_frames(35, 0, 30, 12), "35 frames is too short for 6 of them .* at least 36 frames"),
        (lambda: various_frame(30, 0, 30), "30 frames is too short for 30 epochs; expected at least 31"),
        (lambda: various_frame(300, -1, 30), "received -1"),
        (lambda: various_frame(300, 0, 30, n=0), "n must be at least 1; received 0"),
    ],
)
def test_what_the_formulas_cannot_take(call, told):
    with pytest.raises(ValueError, match=told):
        call()


def row(video, frame, label, source_id, track=0, box=(0, 0, 10, 10), method=None, compression="c23"):
    method = method or ("Deepfakes" if label else "original")
    name = f"{method}/{compression}/{video}/{frame}-{track}.png"
    return FaceRow(
        name, "ffpp", f"{method}/{video}", frame, 0.0, track, box, None, label, method, source_id, (), compression
    )


def test_a_fake_finds_the_original_that_its_first_source_names():
    rows = [row("519", 3, 0, ("519", "youtube_x")), row("515", 3, 0, ("515",)), row("519_515", 3, 1, ("519", "515"))]
    pairs, alone = pair_faces(rows)
    assert [(pair.fake.tolist(), pair.real.tolist()) for pair in pairs] == [([2], [0])]
    assert alone == 0


def test_each_original_serves_all_its_fakes_and_keeps_to_its_compression():
    rows = [row("1", 0, 0, ("1",), compression=c) for c in ("c23", "c40")]
    rows += [row("1_2", 0, 1, ("1", "2"), method=m, compression=c) for m in ("A", "B") for c in ("c23", "c40")]
    rows[0] = dataclasses.replace(rows[0], video="high")
    rows[1] = dataclasses.replace(rows[1], video="low")
    for position in (2, 4):
        rows[position] = dataclasses.replace(rows[position], video=f"{rows[position].video} high")
    pairs, _ = pair_faces(rows)
    assert sorted((pair.fake[0].item(), pair.real[0].item()) for pair in pairs) == [(2, 0), (3, 1), (4, 0), (5, 1)]


def test_frames_are_the_nearest_and_people_those_in_the_same_place():
    left, right = (0, 0, 10, 10), (100, 0, 10, 10)
    rows = [row("1", 12, 0, ("1",), 0, left), row("1", 12, 0, ("1",), 1, right), row("1", 40, 0, ("1",), 0, left)]
    # Tracks of the fake are counted the other way round, and its frames are a little off.
    rows += [row("1_2", 10, 1, ("1", "2"), 0, (101, 1, 10, 10)), row("1_2", 10, 1, ("1", "2"), 1, (1, 1, 10, 10))]
    rows += [row("1_2", 30, 1, ("1", "2"), 1, left), row("1_2", 80, 1, ("1", "2"), 1, left)]
    rows += [row("1_2", 11, 1, ("1", "2"), 2, (50, 50, 5, 5))]
    pairs, alone = pair_faces(rows)
    assert [(pair.fake.tolist(), pair.real.tolist()) for pair in pairs] == [([3], [1]), ([4, 5], [0, 2])]
    assert alone == 2  # frame 80 is too far from any, and nobody stands at (50, 50)


def test_fakes_without_an_original_are_counted():
    assert pair_faces([row("1_2", 0, 1, ("1", "2")), row("3", 0, 0, ("3",))]) == ([], 1)


def test_an_original_that_could_be_another_is_an_error():
    rows = [row("a", 0, 0, ("id0",)), row("b", 0, 0, ("id0",)), row("x", 0, 1, ("id0", "id1"))]
    with pytest.raises(ValueError, match="Deepfakes/x could be made from original/a or original/b"):
        pair_faces(rows)
