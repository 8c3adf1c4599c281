"""Work folders: another spelling of the same request goes on, another request is refused; whole sets of any size."""

import json
import os
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from tests.made_faces import make_faces
from tfdfd.cli.output import tracked
from tfdfd.data import pair_sets
from tfdfd.data.crops import Faces, faces_of
from tfdfd.data.landmarks import OK, FaceLandmarks
from tfdfd.data.tables import FaceRow, IndexRow, read_table, write_table
from tfdfd.files import WorkDir, differences
from tfdfd.recipes import find_recipe
from tfdfd.training.crop_set import CropSet
from tfdfd.training.run_folder import RunFolder, model_digests

SIDE = 16
COUNTS = (1, 99, 100, 101, 200)


def write_crops(folder, count, label=0, digests=True):
    """Tiny crops, each of its own video, and their `faces.csv`; every fourth is for validation."""
    (folder / "crops").mkdir(parents=True)
    rows = []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        data = cv2.imencode(".png", pixels)[1].tobytes()
        name = f"crops/{number:04}.png"
        (folder / name).write_bytes(data)
        split = "train" if number % 4 else "val"
        rows.append(FaceRow(name, "made", f"{number}.mp4", 0, 0.0, 0, (0, 0, 9, 9), None, label, "m", (f"v{number}",)))
        rows[-1] = replace(rows[-1], split=split)
    if digests:
        rows = Faces(folder, tuple(rows)).with_digests().rows
    write_table(folder / "faces.csv", rows, FaceRow)
    return folder


@pytest.fixture
def whole_pairs(monkeypatch):
    """Blending and swapping of any crops, without a detector."""
    box, points = (2.0, 2.0, 12.0, 12.0), ((4.0, 5.0), (11.0, 5.0), (8.0, 8.0), (5.0, 11.0), (11.0, 11.0))

    def found(faces, table=None, detector=None):
        return {row.file: FaceLandmarks(row.file, row.sha256, OK, 0.9, box, points) for row in faces.rows}

    pair = np.zeros((2, SIDE, SIDE, 3), np.uint8)
    monkeypatch.setattr(pair_sets, "landmarks_of", found)
    for kind in (pair_sets.BlendedPairs, pair_sets.SwappedPairs):
        monkeypatch.setattr(kind, "pair", lambda self, number, epoch=None: pair)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("verb", ["blend", "swap"])
def test_a_set_of_any_size_has_its_table(tmp_path, run_tfdfd, whole_pairs, verb, count):
    write_crops(tmp_path / "faces", count)
    if verb == "swap":
        if count == 1:
            pytest.skip("a swap needs two people")
        pytest.importorskip("scipy")
        rows = [replace(row, split="val") for row in read_table(tmp_path / "faces/faces.csv", FaceRow)]
        write_table(tmp_path / "faces/faces.csv", rows, FaceRow)
    words = ["data", verb, tmp_path / "faces", "-o", tmp_path / "set", "--size", SIDE, "--quiet"]
    words += ["--splits", "val"] if verb == "swap" else []
    code, out, err = run_tfdfd(*words)
    assert code == 0, err
    assert f"{count} real crops" in out
    faces = faces_of(tmp_path / "set")
    assert len(faces.rows) == 2 * count and all(os.path.isfile(faces.path(n)) for n in range(2 * count))


@pytest.mark.parametrize("count", [64, 100, 256])
def test_every_verb_that_works_in_parts_ends_whole(tmp_path, run_tfdfd, count):
    faces = write_crops(tmp_path / "faces", count)
    assert run_tfdfd("srm", faces, "-o", tmp_path / "noise", "--quiet")[0] == 0
    assert len(faces_of(tmp_path / "noise").rows) == count
    assert json.loads((tmp_path / "noise/run.json").read_text())["counts"]["crops"] == count
    assert run_tfdfd("merge", faces, tmp_path / "noise", "-o", tmp_path / "all.csv")[0] == 0
    assert len(read_table(tmp_path / "all.csv", FaceRow)) == 2 * count
    assert run_tfdfd("pack", faces, "-o", tmp_path / "shards", "--quiet")[0] == 0
    assert json.loads((tmp_path / "shards/shards.json").read_text())["complete"]


def test_an_extraction_of_a_hundred_has_its_table(tmp_path, run_tfdfd):
    faces = write_crops(tmp_path / "faces", count := 100)
    rows = [IndexRow(row.file, "made", "image", 0, "original", row.source_id) for row in faces_of(faces).rows]
    write_table(tmp_path / "index.csv", rows, IndexRow)
    words = [
        "extract",
        tmp_path / "index.csv",
        "--root",
        faces,
        "-o",
        tmp_path / "cut",
        "--detector",
        "none",
        "--quiet",
    ]
    assert run_tfdfd(*words, "--size", SIDE)[0] == 0
    assert len(faces_of(tmp_path / "cut").rows) == count


def test_what_a_generator_does_after_its_last_item_is_done():
    ended = []

    def work():
        yield from range(3)
        ended.append(True)

    assert list(tracked(work(), 3, str, quiet=True)) == [0, 1, 2] and ended
    assert list(tracked(iter([None, 0]), 1, str, quiet=True)) == [None, 0]


def spellings(folder, base):
    """Ways to name a folder from `base`, through a link too."""
    link = base / "a-link"
    link.symlink_to(folder, target_is_directory=True)
    name = os.path.relpath(folder, base)
    return [name, f"./{name}/", str(folder), f"{link.name}", str(link) + "/", os.path.join(name, "..", folder.name)]


@pytest.mark.parametrize("verb", ["srm", "blend"])
def test_every_spelling_of_a_path_goes_on(tmp_path, run_tfdfd, whole_pairs, monkeypatch, verb):
    faces = write_crops(tmp_path / "faces", 3)
    monkeypatch.chdir(tmp_path)
    words = {"srm": ["srm"], "blend": ["data", "blend", "--size", SIDE]}[verb]
    for where in spellings(faces, tmp_path):
        code, _, err = run_tfdfd(*words, where, "-o", "out", "--quiet")
        assert code == 0, (where, err)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run_tfdfd(*words, "../faces/faces.csv", "-o", "../out", "--quiet")[0] == 0
    rows = read_table(faces / "faces.csv", FaceRow)
    cv2.imwrite(str(faces / rows[0].file), np.zeros((SIDE, SIDE, 3), np.uint8))
    write_table(
        faces / "faces.csv", Faces(faces, (replace(rows[0], sha256=None), *rows[1:])).with_digests().rows, FaceRow
    )
    code, _, err = run_tfdfd(*words, faces, "-o", tmp_path / "out", "--quiet")
    assert code == 2 and "was started with other settings: " in err and "_sha256 was" in err


def test_a_run_is_known_by_its_data_and_models_wherever_they_lie(tmp_path, monkeypatch):
    make_faces(tmp_path / "faces", videos=12, frames=1, side=SIDE)
    (tmp_path / "base.safetensors").write_bytes(b"one")
    monkeypatch.chdir(tmp_path)

    def begin(where, weights, **more):
        recipe = find_recipe("s1-meso4").changed([f"weights={weights}"])
        with RunFolder(tmp_path / "run", recipe, CropSet(where, recipe, SIDE).digests(), "tensorflow", more):
            pass

    begin("faces", "base.safetensors")
    for where in [*spellings(tmp_path / "faces", tmp_path), tmp_path / "faces/faces.csv"]:
        begin(where, tmp_path / "base.safetensors")
    shutil.copytree("faces", "moved")
    shutil.copy("base.safetensors", "copy.safetensors")
    begin("moved", "./copy.safetensors")
    with pytest.raises(ValueError, match="was started with other settings: models.weights was"):
        begin("faces", "imagenet:base.safetensors")
    (tmp_path / "base.safetensors").write_bytes(b"two")
    with pytest.raises(ValueError, match=r"was started with other settings: models.weights was '\w{64}', now '\w{64}'"):
        begin("faces", "base.safetensors")
    rows = read_table("moved/faces.csv", FaceRow)
    write_table("moved/faces.csv", [replace(row, label=1 - row.label) for row in rows], FaceRow)
    with pytest.raises(ValueError, match="was started with other settings: data.rows_sha256 was"):
        begin("moved", "copy.safetensors")


def test_a_set_without_digests_is_known_by_its_files(tmp_path):
    make_faces(tmp_path, videos=12, frames=1, side=SIDE)
    rows = [replace(row, sha256=None) for row in read_table(tmp_path / "faces.csv", FaceRow)]
    write_table(tmp_path / "faces.csv", rows, FaceRow)
    recipe = find_recipe("s1-meso4")
    before = CropSet(tmp_path, recipe, SIDE).digests()
    file = tmp_path / rows[0].file
    pixels = cv2.imread(str(file))
    cv2.imwrite(str(file), pixels[::-1])
    with pytest.raises(ValueError, match="it has changed: rows_sha256 was"):
        CropSet(tmp_path, recipe, SIDE).refuse_other(before, "it has changed")


def test_models_are_told_by_digest_and_how_they_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    for name in ("run/weights.safetensors", "run/run.json", "w.h5"):
        (tmp_path / name).write_bytes(b"x")
    recipe = find_recipe("s1-meso4").changed(["weights=imagenet:w.h5", "teacher=run", "members=tfdfd/meso4.df,absent"])
    told = model_digests(recipe)
    assert told["weights"].startswith("imagenet:2d711642") and told["teacher"].startswith("2d711642")
    assert told["members.0"].startswith("036ed30d") and told["members.1"] == "absent"
    assert model_digests(find_recipe("s1-meso4")) == {}


def test_a_work_folder_holds_one_request(tmp_path):
    request = {"a": 1, "data": {"folder": "f", "sha": "0"}}
    begun = WorkDir(tmp_path / "w", "tfdfd x", request, holds="x", places={"data.folder"})
    with begun, pytest.raises(ValueError, match="another 'tfdfd x' is at work"):
        WorkDir(tmp_path / "w", "tfdfd x", request, holds="x")
    (tmp_path / "w/.tfdfd-0.tmp").touch()
    again = {"a": 1, "data": {"folder": "/elsewhere/f", "sha": "0"}}
    with WorkDir(tmp_path / "w", "tfdfd x", again, holds="x", places={"data.folder"}) as work:
        assert work.before["data"]["folder"] == "f" and os.listdir(work.path) == ["run.json"]
    with pytest.raises(
        ValueError, match="was started with other settings: data.sha was '0', now '1'. Repeat those to resume"
    ):
        WorkDir(tmp_path / "w", "tfdfd x", {"data": {"sha": "1"}}, holds="x", places={"data.folder"})
    for content, words in ((b"{", "JSONDecodeError"), (b"[]", "a list where an object is expected")):
        (tmp_path / "w/run.json").write_bytes(content)
        with pytest.raises(ValueError, match=f"run.json is not a record of a x: {words}"):
            WorkDir(tmp_path / "w", "tfdfd x", {"a": 1}, holds="x")
    assert differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 2}, "c": 3}, ["c"]) == "a.b was 1, now 2"


def test_a_folder_stands_for_its_table_in_every_verb(tmp_path, run_tfdfd, monkeypatch):
    make_faces(tmp_path / "faces", videos=12, frames=1, side=SIDE)
    monkeypatch.chdir(tmp_path)
    for where in ("faces", "faces/", "faces/faces.csv"):
        assert run_tfdfd("split", where, "-o", "split.csv", "--no-crops")[0] == 0
        assert run_tfdfd("check-leaks", where, "--no-crops")[0] == 0
        assert run_tfdfd("merge", where, "-o", "merged.csv")[0] == 0
    assert len(read_table("split.csv", FaceRow)) == len(read_table("merged.csv", FaceRow)) == 12
    os.rename("faces/faces.csv", "faces/split.csv")
    code, _, err = run_tfdfd("split", "faces", "-o", "s.csv")
    assert code == 2 and "the folder faces has no faces.csv; it has split.csv: give one of them" in err
    with pytest.raises(ValueError, match="facs holds no face crops; .* There is no 'facs' in .*; did you mean faces?"):
        faces_of("facs")


def test_a_table_without_splits_names_the_one_beside_it_that_has_them(tmp_path):
    make_faces(tmp_path, videos=12, frames=1, side=SIDE)
    os.rename(tmp_path / "faces.csv", tmp_path / "split.csv")
    write_table(
        tmp_path / "faces.csv", [replace(r, split=None) for r in read_table(tmp_path / "split.csv", FaceRow)], FaceRow
    )
    with pytest.raises(ValueError, match=r"has no crop of split 'train' .*split.csv has some: give that table"):
        faces_of(tmp_path, "train")
