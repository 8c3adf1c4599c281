"""Indexing data sets: each layout as it is downloaded, whole and broken, and the checked summary."""

import json
import os
import re
import time
from pathlib import Path

import pytest

from tfdfd.data.index import INDEXERS, index
from tfdfd.data.index.datasets import official
from tfdfd.data.index.folder import source_of
from tfdfd.data.index.layout import summarize
from tfdfd.data.splits import groups
from tfdfd.data.tables import IndexRow, read_table

FAKE_METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter")


def put(root, *paths, content=None):
    """Small files; each has a size or content of its own unless `content` is given."""
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.encode("utf-8", "surrogateescape") if content is None else content)


def rows_of(dataset, root):
    return {row.path: row for row in index(dataset, root)}


def ffpp_paths(clips=24):
    """Original clips, all fakes and DeepFakeDetection in three compressions, with masks: 1,000 files and more."""
    pairs = [pair for pair in official()["split"] if len(pair) == 2][:clips]
    names = [name for pair in pairs for name in ("_".join(sorted(pair)), "_".join(sorted(pair, reverse=True)))]
    for compression in ("raw", "c23", "c40"):
        for clip in {clip for pair in pairs for clip in pair}:
            yield f"original_sequences/youtube/{compression}/videos/{clip}.mp4"
        for method in FAKE_METHODS:
            for name in names:
                yield f"manipulated_sequences/{method}/{compression}/videos/{name}.mp4"
        for actor in range(1, 15):
            yield f"original_sequences/actors/{compression}/videos/{actor:02}__hugging_happy.mp4"
            fake = f"{actor:02}_{actor + 1:02}__hugging_happy__KWGI1LSZ"
            yield f"manipulated_sequences/DeepFakeDetection/{compression}/videos/{fake}.mp4"
    yield from (f"manipulated_sequences/Deepfakes/masks/videos/{name}.mp4" for name in names)


@pytest.fixture(scope="module")
def ffpp(tmp_path_factory):
    root = tmp_path_factory.mktemp("ffpp")
    put(root, *ffpp_paths())
    return root


def test_ffpp_tree(ffpp):
    rows = rows_of("ffpp", ffpp)
    assert len(rows) == 3 * (48 + 5 * 48 + 28)
    assert list(rows) == sorted(rows)
    assert not any("masks" in path for path in rows)
    assert {row.method for row in rows.values()} == {"original", "DeepFakeDetection", *FAKE_METHODS}
    assert {row.compression for row in rows.values()} == {"c0", "c23", "c40"}
    for path, row in rows.items():
        if row.label and row.method in FAKE_METHODS:
            target, face = Path(path).stem.split("_")
            assert row.source_id[:2] == (target, face)
            assert row.original == re.sub(
                f"manipulated_sequences/{row.method}", "original_sequences/youtube", path
            ).replace(f"{target}_{face}", target)
            assert row.split == rows[row.original].split is not None
            assert row.compression == rows[row.original].compression


def test_ffpp_scenes_of_actors_are_sources_and_actors_are_people(ffpp):
    rows = rows_of("ffpp", ffpp)
    fake = rows["manipulated_sequences/DeepFakeDetection/raw/videos/03_04__hugging_happy__KWGI1LSZ.mp4"]
    assert (fake.label, fake.compression, fake.split) == (1, "c0", None)
    assert fake.identity == ("03", "04")
    assert fake.original == "original_sequences/actors/raw/videos/03__hugging_happy.mp4"
    faces = rows["original_sequences/actors/raw/videos/04__hugging_happy.mp4"]
    assert faces.identity == ("04",)
    assert fake.source_id == rows[fake.original].source_id == ("03__hugging_happy",) != faces.source_id
    other = rows[fake.original.replace("raw", "c40")]
    assert other.source_id == fake.source_id


def test_the_official_split_is_whole():
    clips = {next(iter(names)): split for names, split in official()["split"].items() if len(names) == 1}
    assert sorted(clips) == [f"{number:03}" for number in range(1000)]
    assert {split: list(clips.values()).count(split) for split in set(clips.values())} == (
        {"train": 720, "val": 140, "test": 140}
    )
    for names, split in official()["split"].items():
        assert {clips[name] for name in names} == {split}


def test_ffpp_pairs_that_are_not_official(tmp_path):
    folder = "manipulated_sequences/Deepfakes/c23/videos"
    put(tmp_path, f"{folder}/000_001.mp4", f"{folder}/071_054.mp4", f"{folder}/054_071.mp4")
    rows = list(rows_of("ffpp", tmp_path).values())
    assert [row.split for row in rows] == [None, "train", "train"]
    assert [row.original for row in rows] == [None] * 3


def test_clips_of_one_youtube_video_share_a_source(tmp_path):
    put(tmp_path, *(f"original_sequences/youtube/c40/videos/{clip}.mp4" for clip in ("604", "605", "606")))
    other, one, two = rows_of("ffpp", tmp_path).values()
    assert set(one.source_id) & set(two.source_id) == {"youtube_nUNnFudF2pA"}
    assert not set(other.source_id) & set(one.source_id)
    assert (one.split, two.split) == ("train", "val")
    assert "of one YouTube video: youtube_nUNnFudF2pA;" in INDEXERS["ffpp"](tmp_path).notes[0]


def test_ffpp_counts_what_is_no_part_of_it(tmp_path):
    good = "manipulated_sequences/FaceSwap/c23/videos"
    put(tmp_path, f"{good}/004_982.mp4", f"{good}/4_982.mp4", f"{good}/x.txt", f"{good}/519_515.mp4.part")
    put(tmp_path, "manipulated_sequences/Deepfake/c23/videos/004_982.mp4", "elsewhere/001.mp4")
    put(tmp_path, f"{good}/003_000.mp4", content=b"")
    found = INDEXERS["ffpp"](tmp_path)
    assert {row.path: row.status for row in found.rows} == {
        f"{good}/003_000.mp4": "empty", f"{good}/004_982.mp4": "ok"
    }  # fmt: skip
    assert list(found.left_out.values()) == [
        ["manipulated_sequences/Deepfake/c23/videos/004_982.mp4"], [f"{good}/4_982.mp4"]
    ]  # fmt: skip
    assert [(share.present, share.official) for share in found.shares if share.what == "FaceSwap c23"] == [(1, 1000)]


def celebdf_paths():
    for person in range(40):
        yield from (f"Celeb-real/id{person}_{video:04}.mp4" for video in range(10))
        yield from (f"Celeb-synthesis/id{person}_id{(person + 1) % 40}_{video:04}.mp4" for video in range(10))
    yield from (f"YouTube-real/{video:05}.mp4" for video in range(300))


def test_celebdf_tree(tmp_path):
    put(tmp_path, *celebdf_paths())
    listed = ["1 Celeb-real/id0_0003.mp4", "0 Celeb-synthesis/id0_id1_0003.mp4", "1 YouTube-real/00170.mp4"]
    (tmp_path / "List_of_testing_videos.txt").write_bytes("\r\n".join(listed).encode() + b"\r\n")
    rows = rows_of("celebdf", tmp_path)
    assert len(rows) == 1100
    assert sorted(path for path, row in rows.items() if row.split == "test") == [line[2:] for line in listed]
    fake = rows["Celeb-synthesis/id0_id1_0003.mp4"]
    assert (fake.label, fake.method, fake.original) == (1, "Celeb-synthesis", "Celeb-real/id0_0003.mp4")
    assert fake.identity == ("id0", "id1")
    assert fake.source_id == rows[fake.original].source_id == ("id0_0003",)
    # People connect everything here, videos do not.
    assert len({row.source_id for row in rows.values() if row.identity == ("id1",)}) == 10
    assert len(set(groups(rows.values()))) == 1 + 300
    assert len(set(groups(rows.values(), by=("source",)))) == 400 + 300
    assert rows["YouTube-real/00170.mp4"].identity == ()
    assert rows["YouTube-real/00170.mp4"].source_id != rows["YouTube-real/00171.mp4"].source_id


def test_in_celebdfs_list_one_is_real(tmp_path):
    put(tmp_path, "Celeb-real/id0_0001.mp4")
    listing = tmp_path / "List_of_testing_videos.txt"
    listing.write_text("1 YouTube-real/00170.mp4\n0 Celeb-synthesis/id0_id1_0000.mp4\n")
    found = INDEXERS["celebdf"](tmp_path)
    assert [(row.path, row.label, row.status, row.split) for row in found.rows] == [
        ("Celeb-real/id0_0001.mp4", 0, "ok", "train"),
        ("Celeb-synthesis/id0_id1_0000.mp4", 1, "missing", "test"),
        ("YouTube-real/00170.mp4", 0, "missing", "test"),
    ]
    assert found.shares[-1].present == 0
    listing.write_text("0 YouTube-real/00170.mp4\n1 Celeb-synthesis/id0_id1_0000.mp4\n")
    with pytest.raises(ValueError, match=r"line 1: '0 YouTube-real/00170.mp4' contradicts its folder; .* 1 is real"):
        index("celebdf", tmp_path)


@pytest.mark.parametrize("line", ["YouTube-real/00170.mp4", "2 YouTube-real/00170.mp4", "1 ../x/00170.mp4", "1 00.mp4"])
def test_a_broken_test_list_says_where(tmp_path, line):
    put(tmp_path, "Celeb-real/id0_0001.mp4")
    (tmp_path / "List_of_testing_videos.txt").write_text(f"1 Celeb-real/id0_0001.mp4\n{line}\n")
    with pytest.raises(ValueError, match=rf"line 2: expected '1 YouTube-real/.* received '{re.escape(line)}'"):
        index("celebdf", tmp_path)


def dfdc_part(root, number, entries, extra=()):
    part = root / f"dfdc_train_part_{number}"
    part.mkdir(parents=True, exist_ok=True)
    (part / "metadata.json").write_text(json.dumps(entries), encoding="utf-8")
    put(part, *extra)
    return part


def real():
    return {"label": "REAL", "split": "train", "original": None}


def fake(original):
    return {"label": "FAKE", "split": "train", "original": original}


def test_dfdc_tree(tmp_path):
    for part in range(5):
        names = [f"p{part}v{video:03}.mp4" for video in range(200)]
        entries = {name: fake(names[number // 5 * 5]) if number % 5 else real() for number, name in enumerate(names)}
        dfdc_part(tmp_path, part, entries, names)
    rows = rows_of("dfdc", tmp_path)
    assert len(rows) == 1000
    assert sum(row.label for row in rows.values()) == 800
    for path, row in rows.items():
        if row.label:
            assert row.original.split("/")[0] == path.split("/")[0]
            assert row.source_id == rows[row.original].source_id == (Path(row.original).stem,)
            assert (row.method, row.split) == ("dfdc", "train")


def test_dfdc_missing_extra_and_unclear(tmp_path):
    entries = {
        "a.mp4": real(), "b.mp4": fake("a.mp4"), "gone.mp4": real(),
        "c.mp4": fake("gone.mp4"), "d.mp4": fake("never.mp4"), "e.mp4": {"label": "MAYBE"},
        "../f.mp4": real(), "g.mp4": fake("../../g.mp4"), "h.mp4": [], "\ud800.mp4": real(),
    }  # fmt: skip
    dfdc_part(tmp_path, 0, entries, ["a.mp4", "b.mp4", "c.mp4", "d.mp4", "e.mp4", "g.mp4", "unlisted.mp4"])
    put(tmp_path, "f.mp4")
    found = INDEXERS["dfdc"](tmp_path)
    rows = {Path(row.path).stem: row for row in found.rows}
    assert {name: row.status for name, row in rows.items()} == {
        "a": "ok", "b": "ok", "c": "ok", "d": "ok", "gone": "missing"
    }  # fmt: skip
    assert [rows[name].original for name in "bcd"] == ["dfdc_train_part_0/a.mp4", None, None]
    assert [rows[name].source_id for name in "bcd"] == [("a",), ("gone",), ("never",)]
    unclear, bare, unlisted = (found.left_out[reason] for reason in sorted(found.left_out))
    assert sorted(Path(path).name for path in unclear) == ["e.mp4", "f.mp4", "g.mp4", "h.mp4", "\ud800.mp4"]
    assert (bare, unlisted) == (["f.mp4"], ["dfdc_train_part_0/unlisted.mp4"])


def test_dfdc_names_in_two_parts_are_two_rows(tmp_path):
    dfdc_part(tmp_path, 0, {"a.mp4": real(), "b.mp4": fake("a.mp4")}, ["a.mp4", "b.mp4"])
    dfdc_part(tmp_path, 1, {"a.mp4": real(), "b.mp4": fake("a.mp4")}, ["a.mp4", "b.mp4"])
    dfdc_part(tmp_path, 2, {"c.mp4": fake("a.mp4"), "d.mp4": fake("only.mp4")}, ["c.mp4", "d.mp4"])
    dfdc_part(tmp_path, 3, {"only.mp4": real()}, ["only.mp4"])
    rows = rows_of("dfdc", tmp_path)
    assert len(rows) == 7
    assert [rows[f"dfdc_train_part_{part}/b.mp4"].original for part in (0, 1)] == [
        "dfdc_train_part_0/a.mp4", "dfdc_train_part_1/a.mp4"
    ]  # fmt: skip
    assert rows["dfdc_train_part_2/c.mp4"].original is None
    assert rows["dfdc_train_part_2/d.mp4"].original == "dfdc_train_part_3/only.mp4"


def test_dfdc_validation_and_test_sets(tmp_path):
    put(tmp_path, "validation/a.mp4", "validation/b.mp4", "validation/more.mp4", "test/c.mp4", "test/d.mp4")
    put(tmp_path, "test/both.mp4", "test/odd.mp4")
    lines = "filename,label\r\na.mp4,0\r\nb.mp4,1\r\ngone.mp4,1\r\n../a.mp4,1\r\nmore.mp4,2\r\nshort\r\n"
    (tmp_path / "validation/labels.csv").write_bytes(lines.encode())
    told = {"c.mp4": {"is_fake": 1, "augmentations": {}}, "d.mp4": {"is_fake": 0}, "both.mp4": {"is_fake": True}}
    (tmp_path / "test/metadata.json").write_text(json.dumps(told | {"odd.mp4": {"is_fake": 0.5}}))
    (tmp_path / "test/labels.csv").write_text("filename,label\nc.mp4,1\nboth.mp4,0\n")
    found = INDEXERS["dfdc"](tmp_path)
    assert {row.path: (row.label, row.method, row.split, row.source_id, row.status) for row in found.rows} == {
        "test/c.mp4": (1, "dfdc", "test", ("c",), "ok"),
        "test/d.mp4": (0, "original", "test", ("d",), "ok"),
        "validation/a.mp4": (0, "original", "val", ("a",), "ok"),
        "validation/b.mp4": (1, "dfdc", "val", ("b",), "ok"),
        "validation/gone.mp4": (1, "dfdc", "val", ("gone",), "missing"),
    }
    clear, contradicted = (found.left_out[reason] for reason in sorted(found.left_out))
    assert clear == ["test/odd.mp4", "validation/../a.mp4", "validation/more.mp4", "validation/short"]
    assert contradicted == ["test/both.mp4"]
    assert found.shares[-1].what == "videos listed in labels.csv and metadata.json"


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"filename,label\n\xff,1\n", b'filename,label\n"a.mp4'])
def test_dfdc_broken_labels_csv_leaves_the_other_parts(tmp_path, content):
    dfdc_part(tmp_path, 0, {"a.mp4": real()}, ["a.mp4"])
    put(tmp_path, "validation/b.mp4")
    (tmp_path / "validation/labels.csv").write_bytes(content)
    found = INDEXERS["dfdc"](tmp_path)
    assert [row.path for row in found.rows] == ["dfdc_train_part_0/a.mp4"]
    assert ["validation/b.mp4"] in found.left_out.values()


def test_dfdc_preview(tmp_path):
    one, two = "original_videos/1699158/1699158_A_001.mp4", "original_videos/1031393/1031393_A_002.mp4"
    swap = "method_A/1699158/1699158_1031393_A/1699158_1031393_A_001_0_qat.mp4"
    back = "method_B/1031393/1031393_1699158_A/1031393_1699158_A_009_1.mp4"
    people = {"target_id": 1699158, "swapped_id": 1031393}
    told = {
        one: {"label": "real", "set": "train", "target_id": 1699158, "swapped_id": None, "augmentations": []},
        two: {"label": "real", "set": "test"},
        swap: {"label": "fake", "set": "train", "augmentations": ["x"]} | people,
        back: {"label": "fake", "set": "test", "target_id": "1031393", "swapped_id": "1699158"},
        "../out.mp4": {"label": "real", "set": "train"},
        "method_A/x.mp4": {"label": "fake", "set": "train", "target_id": [1]},
        "a.mp4": {"label": "fake", "set": "train"},
    }
    root = tmp_path / "dfdc_preview_set"
    put(root, one, two, swap, back, "method_A/unlisted.mp4")
    (root / "dataset.json").write_text(json.dumps(told))
    for where, before in ((tmp_path, "dfdc_preview_set/"), (root, "")):
        found = INDEXERS["dfdc"](where)
        rows = {row.path.removeprefix(before): row for row in found.rows}
        assert sorted(rows) == sorted([one, two, swap, back])
        assert [rows[path].split for path in (one, two, swap, back)] == ["train", "test", "train", "test"]
        assert [rows[path].method for path in (one, two, swap, back)] == ["original"] * 2 + ["method_A", "method_B"]
        assert rows[swap].identity == ("1699158", "1031393")
        assert rows[one].identity == ("1699158",) and rows[two].identity == ("1031393",)
        assert rows[swap].original == before + one
        assert rows[swap].source_id == rows[one].source_id == ("1699158_A_001",)
        # Its original is not there, but has a name.
        assert (rows[back].original, rows[back].source_id) == (None, ("1031393_A_009",))
        unclear, unlisted = (found.left_out[reason] for reason in sorted(found.left_out))
        assert sorted(unclear) == sorted(before + name for name in ("../out.mp4", "method_A/x.mp4", "a.mp4"))
        assert unlisted == [before + "method_A/unlisted.mp4"]


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"a.mp4": '])
def test_dfdc_broken_metadata_leaves_the_other_parts(tmp_path, content):
    dfdc_part(tmp_path, 0, {"a.mp4": real()}, ["a.mp4"])
    part = dfdc_part(tmp_path, 1, {}, ["b.mp4"])
    (part / "metadata.json").write_bytes(content)
    found = INDEXERS["dfdc"](tmp_path)
    assert [row.path for row in found.rows] == ["dfdc_train_part_0/a.mp4"]
    assert list(found.left_out.values()) == [["dfdc_train_part_1/metadata.json"], ["dfdc_train_part_1/b.mp4"]]


def test_folder_tree(tmp_path):
    for split in ("train", "val"):
        put(tmp_path, *(f"{split}/Real/v{n // 5:02}-{n % 5:03}-00.png" for n in range(250)))
        put(tmp_path, *(f"{split}/deepfakes/deep/er/v{n // 5:02}-{n % 5:03}-00.jpg" for n in range(250)))
    rows = rows_of("folder", tmp_path)
    assert len(rows) == 1000
    assert {(row.label, row.method, row.kind) for row in rows.values()} == {
        (0, "original", "image"),
        (1, "fake", "image"),
    }
    assert {row.split for row in rows.values()} == {"train", "val"}
    assert {row.source_id for row in rows.values()} == {(f"v{n:02}",) for n in range(50)}


@pytest.mark.parametrize(
    ("path", "below", "source"),
    [
        ("real/abarnvbtwb-000-00.png", "", "abarnvbtwb"),
        ("real/abarnvbtwb_12.png", "", "abarnvbtwb"),
        ("fake/Deepfakes__218_239__208.png", "", "Deepfakes__218_239"),
        ("fake/DeepFakeDetection__03_27__walk_down_hall_angry__KWGI1LSZ__200.png", "",
         "DeepFakeDetection__03_27__walk_down_hall_angry__KWGI1LSZ"),
        ("real/original_sequences__190__200.png", "", "original_sequences__190"),
        ("real/519_0001.png", "", "519"),
        ("real/v/0001.png", "v", "v"),
        ("real/v/0001_02.png", "v", "v"),
        ("real/v/Frame_0001.png", "v", "v"),
        ("real/0001.png", "", "0001"),
        ("real/df00204.jpg", "", "df00204"),
        ("real/anna smith.jpg", "v", "anna smith"),
        ("real/48_1_2_20170109002813437.jpg", "", "48_1_2_20170109002813437"),
        ("real/48_1_2_20170109002813437.jpg.chip.jpg", "", "48_1_2_20170109002813437"),
        ("real/39_1_20170116174525125.jpg", "part1", "39_1_20170116174525125"),
    ],
)  # fmt: skip
def test_the_source_of_an_image(path, below, source):
    assert source_of(path, below) == source


def test_a_folder_of_one_class_needs_no_names(tmp_path, run_tfdfd):
    put(tmp_path / "f", "a.jpg", "deep/v-01.png", "deep/v-02.png", "fake/b.mp4", "test/c.jpg", "notes.txt")
    with pytest.raises(ValueError, match=r"if all files are real, say so \(--all real\)"):
        index("folder", make_flat(tmp_path / "flat"))
    found = INDEXERS["folder"](tmp_path / "f", label=0)
    assert {row.path: (row.label, row.method, row.source_id, row.split) for row in found.rows} == {
        "a.jpg": (0, "original", ("a",), None),
        "deep/v-01.png": (0, "original", ("v",), None),
        "deep/v-02.png": (0, "original", ("v",), None),
        "fake/b.mp4": (0, "original", ("b",), None),
        "test/c.jpg": (0, "original", ("c",), "test"),
    }
    assert not found.left_out
    assert {(row.label, row.method) for row in INDEXERS["folder"](tmp_path / "f", label=1).rows} == {(1, "fake")}
    with pytest.raises(ValueError, match=r"label must be 0 \(real\), 1 \(fake\) or None; received 'real'"):
        INDEXERS["folder"](tmp_path / "f", label="real")
    assert run_tfdfd("index", "folder", tmp_path / "flat", "-o", tmp_path / "i.csv", "--all", "real")[0] == 0
    assert [row.label for row in read_table(tmp_path / "i.csv", IndexRow)] == [0, 0]


def make_flat(root):
    put(root, "one.jpg", "two.jpg")
    return root


def test_folder_left_out_and_names(tmp_path):
    odd = os.fsdecode(b"real/\xff\xfe;1 \xc3\xa9\n.mp4")
    put(
        tmp_path,
        "a/real/fake/x.png",
        "neither/y.mp4",
        "real/ok.mov",
        "fake/1/z.png",
        "real/._z.png",
        "real/notes.txt",
        odd,
    )
    found = INDEXERS["folder"](tmp_path)
    assert [row.path for row in found.rows] == ["fake/1/z.png", "real/ok.mov", odd]
    assert found.rows[2].source_id == (os.fsdecode(b"\xff\xfe%3B1 \xc3\xa9\n"),)
    assert list(found.left_out.values()) == [["a/real/fake/x.png"], ["neither/y.mp4"]]


def test_links_do_not_leave_the_root(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    put(root, "real/a.mp4", "fake/b.mp4")
    put(outside, "secret.mp4", "deep/c.mp4")
    (root / "real/out.mp4").symlink_to(outside / "secret.mp4")
    (root / "real/folder").symlink_to(outside)
    (root / "real/loop").symlink_to(root)
    (root / "real/gone.mp4").symlink_to(root / "nothing.mp4")
    (root / "fake/inside.mp4").symlink_to(root / "real/a.mp4")
    os.mkfifo(root / "real/pipe.mp4")
    found = INDEXERS["folder"](root)
    assert [row.path for row in found.rows] == ["fake/b.mp4", "fake/inside.mp4", "real/a.mp4"]
    assert [sorted(paths) for paths in found.left_out.values()] == [
        ["real/folder", "real/gone.mp4", "real/loop", "real/out.mp4"]
    ]


def test_the_list_and_the_metadata_are_not_read_through_links(tmp_path):
    put(tmp_path / "celeb", "Celeb-real/id0_0001.mp4")
    (tmp_path / "list.txt").write_text("secret")
    (tmp_path / "celeb/List_of_testing_videos.txt").symlink_to(tmp_path / "list.txt")
    assert [row.split for row in index("celebdf", tmp_path / "celeb")] == [None]
    put(tmp_path / "dfdc", "part/a.mp4")
    (tmp_path / "m.json").write_text(json.dumps({"a.mp4": real()}))
    (tmp_path / "dfdc/part/metadata.json").symlink_to(tmp_path / "m.json")
    with pytest.raises(ValueError, match="is not laid out like DFDC"):
        index("dfdc", tmp_path / "dfdc")


def test_a_top_folder_that_is_a_link_is_told(tmp_path, run_tfdfd):
    put(tmp_path / "elsewhere", "youtube/c23/videos/001.mp4")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/original_sequences").symlink_to(tmp_path / "elsewhere")
    code, out, err = run_tfdfd("index", "ffpp", tmp_path / "root", "-o", tmp_path / "i.csv")
    assert code == 1
    assert "nothing to index" in err and "not followed: original_sequences" in out
    assert not (tmp_path / "i.csv").exists()


@pytest.mark.parametrize(
    ("dataset", "there", "told"),
    [
        (
            "ffpp",
            "original_sequence",
            r"looked for 'original_sequences' or .*'original_sequence' is near 'original_seq",
        ),
        ("celebdf", "celeb-real", r"not laid out like Celeb-DF v2: .*'celeb-real' is near 'Celeb-real'"),
        ("dfdc", "dfdc_train_part_00", r"the folders there are: 'dfdc_train_part_00'.* is near 'dfdc_train_part_0'"),
        ("folder", "realistic", r"the folders there are: 'realistic'.* may be called real, .*, fake, "),
    ],
)
def test_a_wrong_layout_says_what_is_there(tmp_path, dataset, there, told):
    put(tmp_path, f"{there}/001.mp4")
    with pytest.raises(ValueError, match=told):
        index(dataset, tmp_path)


def test_unknown_data_set_and_absent_root(tmp_path):
    with pytest.raises(ValueError, match=r"unknown data set 'ffp'; expected one of ffpp, celebdf, dfdc, folder"):
        index("ffp", tmp_path)
    for dataset in INDEXERS:
        with pytest.raises(ValueError, match=r"absent' cannot be indexed: .*No such file"):
            index(dataset, tmp_path / "absent")


def test_the_same_tree_gives_the_same_rows_quickly(tmp_path):
    for person in range(100):
        (tmp_path / f"fake/p{person}").mkdir(parents=True)
        for number in reversed(range(100)):
            (tmp_path / f"fake/p{person}/v-{number:03}.png").touch()
    begin = time.perf_counter()
    rows = index("folder", tmp_path)
    assert time.perf_counter() - begin < 5
    assert len(rows) == 10_000 and rows == index("folder", tmp_path)
    assert [row.path for row in rows] == sorted((row.path for row in rows), key=os.fsencode)


def test_check_finds_duplicates_by_content(tmp_path):
    put(tmp_path, "train/real/a.png", "test/real/b.png", "train/fake/c.png", content=b"same")
    put(tmp_path, "train/fake/d.png", content=b"size")
    put(tmp_path, "train/fake/e.png", "train/fake/f.png", content=b"")
    checked = summarize(INDEXERS["folder"](tmp_path), tmp_path)
    assert checked["duplicates"] == [["test/real/b.png", "train/fake/c.png", "train/real/a.png"]]
    assert (checked["duplicates_across_labels"], checked["duplicates_across_splits"]) == (1, 1)
    assert (checked["rows"], checked["ok"], checked["bytes"]) == (6, 4, 16)
    assert checked["empty"] == ["train/fake/e.png", "train/fake/f.png"]
    assert checked["counts"][0] == {
        "method": "original", "label": 0, "compression": None, "train": 1, "val": 0, "test": 1, "none": 0
    }  # fmt: skip


def test_cli_writes_the_index_and_says_what_is_wrong(tmp_path, run_tfdfd):
    dfdc_part(tmp_path / "dfdc", 0, {"a.mp4": real(), "b.mp4": fake("x.mp4"), "c.mp4": real()}, ["a.mp4", "b.mp4"])
    code, out, err = run_tfdfd("index", "dfdc", tmp_path / "dfdc", "-o", tmp_path / "index.csv")
    assert code == 3
    assert [row.status for row in read_table(tmp_path / "index.csv", IndexRow)] == ["ok", "ok", "missing"]
    lines = out.splitlines()
    assert [line.split() for line in lines[1:3]] == [
        ["original", "real", "-", "2", "0", "0", "0", "2"],
        ["dfdc", "fake", "-", "1", "0", "0", "0", "1"],
    ]
    assert "1 missing: dfdc_train_part_0/c.mp4" in lines and "1 fake without original" in lines
    assert re.search(r"videos listed in metadata.json +2 of +3", out)
    assert "index.csv" in err


def test_cli_json(tmp_path, run_tfdfd):
    put(tmp_path, os.fsdecode(b"real/\xff.mp4"), "fake/b.mp4")
    code, out, _ = run_tfdfd(
        "index", "folder", tmp_path, "-o", tmp_path / "i.csv", "--json", "-", "--no-duplicates",
    )  # fmt: skip
    answer = json.loads(out)
    assert (code, answer["schema"], answer["rows"], answer["duplicates"]) == (0, 1, 2, None)
    assert (tmp_path / "i.csv").read_bytes().count(b"real/\xff.mp4") == 1


def test_cli_label_files(tmp_path, run_tfdfd):
    put(tmp_path / "c", "Celeb-real/id0_0000.mp4", "Celeb-synthesis/id0_id1_0000.mp4", "YouTube-real/00000.mp4")
    put(tmp_path / "c", "Celeb-real/id0_0001.mp4", content=b"")
    words = ["index", "celebdf", tmp_path / "c", "-o", tmp_path / "i.csv", "--label-files"]
    assert run_tfdfd(*words, tmp_path / "ours")[0] == 3
    assert run_tfdfd(*words, tmp_path / "theirs", "--real-is-one")[0] == 3
    read = lambda folder: {file.name: file.read_text() for file in (tmp_path / folder).iterdir()}  # noqa: E731
    assert read("ours") == {
        "Celeb-real.txt": "0 Celeb-real/id0_0000.mp4\n",
        "Celeb-synthesis.txt": "1 Celeb-synthesis/id0_id1_0000.mp4\n",
        "YouTube-real.txt": "0 YouTube-real/00000.mp4\n",
    }
    assert {name: text[0] for name, text in read("theirs").items()} == {
        "Celeb-real.txt": "1", "Celeb-synthesis.txt": "0", "YouTube-real.txt": "1"
    }  # fmt: skip


def test_cli_source_pattern(tmp_path, run_tfdfd):
    put(tmp_path / "f", "real/x__190__200.png", "fake/D__218_239__208.png")
    words = ["index", "folder", tmp_path / "f", "-o", tmp_path / "i.csv", "--source-pattern"]
    assert run_tfdfd(*words, r"__(\d{3})(?:_(\d{3}))?__")[0] == 0
    assert [row.source_id for row in read_table(tmp_path / "i.csv", IndexRow)] == [("218", "239"), ("190",)]
    for pattern, told in [
        ("(", "is not a regular expression"),
        ("a", "has no group"),
        ("(q+)", "matches no source in 'fake/D_"),
    ]:
        code, _, err = run_tfdfd(*words, pattern)
        assert code == 2 and told in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["ffp", ".", "-o", "i.csv"], "did you mean ffpp?"),
        (["folder", ".", "-o", "absent/i.csv"], "does not exist or is not writable"),
        (["folder", "."], "required: -o/--output"),
        (["folder", "absent", "-o", "i.csv"], "'absent' cannot be indexed"),
        (["folder", ".", "-o", "i.csv", "--real-is-one"], "is for --label-files"),
        (["dfdc", ".", "-o", "i.csv", "--source-pattern", "(a)"], "--all are for folder"),
        (["ffpp", ".", "-o", "i.csv", "--all", "real"], "--all are for folder; sources and labels of ffpp are known"),
        (["folder", ".", "-o", "i.csv", "--all", "reel"], "invalid choice: 'reel'"),
    ],
)
def test_cli_wrong_usage(tmp_path, monkeypatch, run_tfdfd, words, told):
    put(tmp_path, "real/a.mp4")
    monkeypatch.chdir(tmp_path)
    code, out, err = run_tfdfd("index", *words)
    assert (code, out) == (2, "") and told in err
    assert [path.name for path in tmp_path.iterdir()] == ["real"]


def test_cli_read_only_folder(tmp_path, monkeypatch, run_tfdfd):
    put(tmp_path / "set", "real/a.mp4")
    (tmp_path / "out").mkdir()
    # Root may write anywhere, so the answer of the system is put in its mouth.
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("out"))
    words = ["index", "folder", tmp_path / "set", "-o"]
    for more in ([tmp_path / "out/i.csv"], [tmp_path / "i.csv", "--label-files", tmp_path / "out"]):
        code, _, err = run_tfdfd(*words, *more)
        assert code == 2 and "is not writable" in err
    assert not (tmp_path / "i.csv").exists()


def test_real_ffpp(data):
    rows = rows_of("ffpp", data / "videos" / "ffpp")
    assert {(Path(path).stem, row.method, row.label, row.source_id[:2], row.split) for path, row in rows.items()} == {
        ("004", "original", 0, ("004",), rows_split("004")),
        ("519", "original", 0, ("519",), rows_split("519")),
        ("519_515", "Deepfakes", 1, ("519", "515"), rows_split("519", "515")),
        ("004_982", "NeuralTextures", 1, ("004", "982"), rows_split("004", "982")),
    }
    assert {row.original for row in rows.values() if row.label} == {path for path, row in rows.items() if not row.label}
    assert {row.status for row in rows.values()} == {"ok"} and None not in {row.split for row in rows.values()}


def rows_split(*clips):
    return official()["split"][frozenset(clips)]


def test_real_dfdc(data):
    rows = rows_of("dfdc", data / "videos" / "dfdc")
    assert {Path(path).stem: (row.label, row.source_id) for path, row in rows.items()} == {
        "abofeumbvv": (1, ("atvmxvwyns",)),
        "abqwwspghj": (1, ("qzimuostzz",)),
        "brtujopkby": (1, ("gnmmhlbzge",)),
        "lynaeydofd": (0, ("lynaeydofd",)),
    }


def test_real_crops(data):
    rows = rows_of("folder", data / "crops")
    assert len(rows) == len(list((data / "crops").rglob("*.png")))
    assert all(row.label == ("fake" in path.split("/")) for path, row in rows.items())
    sources = {row.source_id[0] for path, row in rows.items() if path.startswith("dfdc/")}
    assert sources == {"aagfhgtpmv", "aapnvogymq", "abofeumbvv", "abqwwspghj", "abarnvbtwb"}
    assert "original_sequences__190" in rows["ffpp/real/original_sequences__190__200.png"].source_id


def test_a_number_below_real_and_fake_is_a_video(tmp_path):
    put(
        tmp_path,
        *(f"{label}/{n}/frame_{frame:02}.jpg" for label in ("real", "fake") for n in range(3) for frame in (1, 2)),
    )
    found = INDEXERS["folder"](tmp_path)
    assert not found.left_out
    assert {row.path.split("/")[0]: row.label for row in found.rows} == {"real": 0, "fake": 1}
    assert {row.path.split("/")[1]: row.source_id for row in found.rows} == {n: (n,) for n in "012"}


@pytest.mark.parametrize(
    ("path", "label", "split"),
    [
        ("train/real/3/1.png", 0, "train"),
        ("training_real/a.jpg", 0, None),
        ("real_and_fake_face/training_fake/a.jpg", 1, None),
        ("0_real/a.jpg", 0, None),
        ("1_fake/7/a.jpg", 1, None),
        ("Celeb-real/id0_0000/0001.jpg", 0, None),
        ("Celeb-synthesis/id0_id1_0000/0001.jpg", 1, None),
        ("deepfake_dataset/val/Real/a.jpg", 0, "val"),
        ("fake/original_sequences/a.jpg", 1, None),
        ("RealVideo-RealAudio/a.mp4", 0, None),
        ("test_fake/a.jpg", 1, "test"),
        ("a/b/fake-0001.jpg", 1, None),
        ("real/fake_0001.jpg", 0, None),
    ],
)
def test_the_words_decide_wherever_they_are(tmp_path, path, label, split):
    put(tmp_path, path)
    assert [(row.label, row.split) for row in index("folder", tmp_path)] == [(label, split)]


def test_classes_without_a_word_are_given(tmp_path, run_tfdfd):
    put(tmp_path / "f", "df/a.jpg", "Authentic/b.jpg", "x/ai/c.jpg", "y/ai/d.jpg", "real/e.jpg")
    words = ["index", "folder", tmp_path / "f", "-o", tmp_path / "i.csv"]
    given = ["--label", "df=fake", "--label", "authentic=Real", "--label", "x/ai=fake"]
    assert run_tfdfd(*words, *given)[0] == 3
    told = {row.path: row.label for row in read_table(tmp_path / "i.csv", IndexRow)}
    assert told == {"Authentic/b.jpg": 0, "df/a.jpg": 1, "real/e.jpg": 0, "x/ai/c.jpg": 1}
    for more, message in (
        (["--label", "dff=fake"], "no image or video is in a folder called 'dff'; did you mean df?"),
        (["--label", "df=real"], "--label df=real: the folder 'df' is called both real and fake"),
        (["--label", "df"], "--label is NAME=real or NAME=fake, such as ai=fake; received 'df'"),
        (["--label", "df=maybe"], "received 'df=maybe'"),
        (["--label", "real=fake", "--all", "real"], "--all real labels every file; omit --label"),
    ):
        code, _, err = run_tfdfd(*words, *given, *more)
        assert code == 2 and message in err, err


def test_a_label_that_contradicts_a_folder_is_an_error(tmp_path):
    put(tmp_path, "real/df/a.jpg", "fake/df/b.jpg")
    with pytest.raises(ValueError, match=r"'real/df/a.jpg' is in 'real', real and in 'df', fake: a label contradicts"):
        INDEXERS["folder"](tmp_path, labels={"df": 1})
    assert len(INDEXERS["folder"](tmp_path, labels={"fake/df": 1}).rows) == 2


def test_numbers_alone_are_no_classes(tmp_path):
    put(tmp_path, "train/0/a.jpg", "train/1/b.jpg")
    with pytest.raises(ValueError, match=r"say which is which: --label 0=real --label 1=fake, or the other way round"):
        index("folder", tmp_path)
    rows = INDEXERS["folder"](tmp_path, labels={"0": 1, "1": 0}).rows
    assert [(row.path, row.label, row.split) for row in rows] == [
        ("train/0/a.jpg", 1, "train"),
        ("train/1/b.jpg", 0, "train"),
    ]


def sources_of(root):
    return {row.path: row.source_id[0] for row in index("folder", root)}


@pytest.mark.parametrize("name", ["real_{:04}.jpg", "person_{}.png", "img{:03}.jpg", "nvidia-{:05}.png"])
def test_files_that_are_only_counted_are_sources_of_their_own(tmp_path, name, run_tfdfd):
    put(tmp_path / "f", *(f"{label}/{name.format(n)}" for label in ("real", "fake") for n in range(20)))
    assert len(set(sources_of(tmp_path / "f").values())) == 20
    assert run_tfdfd("index", "folder", tmp_path / "f", "-o", tmp_path / "i.csv")[0] == 0
    assert run_tfdfd("split", tmp_path / "i.csv", "-o", tmp_path / "s.csv")[0] == 0
    splits = {}
    for row in read_table(tmp_path / "s.csv", IndexRow):
        assert splits.setdefault(row.source_id, row.split) == row.split
    assert len(set(splits.values())) == 3


def test_names_of_videos_tie_their_frames(tmp_path):
    known = ["abarnvbtwb_{}.png", "id0_id1_0003_{:03}.png", "519_515_{:04}.png", "df_00204_{}.png", "clip_f{:03}.jpg"]
    for number, name in enumerate(known):
        put(tmp_path / str(number), *(f"real/{name.format(n)}" for n in range(5)), "fake/x.jpg")
        found = {source for path, source in sources_of(tmp_path / str(number)).items() if path.startswith("real")}
        assert len(found) == 1, (name, found)


def test_two_series_of_a_class_are_two_videos_and_one_is_told(tmp_path):
    put(tmp_path / "two", *(f"real/{name}_{n}.jpg" for name in ("anna", "bob") for n in range(5)), "fake/x.jpg")
    assert set(sources_of(tmp_path / "two").values()) == {"anna", "bob", "x"}
    put(tmp_path / "one", *(f"real/anna_{n}.jpg" for n in range(5)), "fake/x.jpg")
    found = INDEXERS["folder"](tmp_path / "one")
    assert len({row.source_id for row in found.rows}) == 6
    assert "files called 'anna' and a number are sources of their own" in found.notes[0]
    assert "--source-pattern '(anna)'" in found.notes[0]


def test_what_each_split_counts_anew_is_of_that_split(tmp_path):
    put(
        tmp_path / "f",
        *(f"{split}/{label}/{n}/f_1.jpg" for split in ("train", "val") for label in ("real", "fake") for n in range(3)),
    )
    rows = index("folder", tmp_path / "f")
    assert {row.source_id for row in rows} == {(f"{split}/{n}",) for split in ("train", "val") for n in range(3)}
    # With gaps they are names: the same video in two splits stays one.
    put(
        tmp_path / "g",
        *(f"{split}/{label}/{n}.mp4" for split in ("train", "val") for label in ("real", "fake") for n in (4, 519)),
    )
    assert {row.source_id for row in index("folder", tmp_path / "g")} == {("4",), ("519",)}


def test_frames_below_a_folder_of_frames_are_of_the_video_above(tmp_path):
    put(
        tmp_path,
        "real/v1/frames/0001.png",
        "real/v1/frames/0002.png",
        "fake/v2/frames/0001.png",
        "real/images/0001.png",
    )
    assert sources_of(tmp_path) == {
        "fake/v2/frames/0001.png": "v2", "real/images/0001.png": "0001",
        "real/v1/frames/0001.png": "v1", "real/v1/frames/0002.png": "v1",
    }  # fmt: skip


def test_all_that_is_passed_over_is_counted(tmp_path, run_tfdfd):
    put(
        tmp_path / "f",
        "real/a.jpg",
        "real/notes.txt",
        "real/b.txt",
        "real/.DS_Store",
        ".git/x.jpg",
        "fake/README",
        "fake/c.jpg",
    )
    os.mkfifo(tmp_path / "f/real/pipe.mp4")
    found = INDEXERS["folder"](tmp_path / "f")
    assert found.passed_over == {
        "hidden: the name begins with a dot": 2,
        "neither an image nor a video by name: .txt": 2,
        "neither an image nor a video by name: no ending": 1,
        "no regular file: a pipe, socket or device": 1,
    }
    code, out, _ = run_tfdfd("index", "folder", tmp_path / "f", "-o", tmp_path / "i.csv")
    assert code == 0 and "2 skipped: neither an image nor a video by name: .txt" in out


MISSING = [float("nan"), None, "", "nan", "None", "NULL", "absent"]


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("case", [str.upper, str.lower, str.title])
def test_dfdc_written_anew_by_pandas(tmp_path, missing, case):
    entries = {"a.mp4": {"label": case("real"), "split": "train", "original": missing}}
    entries["b.mp4"] = {"label": case("fake"), "split": "train", "original": "a.mp4"}
    entries["c.mp4"] = {"label": case("fake"), "split": "train", "original": missing}
    if missing == "absent":
        del entries["a.mp4"]["original"], entries["c.mp4"]["original"]
    dfdc_part(tmp_path, 0, entries, entries)
    found = INDEXERS["dfdc"](tmp_path)
    assert not found.left_out and not found.passed_over
    assert [(row.path[-5:], row.label, row.source_id) for row in found.rows] == [
        ("a.mp4", 0, ("a",)), ("b.mp4", 1, ("a",)), ("c.mp4", 1, ("c",))
    ]  # fmt: skip


def test_dfdc_as_columns_and_as_fractions(tmp_path):
    columns = {"label": {"a.mp4": "REAL", "b.mp4": "FAKE"}, "original": {"a.mp4": float("nan"), "b.mp4": "a.mp4"}}
    dfdc_part(tmp_path / "columns", 0, columns, ["a.mp4", "b.mp4"])
    rows = index("dfdc", tmp_path / "columns")
    assert [(row.label, row.source_id) for row in rows] == [(0, ("a",)), (1, ("a",))]
    put(tmp_path / "csv", "validation/a.mp4", "validation/b.mp4")
    (tmp_path / "csv/validation/labels.csv").write_text(",filename,label\n0,a.mp4,0.0\n1,b.mp4,1.0\n")
    assert [row.label for row in index("dfdc", tmp_path / "csv")] == [0, 1]
    told = {
        "original_videos/7/7_A_001.mp4": {
            "label": "Real",
            "set": "train",
            "target_id": 7.0,
            "swapped_id": float("nan"),
        },
        "method_A/7/7_8_A/7_8_A_001_0.mp4": {"label": "fake", "set": "train", "target_id": 7.0, "swapped_id": 8.0},
    }
    put(tmp_path / "preview", *told)
    (tmp_path / "preview/dataset.json").write_text(json.dumps(told))
    assert [row.identity for row in index("dfdc", tmp_path / "preview")] == [("7", "8"), ("7",)]


def test_what_cannot_be_split_names_the_option(tmp_path, run_tfdfd):
    put(tmp_path / "f", "real/v_f001.jpg", "real/v_f002.jpg", "fake/w_f001.jpg")
    assert run_tfdfd("index", "folder", tmp_path / "f", "-o", tmp_path / "i.csv")[0] == 0
    code, _, err = run_tfdfd("split", tmp_path / "i.csv", "-o", tmp_path / "s.csv")
    assert code == 2 and "the rows form 2 groups only" in err and "--source-pattern" in err


def test_numbers_are_classes_above_and_videos_below(tmp_path):
    put(tmp_path, *(f"{label}/{video}/{frame}.jpg" for label in (0, 1) for video in (0, 1, 2) for frame in (1, 2)))
    rows = INDEXERS["folder"](tmp_path, labels={"0": 0, "1": 1}).rows
    assert len(rows) == 12
    assert all(row.path.split("/")[:2] == [str(row.label), row.source_id[0]] for row in rows)


def test_fakes_of_known_data_sets_stay_with_their_originals(tmp_path):
    put(tmp_path, *(f"Celeb-real/id0_0003/{n:04}.jpg" for n in range(3)), "Celeb-synthesis/id0_id1_0003/0000.jpg")
    put(tmp_path, "real/519/0001.png", "real/515.mp4", "fake/519_515/0001.png", "fake/519_515.mp4")
    sources = {row.path: row.source_id for row in index("folder", tmp_path)}
    assert sources["Celeb-synthesis/id0_id1_0003/0000.jpg"] == sources["Celeb-real/id0_0003/0000.jpg"] == ("id0_0003",)
    assert sources["fake/519_515/0001.png"] == sources["fake/519_515.mp4"] == ("519", "515")
    assert (sources["real/519/0001.png"], sources["real/515.mp4"]) == (("519",), ("515",))


def test_classes_by_the_files_own_names_are_told(tmp_path):
    put(tmp_path, "real_0001.jpg", "fake_0002.jpg", "other.jpg")
    found = INDEXERS["folder"](tmp_path)
    assert [(row.path, row.label) for row in found.rows] == [("fake_0002.jpg", 1), ("real_0001.jpg", 0)]
    assert list(found.left_out.values()) == [["other.jpg"]]
    assert found.notes == ["2 files are real or fake by their own names, not their folders', such as fake_0002.jpg"]
