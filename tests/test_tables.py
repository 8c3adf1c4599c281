"""The tables of data preparation: what is written is read back, and a wrong table says where it is wrong."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfdfd.data.tables import FaceRow, IndexRow, read_either, read_table, write_table

INDEX = [
    IndexRow("original_sequences/youtube/c23/videos/004.mp4", "ffpp", "video", 0, "original", ("004",), "c23"),
    IndexRow(
        'odd, "name"\nüñí.mp4', "ffpp", "video", 1, "Deepfakes", ("519", "515"), "c23",
        original="519.mp4", identity=("a b", "c"), split="val", bytes=12, status="ok",
    ),
]  # fmt: skip
FACES = [
    FaceRow("a/0.jpg", "dfdc", "a.mp4", 0, 0.0, 0, (1, 2, 30, 40), 0.99, 1, "dfdc", ("a",), split="train"),
    FaceRow("a/1.jpg", "dfdc", "a.mp4", 7, 0.28, 1, (-5, 0, 30, 40), None, 0, "original", ("a", "b"), sha256="0f"),
]


@pytest.mark.parametrize(("rows", "kind"), [(INDEX, IndexRow), (FACES, FaceRow), ([], FaceRow)])
def test_rows_come_back(tmp_path, rows, kind):
    write_table(tmp_path / "t.csv", rows, kind)
    assert read_table(tmp_path / "t.csv", kind) == rows


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name).map(os.fsdecode))
def test_any_file_name_comes_back(tmp_path_factory, name):
    file = tmp_path_factory.mktemp("any") / "t.csv"
    rows = [IndexRow(name, "folder", "image", 0, "original", ("x",))]
    write_table(file, rows, IndexRow)
    assert read_table(file, IndexRow) == rows


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("label", "truth", r"lacks \['label'\] and has additional \['truth'\]; expected path,dataset,kind,label,"),
        (",0,original", ",2,original", r"line 2: label must be 0 \(real\) or 1 \(fake\); received '2'"),
        (",val,", ",dev,", r"line 4: split must be one of train, val, test or empty; received 'dev'"),
        (",ok\n", ",ok,more\n", r"line 2: 13 cells; expected 12"),
        (",12,", ",many,", r"line 4: invalid literal for int"),
    ],
)
def test_a_wrong_table_says_where(tmp_path, old, new, told):
    file = tmp_path / "t.csv"
    write_table(file, INDEX, IndexRow)
    file.write_text(file.read_text("utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=told):
        read_table(file, IndexRow)


def test_no_table_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"absent.csv cannot be read as a table"):
        read_table(tmp_path / "absent.csv", IndexRow)
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x01")
    with pytest.raises(ValueError, match=r"bytes.csv has other columns than expected"):
        read_table(tmp_path / "bytes.csv", IndexRow)


def test_either_kind_is_read_and_a_file_of_neither_is_refused(tmp_path):
    for kind, rows in ((FaceRow, FACES), (IndexRow, INDEX)):
        write_table(tmp_path / "t.csv", rows, kind)
        assert read_either(tmp_path / "t.csv") == (rows, kind)
    (tmp_path / "t.csv").write_bytes(b"")
    with pytest.raises(ValueError, match="has other columns than expected"):
        read_either(tmp_path / "t.csv")
