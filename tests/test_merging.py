"""Merged tables: every row once, every path still at its file, what is the same or contradicts itself reported."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tfdfd.data.crops import Faces
from tfdfd.data.tables import FaceRow, IndexRow, merge_tables, read_table, relocate, rename_dataset, write_table


def face_row(file, dataset="ffpp", sha256=None, label=0, sources=("001",)):
    box = (0, 0, 9, 9)
    return FaceRow(file, dataset, file, 0, 0.0, 0, box, None, label, "x", sources, sha256=sha256)


def index_row(path, dataset="folder", original=None, sources=("a",)):
    return IndexRow(path, dataset, "video", int(original is not None), "x", sources, original=original)


@pytest.fixture
def sets(tmp_path):
    """Three folders of crops with the same names, and their tables; in the first and last one the same bytes."""
    for folder, dataset, content in (("a", "celebdf", b"1"), ("b/deep", "dfdc", b"2"), ("c", "ffpp", b"1")):
        rows = []
        for name in ("real/0.png", "fake/ü 0.png"):
            file = tmp_path / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content + name.encode())
            digest = f"{content!r}{name}" if name == "real/0.png" else None
            rows.append(face_row(name, dataset, digest, label=int(folder == "c")))
        write_table(tmp_path / folder / "faces.csv", rows, FaceRow)
    return [tmp_path / folder / "faces.csv" for folder in ("a", "b/deep", "c")]


def test_verb_merges_and_every_path_still_leads_to_its_file(sets, tmp_path, run_tfdfd):
    (tmp_path / "out").mkdir()
    code, out, err = run_tfdfd("merge", *sets, "-o", tmp_path / "out" / "all.csv")
    assert code == 0
    rows = read_table(tmp_path / "out" / "all.csv", FaceRow)
    assert [row.dataset for row in rows] == ["celebdf"] * 2 + ["dfdc"] * 2 + ["ffpp"] * 2
    assert rows[2].file == "../b/deep/real/0.png"
    contents = [(tmp_path / "out" / row.file).read_bytes() for row in rows]
    assert [content[:1] for content in contents] == [b"1", b"1", b"2", b"2", b"1", b"1"]
    assert "6 rows, 4 real and 2 fake" in out
    assert "same crop: 1, such as ../a/real/0.png = ../c/real/0.png" in err
    assert "same crop labeled real here and fake there: 1, such as" in err
    assert "names in several tables" not in err  # 001 of one data set is not 001 of another


def test_a_table_elsewhere_is_read_where_it_was_written_and_as_it_was(sets, tmp_path, run_tfdfd, monkeypatch):
    monkeypatch.setenv("TFDFD_CACHE", str(tmp_path / "cache"))

    def path_of_first_crop(table):
        monkeypatch.delenv("TFDFD_DATA", raising=False)
        return Path(Faces(table.parent, tuple(read_table(table, FaceRow))).path(0))

    table, split, moved = (tmp_path / name / "rows.csv" for name in ("merged/deep", "split", "other/deep"))
    for file in (table, split, moved):
        file.parent.mkdir(parents=True)
    assert run_tfdfd("merge", *sets, "-o", table)[0] == 0
    assert path_of_first_crop(table).read_bytes()[:1] == b"1"
    assert run_tfdfd("split", table, "-o", split, "--no-crops", "--train", "1")[::2] == (0, "")
    assert path_of_first_crop(split).is_file()
    written = table.read_bytes()
    moved.write_bytes(written)
    table.write_bytes(written + written.splitlines(keepends=True)[1])
    for another in (moved, table):  # of another place, and with other bytes
        with pytest.raises(ValueError, match="leads out of that folder"):
            path_of_first_crop(another)
    table.write_bytes(written)
    assert path_of_first_crop(table).is_file()
    monkeypatch.setenv("TFDFD_CACHE", str(tmp_path / "of another user"))
    with pytest.raises(ValueError, match="leads out of that folder"):
        path_of_first_crop(table)


def test_verb_refuses_what_does_not_fit(sets, tmp_path, run_tfdfd):
    index = tmp_path / "index.csv"
    out = tmp_path / "all.csv"
    write_table(index, [index_row("a.mp4")], IndexRow)
    code, _, err = run_tfdfd("merge", sets[0], index, "-o", out)
    assert code == 2 and "faces.csv is a table of crops, but" in err and "index.csv one of videos" in err
    code, _, err = run_tfdfd("merge", index, tmp_path / "absent.csv", "-o", out)
    assert code == 2 and "absent.csv cannot be read as a table" in err
    (tmp_path / "other.csv").write_text("file,label\na,1\n")
    code, _, err = run_tfdfd("merge", sets[0], tmp_path / "other.csv", "-o", out)
    assert code == 2 and "other.csv has other columns than expected" in err
    code, _, err = run_tfdfd("merge", *sets, "-o", out, "--as", "one", "two")
    assert code == 2 and "--as has 2 values for 3 tables" in err
    assert not out.exists()


def test_verb_on_indexes_with_roots_and_new_names(tmp_path, run_tfdfd):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        rows = [index_row("real/a.mp4"), index_row("fake/a.mp4", original="real/a.mp4")]
        write_table(tmp_path / folder / "index.csv", rows, IndexRow)
    tables = [tmp_path / "one" / "index.csv", tmp_path / "two" / "index.csv"]
    roots = ["--roots", tmp_path / "one", tmp_path / "two"]
    out = tmp_path / "all.csv"
    code, _, err = run_tfdfd("merge", *tables, "-o", out)
    assert code == 0 and "rows in more than one table, written once: 2" in err
    code, _, err = run_tfdfd("merge", *tables, "-o", out, *roots)
    assert code == 0 and "names in several tables, which count as the same: 1, such as folder source a" in err
    rows = read_table(out, IndexRow)
    assert [(row.path, row.original) for row in rows] == [
        ("one/real/a.mp4", None),
        ("one/fake/a.mp4", "one/real/a.mp4"),
        ("two/real/a.mp4", None),
        ("two/fake/a.mp4", "two/real/a.mp4"),
    ]
    code, _, err = run_tfdfd("merge", *tables, "-o", out, *roots, "--as", "mine", "yours")
    assert code == 0 and err == ""
    assert [row.dataset for row in read_table(out, IndexRow)] == ["mine", "mine", "yours", "yours"]


def test_the_same_row_twice_is_one_and_a_different_one_is_an_error():
    row = face_row("a.png")
    answer = merge_tables([[row, face_row("b.png")], [row]], ["A", "B"])
    assert [r.file for r in answer.rows] == ["a.png", "b.png"] and answer.repeated == 1
    with pytest.raises(ValueError, match=r"a.png is in A and in B; the rows differ in label \(0, 1\).*--roots"):
        merge_tables([[row], [replace(row, label=1)]], ["A", "B"])


def test_kinds_do_not_mix():
    with pytest.raises(ValueError, match="different kinds: A of crops, B of videos"):
        merge_tables([[face_row("a.png")], [index_row("a.mp4")]], ["A", "B"])


def test_relocated_there_and_back_is_the_same(tmp_path):
    rows = [face_row("a/0.png"), face_row("b.png")]
    away = relocate(rows, tmp_path / "x" / "y", tmp_path / "z")
    assert [row.file for row in away] == ["../x/y/a/0.png", "../x/y/b.png"]
    assert relocate(away, tmp_path / "z", tmp_path / "x" / "y") == rows
    os.symlink(tmp_path, tmp_path / "link")
    assert relocate(rows, tmp_path / "link", tmp_path) == rows


def test_a_data_set_needs_a_name():
    with pytest.raises(ValueError, match="the name of a data set is empty"):
        rename_dataset([face_row("a.png")], "")
