"""From a data set to batches by the command line: index, extract, split, check-leaks, and pipelines at their end."""

import json
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from tfdfd.data.index.datasets import official
from tfdfd.data.tables import FaceRow, IndexRow, read_table

SIDE = 16
COUNT = 1000


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """A thousand tiny clips, no two of which look alike: bytes to be put under any name."""
    folder = tmp_path_factory.mktemp("clips")
    return [tiny_clip(folder / f"{number}.avi", number) for number in range(COUNT)]


def tiny_clip(file, seed):
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    frame = cv2.resize(noise, (64, 64), interpolation=cv2.INTER_CUBIC)
    video = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 64))
    for shift in range(2):
        video.write(np.roll(frame, shift, axis=1))
    video.release()
    return file.read_bytes()


def ffpp_tree(count):
    """Both clips of official pairs of each split and ten fakes of them; scenes of actors and swaps between two."""
    pairs = {}
    for clips, split in official()["split"].items():
        if len(clips) == 2 and not any(clip in official()["youtube"] for clip in clips):
            pairs.setdefault(split, []).append(sorted(clips))
    mixed = [pair for trio in zip(*pairs.values(), strict=False) for pair in trio]
    paths = []
    for scene, (one, other) in enumerate(mixed):
        paths += [f"original_sequences/youtube/c23/videos/{clip}.mp4" for clip in (one, other)]
        for method in ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter"):
            names = (f"{one}_{other}", f"{other}_{one}")
            paths += [f"manipulated_sequences/{method}/c23/videos/{name}.mp4" for name in names]
        if scene < 14:
            actors = f"{2 * scene + 1:02}", f"{2 * scene + 2:02}"
            paths += [f"original_sequences/actors/c23/videos/{actor}__hugging_happy.mp4" for actor in actors]
            name = f"{'_'.join(actors)}__hugging_happy__KWGI1LSZ"
            paths.append(f"manipulated_sequences/DeepFakeDetection/c23/videos/{name}.mp4")
    return {path: int(path.startswith("manipulated")) for path in paths[:count]}


def celebdf_tree(count):
    """Couples of celebrities, two videos of each and two swaps; a stranger for each couple."""
    paths = []
    for couple in range(-(-count // 7)):
        one, other = f"id{2 * couple}", f"id{2 * couple + 1}"
        paths += [f"Celeb-real/{name}_{video:04}.mp4" for name in (one, other) for video in range(2)]
        paths += [f"Celeb-synthesis/{one}_{other}_{video:04}.mp4" for video in range(2)]
        paths.append(f"YouTube-real/{couple:05}.mp4")
    return {path: int(path.startswith("Celeb-synthesis")) for path in paths[:count]}


def dfdc_tree(count):
    """Parts of fifty: originals, each with four fakes."""
    names = [f"dfdc_train_part_{n // 50}/v{n:05}.mp4" for n in range(count)]
    return {name: int(n % 5 > 0) for n, name in enumerate(names)}


def folder_tree(count):
    return {f"{'fake' if n % 2 else 'real'}/some/v{n:05}.mp4": n % 2 for n in range(count)}


TREES = {"ffpp": ffpp_tree, "celebdf": celebdf_tree, "dfdc": dfdc_tree, "folder": folder_tree}


def make_tree(root, dataset, clips):
    """The layout of a data set with these clips; returns what is real (0) and fake (1)."""
    labels = TREES[dataset](len(clips))
    for path, content in zip(labels, clips, strict=True):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    if dataset == "dfdc":
        parts = {}
        for n, (path, label) in enumerate(labels.items()):
            part, name = path.split("/")
            original = f"v{n // 5 * 5:05}.mp4" if label else None
            entry = {"label": "FAKE" if label else "REAL", "split": "train", "original": original}
            parts.setdefault(part, {})[name] = entry
        for part, entries in parts.items():
            (root / part / "metadata.json").write_text(json.dumps(entries))
    if dataset == "celebdf":
        listed = [f"{1 - label} {path}\n" for n, (path, label) in enumerate(labels.items()) if n // 7 % 4 == 0]
        (root / "List_of_testing_videos.txt").write_text("".join(listed))
    return labels


def to_faces(run_tfdfd, work, dataset, root, index_words=(), extract_words=()):
    """index and extract: the index's rows and the folder of the face set."""
    code, _, err = run_tfdfd("index", dataset, root, "-o", work / "index.csv", *index_words)
    assert code == 0, err
    words = ["extract", work / "index.csv", "--root", root, "-o", work / "faces", "--quiet", "--workers", 2]
    code, out, err = run_tfdfd(*words, *extract_words)
    assert code == 0, out + err
    return read_table(work / "index.csv", IndexRow), work / "faces"


def to_splits(run_tfdfd, faces, *words, leaks=0):
    """split and check-leaks (which finds nothing, or with `leaks=1` people): the table's path and rows."""
    table = faces / "split.csv"
    code, _, err = run_tfdfd("split", faces / "faces.csv", "-o", table, *words)
    assert code == 0, err
    code, out, _ = run_tfdfd("check-leaks", table)
    assert code == leaks, out
    assert not leaks or out.splitlines()[-1].split(" (")[0].endswith("of kind identity")
    return table, read_table(table, FaceRow)


def assert_batches_are_the_rows(table, rows, label_of):
    """Training and evaluation give every crop of the split once, with the label of its video."""
    from tfdfd.pipelines.datasets import eval_pipeline, train_pipeline

    pipelines = {"train": lambda split: train_pipeline(table, SIDE, 32, split=split, seed=1, named=True)}
    pipelines |= dict.fromkeys(("val", "test"), lambda split: eval_pipeline(table, SIDE, 32, split=split, named=True))
    seen = Counter()
    for split in dict.fromkeys(row.split for row in rows):
        for batch in pipelines[split](split):
            assert batch["image"].shape[1:] == (SIDE, SIDE, 3)
            paths, videos, labels = (batch[key].numpy() for key in ("path", "video", "label"))
            for path, video, label in zip(paths, videos, labels.ravel(), strict=True):
                assert label == label_of(video.decode()), video
                seen[split, path.decode()] += 1
    assert seen == Counter({(row.split, row.file): 1 for row in rows})


@pytest.mark.parametrize("dataset", [pytest.param(d, marks=() if d == "ffpp" else pytest.mark.slow) for d in TREES])
def test_generated_tree_of_a_thousand(dataset, tmp_path, clips, run_tfdfd):
    root = tmp_path / "root"
    labels = make_tree(root, dataset, clips)
    words = ("--detector", "none", "--first", "--size", SIDE)
    index, faces = to_faces(run_tfdfd, tmp_path, dataset, root, (), words)
    assert {row.path: row.label for row in index} == labels
    table, rows = to_splits(run_tfdfd, faces, "--train", "0.6", "--val", "0.2", "--test", "0.2")
    assert sorted(row.video for row in rows) == sorted(labels)
    assert {row.split for row in rows} == {"train", "val", "test"}
    assert_batches_are_the_rows(table, rows, labels.__getitem__)
    if dataset == "ffpp":
        # What the data set splits itself stays; actors, whom it leaves out, are split by their scenes, and meet again.
        _, rows = to_splits(run_tfdfd, faces, "--preset", "s2", leaks=1)
        own = official()["split"]
        for row in rows:
            clips_of = frozenset(Path(row.video).stem.split("_"))
            assert clips_of not in own or row.split == own[clips_of]
    if dataset == "celebdf":
        # The official test list stays, the rest is split by videos: people meet again, their videos do not.
        _, rows = to_splits(run_tfdfd, faces, "--preset", "s4", leaks=1)
        assert {row.split for row in rows} == {"train", "val", "test"}
        split_of = {row.video: row.split for row in rows}
        fakes = [row for row in read_table(tmp_path / "index.csv", IndexRow) if row.label]
        assert all(split_of[row.path] == split_of[row.original] for row in fakes)


def test_real_ffpp(data, tmp_path, run_tfdfd):
    _, faces = to_faces(run_tfdfd, tmp_path, "ffpp", data / "videos" / "ffpp", (), ("--frames", 4, "--size", 64))
    table, rows = to_splits(run_tfdfd, faces, "--preset", "official")
    splits = {Path(row.video).stem: row.split for row in rows}
    assert splits == {"519": "train", "519_515": "train", "004": "val", "004_982": "val"}
    assert_batches_are_the_rows(table, rows, lambda video: int(video.startswith("manipulated")))


def test_real_dfdc(data, tmp_path, run_tfdfd):
    _, faces = to_faces(run_tfdfd, tmp_path, "dfdc", data / "videos" / "dfdc", (), ("--frames", 4, "--size", 64))
    table, rows = to_splits(run_tfdfd, faces, "--train", "0.5", "--val", "0.25", "--test", "0.25")
    assert len({row.video for row in rows}) == 4 and {row.split for row in rows} == {"train", "val", "test"}
    assert_batches_are_the_rows(table, rows, lambda video: int(Path(video).stem != "lynaeydofd"))


def test_real_crops(data, tmp_path, run_tfdfd):
    words = ("--detector", "none", "--size", 64)
    index, faces = to_faces(run_tfdfd, tmp_path, "folder", data / "crops", (), words)
    table, rows = to_splits(run_tfdfd, faces)
    assert len(rows) == len(index) == 28
    assert_batches_are_the_rows(table, rows, lambda video: int("/fake/" in video))


def test_photographs_that_are_all_real_become_a_set_without_leaks(data, tmp_path, run_tfdfd):
    """UTKFace for self-blending: no folder says real, no name tells a person, and some photographs are there twice."""
    root = tmp_path / "photographs"
    root.mkdir()
    some = sorted((data / "faces" / "utkface_adults").glob("*.jpg"))
    twice = ("18_1_0_20170109212914272.jpg.chip.jpg", "18_1_0_20170109212538216.jpg.chip.jpg")
    for file in [*some[::40], *(file for file in some if file.name in twice)]:
        shutil.copy(file, root)
    words = ("--detector", "none", "--size", 128, "--format", "jpg")
    index, faces = to_faces(run_tfdfd, tmp_path, "folder", root, ("--all", "real"), words)
    assert {(row.label, row.method, row.identity) for row in index} == {(0, "original", ())}
    assert len({row.source_id for row in index}) == len(index) == len(list(root.iterdir()))
    table, rows = to_splits(run_tfdfd, faces)
    assert len({row.split for row in rows if Path(row.video).name in twice}) == 1
    assert_batches_are_the_rows(table, rows, lambda video: 0)


def test_the_clone_of_a_face_set_goes_the_same_way(data, tmp_path, run_tfdfd):
    words = ("--detector", "none", "--size", 64)
    _, faces = to_faces(run_tfdfd, tmp_path, "folder", data / "crops", (), words)
    table, rows = to_splits(run_tfdfd, faces)
    noise = tmp_path / "noise"
    assert run_tfdfd("srm", table, "-o", noise)[0] == 0
    cloned = read_table(noise / "faces.csv", FaceRow)
    assert [(row.file, row.split, row.label) for row in cloned] == [(row.file, row.split, row.label) for row in rows]
    assert_batches_are_the_rows(noise, cloned, lambda video: int("/fake/" in video))
