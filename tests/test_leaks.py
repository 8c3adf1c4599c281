"""Leaks: names, files and pictures in several splits are found and named; what only looks alike is not."""

import json
import os
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdfd.data.leaks import (
    ALIKE,
    MIRROR,
    MIRROR_DETAIL,
    NEAR,
    Fingerprints,
    distances,
    find_leaks,
    fingerprint,
    fingerprint_files,
    likeness,
    near_pairs,
    refuse_leaks,
    same_pictures,
)
from tfdfd.data.splits import groups, split
from tfdfd.data.tables import FaceRow, IndexRow, write_table


def face_row(file, split=None, sources=None, identity=(), dataset="celebdf", sha256=None, label=0):
    sources = (file,) if sources is None else sources
    box = (0, 0, 9, 9)
    return FaceRow(file, dataset, file, 0, 0.0, 0, box, None, label, "original", sources, identity, None, split, sha256)


def as_np(numbers):
    return np.array(numbers, np.uint64)


@pytest.fixture(scope="module")
def picture():
    """A grey picture with structure at every scale, like none of another seed."""

    def make(seed, side=96):
        rng = np.random.default_rng(seed)
        layers = [cv2.resize(rng.normal(0, 60 / n**0.5, (n, n)), (side, side), interpolation=3) for n in (3, 6, 12, 24)]
        return np.clip(128 + sum(layers), 0, 255).astype(np.uint8)

    return make


def test_one_identity_in_two_splits_is_named():
    rows = [
        face_row("a.png", "train", identity=("id7", "id1")),
        face_row("b.png", "train", identity=("id7",)),
        face_row("c.png", "test", identity=("id7",)),
        face_row("d.png", "test", identity=("id2",)),
        face_row("e.png", "train", identity=("id2",), dataset="dfdc"),
        face_row("f.png", None, identity=("id1",)),
    ]
    (leak,) = find_leaks(rows)
    assert (leak.kind, leak.name, leak.dataset) == ("identity", "id7", "celebdf")
    assert leak.where == (("train", 2, "a.png"), ("test", 1, "c.png"))
    assert str(leak) == "identity celebdf id7: train (2 rows, a.png); test (1 row, c.png)"


def test_sources_videos_and_files():
    rows = [
        face_row("a.png", "train", ("v1",), sha256="aa"),
        face_row("b.png", "val", ("v1", "v2"), sha256="bb"),
        face_row("c.png", "test", (), sha256="aa"),
        replace(face_row("d.png", "val", ()), video="c.png"),
        IndexRow("f.mp4", "ffpp", "video", 1, "x", (), original="r.mp4", split="val"),
        IndexRow("r.mp4", "ffpp", "video", 0, "original", (), split="train"),
    ]
    found = {(leak.kind, leak.dataset, leak.name): [split for split, *_ in leak.where] for leak in find_leaks(rows)}
    assert found == {
        ("source", "celebdf", "v1"): ["train", "val"],
        ("video", "celebdf", "c.png"): ["val", "test"],
        ("video", "ffpp", "r.mp4"): ["train", "val"],
        ("file", None, "aa"): ["train", "test"],
    }


def test_a_split_of_ours_has_none_and_refuse_leaks_refuses_others():
    rows = [face_row(f"{n}.png", sources=(f"{n // 3}",), identity=(f"{n // 6}",)) for n in range(120)]
    done = split(rows)
    assert find_leaks(done) == []
    refuse_leaks(done)
    moved = [
        replace(row, split={"train": "test"}.get(row.split, "train")) if n == 0 else row for n, row in enumerate(done)
    ]
    with pytest.raises(ValueError, match=r"2 names or files are in several splits.*identity celebdf 0.*tfdfd split"):
        refuse_leaks(moved)
    refuse_leaks(moved, allow=True)


hashes = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=30)
bit = st.integers(0, 63)


def detailed(seed):
    return np.random.default_rng(seed).integers(0, 256, (64, 64), np.uint8)


@settings(max_examples=150, deadline=None)
@given(hashes, st.data(), st.integers(0, 15))
def test_near_pairs_are_those_of_brute_force(left, data, distance):
    # Random hashes are never near; so some of the right are left ones with a few bits turned.
    turned = st.builds(
        lambda number, bits: number ^ sum(1 << bit for bit in bits),
        st.sampled_from(left),
        st.sets(st.integers(0, 63), max_size=18),
    )
    right = data.draw(st.lists(turned, min_size=1, max_size=30))
    expected = {
        (i, j, bin(one ^ other).count("1"))
        for i, one in enumerate(left)
        for j, other in enumerate(right)
        if bin(one ^ other).count("1") <= distance
    }
    found = [
        triple
        for block in near_pairs(as_np(left), as_np(right), distance)
        for triple in zip(*(part.tolist() for part in block), strict=True)
    ]
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_100000_hashes_in_seconds_and_the_same_as_brute_force():
    rng = np.random.default_rng(0)
    left = rng.integers(0, 2**63, 70_000, dtype=np.uint64)
    right = rng.integers(0, 2**63, 30_000, dtype=np.uint64)
    right[:500] = left[:500]
    for _ in range(NEAR + 2):  # some within reach, some beyond it
        right[:500] ^= np.uint64(1) << rng.integers(0, 64, 500).astype(np.uint64)
    start = time.process_time()
    found = [np.stack([i, j]) for i, j, _ in near_pairs(left, right, NEAR)]
    assert time.process_time() - start < 10
    found = {tuple(pair) for pair in np.concatenate(found, axis=1).T.tolist()}
    expected = set()
    for j in range(0, 1000):
        expected |= {(i, j) for i in np.flatnonzero(distances(left, right[j]) <= NEAR).tolist()}
    assert {pair for pair in found if pair[1] < 1000} == expected
    assert 0 < len(expected) < 500


def test_many_equal_hashes_come_in_blocks():
    blocks = list(near_pairs(np.zeros(3000, np.uint64), np.zeros(3000, np.uint64), 0))
    assert sum(len(rows) for rows, _, _ in blocks) == 9_000_000
    assert max(len(rows) for rows, _, _ in blocks) < 2_000_000


def test_distance_out_of_range():
    with pytest.raises(ValueError, match="distance is 16; expected 0 to 15"):
        list(near_pairs(as_np([0]), as_np([0]), 16))


def test_a_mirrored_picture_has_the_mirrored_fingerprint(picture):
    for seed in range(5):
        image = picture(seed)
        (one, detail), (other, mirrored) = fingerprint(image), fingerprint(np.ascontiguousarray(image[:, ::-1]))
        assert distances(as_np([one ^ MIRROR]), as_np([other]))[0] <= 1
        assert np.abs(detail * MIRROR_DETAIL - mirrored).max() < 0.002


def test_flat_pictures_have_no_fingerprint_and_others_are_refused():
    assert fingerprint(np.full((64, 64), 90, np.uint8)) is None
    with pytest.raises(ValueError, match="image is uint8 .9, 9, 3.; expected a gray picture"):
        fingerprint(np.zeros((9, 9, 3), np.uint8))


@pytest.fixture
def crops(tmp_path, picture):
    """Three pictures for training; copies of them, altered, and others for the test."""
    images = {f"train/{n}.png": picture(n) for n in range(3)}
    one, two, three = images.values()
    images |= {
        "test/small.png": cv2.resize(one, (48, 48), interpolation=cv2.INTER_AREA),
        "test/mirrored.png": cv2.convertScaleAbs(two[:, ::-1], alpha=0.9, beta=10),
        "test/shifted.png": three[1:, 1:],
        **{f"test/other{n}.png": picture(100 + n) for n in range(5)},
    }
    rows = []
    for name, image in images.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(file), image)
        rows.append(face_row(name, name.split("/")[0]))
    (tmp_path / "test" / "copy.png").write_bytes((tmp_path / "train" / "0.png").read_bytes())
    return tmp_path, [*rows, face_row("test/copy.png", "test")]


def test_pictures_are_found_small_mirrored_shifted_and_copied(crops):
    folder, rows = crops
    found = find_leaks(rows, fingerprint_files(rows, folder))
    pictures = {(leak.name, leak.where[1][2], leak.mirrored) for leak in found if leak.kind == "picture"}
    assert pictures == {
        ("test/small.png", "train/0.png", False),
        ("test/mirrored.png", "train/1.png", True),
        ("test/shifted.png", "train/2.png", False),
    }
    (file,) = [leak for leak in found if leak.kind == "file"]
    assert file.where == (("train", 1, "train/0.png"), ("test", 1, "test/copy.png"))


def test_the_same_pictures_are_found_between_groups_only(crops):
    folder, rows = crops
    names = [row.file for row in rows]
    looks = fingerprint_files(rows, folder)
    pairs = {(names[one], names[other]) for one, other in same_pictures(rows, groups(rows), looks)}
    assert pairs == {
        ("train/0.png", "test/copy.png"),
        ("train/0.png", "test/small.png"),
        ("train/1.png", "test/mirrored.png"),
        ("train/2.png", "test/shifted.png"),
        ("test/small.png", "test/copy.png"),
    }
    assert same_pictures(rows, ["one"] * len(rows), looks) == []
    assert same_pictures(rows, groups(rows)) == []
    digests = [replace(row, sha256=digest) for row, digest in zip(rows, looks.digests, strict=True)]
    assert same_pictures(digests, groups(digests)) == [(0, len(rows) - 1)]


@settings(max_examples=100, deadline=None)
@given(hashes, st.data())
def test_same_pictures_are_those_of_brute_force(numbers, data):
    """Hashes of few groups, many of them equal or near, and details of few kinds: every pair of groups is found."""
    near = st.builds(lambda number, bits: number ^ sum(1 << b for b in bits), st.sampled_from(numbers), st.sets(bit))
    numbers = numbers + data.draw(st.lists(near, min_size=1, max_size=20))
    count = len(numbers)
    belongs = data.draw(st.lists(st.integers(0, 5), min_size=count, max_size=count))
    kinds = data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    details = np.stack([fingerprint(detailed(kind))[1] for kind in range(3)])
    rows = [face_row(str(number)) for number in range(count)]
    looks = Fingerprints([None] * count, np.arange(count), as_np(numbers), details[kinds], [])
    expected = set()
    for i, one in enumerate(numbers):
        for j, other in enumerate(numbers):
            for flip, turn in ((0, 1), (int(MIRROR), MIRROR_DETAIL)):
                close = bin(one ^ flip ^ other).count("1") <= NEAR
                if close and likeness(details[[kinds[i]]] * np.float16(turn), details[[kinds[j]]])[0] >= ALIKE:
                    expected |= {frozenset([belongs[i], belongs[j]])}
    found = same_pictures(rows, belongs, looks)
    assert found == sorted(found) and all(one < other for one, other in found)
    assert {frozenset([belongs[i], belongs[j]]) for i, j in found} == {pair for pair in expected if len(pair) == 2}
    assert len(found) == len({frozenset([belongs[i], belongs[j]]) for i, j in found})


def test_what_split_makes_of_copies_passes_check_leaks(crops, run_tfdfd):
    folder, rows = crops
    write_table(folder / "faces.csv", [replace(row, split=None) for row in rows], FaceRow)
    shares = ["--train", "0.5", "--test", "0.5"]
    for seed in range(4):
        words = ["split", folder / "faces.csv", "-o", folder / "split.csv", *shares, "--seed", seed]
        code, _, err = run_tfdfd(*words)
        assert (code, err) == (0, "")
        assert run_tfdfd("check-leaks", folder / "split.csv")[0] == 0
    failed = []
    for seed in range(4):
        words = ["split", folder / "faces.csv", "-o", folder / "split.csv", *shares, "--seed", seed, "--no-crops"]
        assert run_tfdfd(*words)[0] == 0
        failed.append(run_tfdfd("check-leaks", folder / "split.csv")[0])
    assert 1 in failed


def test_split_tells_what_it_could_not_read_and_what_the_preset_leaves_crossing(crops, run_tfdfd):
    folder, rows = crops
    (folder / "test" / "other0.png").write_bytes(b"no picture")
    free = [replace(row, split=None if row.split == "train" else "test") for row in rows]
    write_table(folder / "faces.csv", free, FaceRow)
    words = ["split", folder / "faces.csv", "-o", folder / "split.csv", "--preset", "s4"]
    code, _, err = run_tfdfd(*words)
    assert code == 0
    assert "not compared: test/other0.png: no picture that can be decoded" in err
    assert "in several splits, so that check-leaks fails: 1 of kind file, 3 of kind picture" in err
    assert run_tfdfd("check-leaks", folder / "split.csv")[0] == 1


def test_unreadable_crops_are_named(crops):
    folder, rows = crops
    (folder / "test" / "small.png").write_bytes(b"no picture")
    (folder / "test" / "shifted.png").write_bytes(b"")
    os.remove(folder / "test" / "copy.png")
    looks = fingerprint_files(rows, folder)
    assert [told.split(":")[0] for told in looks.unread] == ["test/small.png", "test/shifted.png", "test/copy.png"]
    assert "No such file" in looks.unread[2] and "no picture that can be decoded" in looks.unread[0]
    assert {leak.name for leak in find_leaks(rows, looks)} == {"test/mirrored.png"}


def test_verb_fails_with_the_names(crops, run_tfdfd):
    folder, rows = crops
    rows = [replace(row, identity=("id3",)) if n in (0, 4) else row for n, row in enumerate(rows)]
    write_table(folder / "faces.csv", rows, FaceRow)
    code, out, _ = run_tfdfd("check-leaks", folder / "faces.csv", "--list", "1")
    assert code == 1
    assert "identity celebdf id3: train (1 row, train/0.png); test (1 row, test/mirrored.png)" in out
    assert "… and 2 more of kind picture" in out
    assert out.splitlines()[-1].startswith("LEAKS: 1 of kind identity, 1 of kind file, 3 of kind picture (12 rows, 12 ")
    code, out, _ = run_tfdfd("check-leaks", folder / "faces.csv", "--json", "-")
    answer = json.loads(out)
    assert code == 1 and answer["totals"] == {"identity": 1, "file": 1, "picture": 3}
    assert answer["leaks"][0]["where"][0] == {"split": "train", "rows": 1, "file": "train/0.png"}
    code, out, _ = run_tfdfd("check-leaks", folder / "faces.csv", "--no-crops")
    assert code == 1 and "LEAKS: 1 of kind identity (12 rows, 0 pictures compared)" in out


def test_verb_on_clean_partly_read_and_unusable_tables(crops, run_tfdfd):
    folder, rows = crops
    clean = [row for row in rows if "other" in row.file or "train" in row.file]
    write_table(folder / "faces.csv", clean, FaceRow)
    assert run_tfdfd("check-leaks", folder / "faces.csv")[:2] == (0, "no leaks (8 rows, 8 pictures compared)\n")
    os.remove(folder / "test" / "other1.png")
    code, out, err = run_tfdfd("check-leaks", folder / "faces.csv")
    assert code == 3 and "1 not readable" in out and "test/other1.png: No such file" in err
    (folder / "empty").mkdir()
    code, _, err = run_tfdfd("check-leaks", folder / "faces.csv", "--crops", folder / "empty")
    assert code == 2 and "none of the 8 files" in err and "--no-crops" in err
    write_table(folder / "faces.csv", [replace(row, split=None) for row in clean], FaceRow)
    code, _, err = run_tfdfd("check-leaks", folder / "faces.csv")
    assert code == 2 and "no row of" in err and "tfdfd split" in err
    index = [IndexRow("a.mp4", "dfdc", "video", 0, "original", ("a",), split="train")]
    write_table(folder / "index.csv", index, IndexRow)
    assert run_tfdfd("check-leaks", folder / "index.csv")[0] == 0


def test_no_false_alarm_on_different_photographs(data):
    """What is found in photographs of different people is one photograph twice, of which this set has some."""
    folder = data / "faces" / "utkface_adults"
    files = sorted(name for name in os.listdir(folder) if name.endswith(".jpg"))[:1500]
    rows = [face_row(name, ("train", "test")[n % 2]) for n, name in enumerate(files)]
    found = [leak for leak in find_leaks(rows, fingerprint_files(rows, folder)) if leak.kind == "picture"]
    # Looked at: 63 pairs of all 5,393 photographs are found, all of them one photograph twice.
    for leak in found:
        assert leak.likeness > 0.9
        one, other = (cv2.imread(str(folder / file), cv2.IMREAD_GRAYSCALE) for _, _, file in leak.where)
        other = other[:, ::-1] if leak.mirrored else other
        one, other = (cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA).ravel() for image in (one, other))
        assert np.corrcoef(one, other)[0, 1] > 0.9
    assert 1 <= len(found) <= 20


def test_altered_photographs_are_found(data, tmp_path):
    folder = data / "faces" / "utkface_adults"
    files = sorted(name for name in os.listdir(folder) if name.endswith(".jpg"))[::60]
    rng = np.random.default_rng(0)
    alterations = {
        "jpeg": lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 20])[1], 0),
        "half": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
        "noise": lambda image: np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8),
        "shift": lambda image: image[2:, 2:],
        "mirror": lambda image: np.ascontiguousarray(image[:, ::-1]),
    }
    rows = [face_row(name, "train") for name in files]
    looks = fingerprint_files(rows, folder)
    for name, alter in alterations.items():
        altered = tmp_path / name
        altered.mkdir()
        for file in files:
            cv2.imwrite(str(altered / f"{file}.png"), alter(cv2.imread(str(folder / file), cv2.IMREAD_GRAYSCALE)))
        others = [face_row(f"{file}.png", "test") for file in files]
        seen = fingerprint_files(others, altered)
        both = replace(
            looks,
            digests=looks.digests + seen.digests,
            numbers=np.concatenate([looks.numbers, seen.numbers + len(rows)]),
            hashes=np.concatenate([looks.hashes, seen.hashes]),
            details=np.concatenate([looks.details, seen.details]),
        )
        found = {leak.name: leak for leak in find_leaks(rows + others, both)}
        right = sum(
            leak.where[1][2] + ".png" == file and leak.mirrored == (name == "mirror") for file, leak in found.items()
        )
        assert right >= 0.97 * len(files), name
