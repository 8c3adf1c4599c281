"""From what a person names to the files that are read."""

import os
import socket
import stat
import struct
import sys
from pathlib import Path

import pytest

from tfdfd.media import inputs
from tfdfd.media.formats import HEAD_BYTES, IMAGE_SUFFIXES, VIDEO_SUFFIXES, image_format, kind_of_content, kind_of_name
from tfdfd.media.inputs import list_inputs

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20
MP4 = b"\0\0\0\x18ftypisom" + b"\0" * 20

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX files")
any_name = pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")


def fill(folder, *names, content=PNG):
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder


def names(found, folder):
    return [os.path.relpath(item.path, folder) for item in found.items]


def only(found):
    (item,) = found.items
    return item


def test_files_keep_the_order_and_the_spelling_in_which_they_are_given(tmp_path, monkeypatch):
    fill(tmp_path, "b.png", "a.png")
    monkeypatch.chdir(tmp_path)
    found = list_inputs(["b.png", Path("a.png"), "./b.png", "b.png"])
    assert [item.path for item in found.items] == ["b.png", "a.png", "./b.png", "b.png"]
    assert [item.error for item in found.items] == [None] * 4


def test_a_folder_is_walked_in_sorted_order_files_before_folders(tmp_path):
    fill(tmp_path, "b/2.png", "b/10.png", "b/a/x.png", "a/z.png", "c.png", "B.png", "é.png")
    walked = ["B.png", "c.png", "é.png", "a/z.png", "b/10.png", "b/2.png", "b/a/x.png"]
    assert names(list_inputs([tmp_path]), tmp_path) == walked


def test_media_in_a_folder_is_known_by_name_or_by_content_and_the_rest_is_counted(tmp_path):
    fill(tmp_path, "picture", "upper.PNG")
    fill(tmp_path, "film.bin", content=MP4)
    fill(tmp_path, "text.mp4", "text.txt", "Makefile", content=b"no media")
    fill(tmp_path, "empty", "empty.jpg", content=b"")
    found = list_inputs([tmp_path])
    kinds = {name: item.kind for name, item in zip(names(found, tmp_path), found.items, strict=True)}
    # A file that says it is media is answered for, even where it turns out not to be.
    assert kinds == {
        "empty.jpg": "image", "film.bin": "video", "picture": "image", "text.mp4": "video", "upper.PNG": "image",
    }  # fmt: skip
    assert found.skipped == 3
    assert all(item.error is None for item in found.items)


@pytest.mark.parametrize(
    ("files", "count"), [([], "0 other files"), (["a.txt"], "1 other file)"), (["a.txt", "b/c.txt"], "2 other files")]
)
def test_a_folder_without_media_is_an_answer_of_its_own(tmp_path, files, count):
    fill(tmp_path, *files, content=b"text")
    item = only(list_inputs([tmp_path]))
    assert (item.path, item.kind, item.error.status) == (str(tmp_path), "folder", "not_found")
    assert count in item.error.message


def test_counts_of_several_folders_are_kept_apart(tmp_path):
    fill(tmp_path, "a/a.txt", "b/b.txt", "b/c.txt", content=b"text")
    found = list_inputs([tmp_path / "a", tmp_path / "b"])
    for item, count in zip(found.items, ("(1 other file)", "(2 other files)"), strict=True):
        assert count in item.error.message
    assert found.skipped == 3


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("absent.mp4", "not_found", "no such file"),
        ("", "not_found", "no such file"),
        ("http://127.0.0.1:9/a.mp4", "unsupported", "only local files"),
        ("https://example.org/a.mp4", "unsupported", "only local files"),
        ("rtsp://example.org/stream", "unsupported", "only local files"),
        ("file:///etc/passwd", "unsupported", "only local files"),
        ("concat:http://a/b|http://c/d", "unsupported", "only local files"),
        ("concat:a.mp4|b.mp4", "not_found", "no such file"),
        ("data:image/png;base64,iVBORw0KGgo=", "not_found", "no such file"),
        ("pipe:0", "not_found", "no such file"),
        ("frame_%03d.png", "not_found", "patterns are not expanded"),
        ("frame_%d.png", "not_found", "patterns are not expanded"),
        ("*.png", "not_found", "patterns are not expanded"),
        ("?.png", "not_found", "patterns are not expanded"),
        ("a\0b.mp4", "not_found", "no file can have this name"),
        ("\ud800.mp4", "not_found", "no file can have this name"),
        ("a" * 5000 + ".mp4", "decode_error", "cannot be reached"),
    ],
)
def test_what_is_no_local_file_is_refused_with_a_reason(tmp_path, monkeypatch, name, status, words):
    fill(tmp_path, "a.mp4", "b.mp4", "frame_001.png", "x.png")
    monkeypatch.chdir(tmp_path)
    item = only(list_inputs([name]))
    assert (item.path, item.error.status) == (name, status)
    assert words in item.error.message


@posix
@pytest.mark.parametrize("name", ["a%03d.png", "*.png", "http:x.png", "what?.png"])
def test_a_file_of_an_odd_name_that_is_there_is_read(tmp_path, name):
    fill(tmp_path, name)
    assert only(list_inputs([tmp_path / name])).error is None


def test_a_file_taken_for_a_folder_is_not_found(tmp_path):
    fill(tmp_path, "a.png")
    assert only(list_inputs([tmp_path / "a.png" / "b.png"])).error.status == "not_found"


@posix
def test_pipes_devices_and_sockets_are_refused_unopened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    os.mkfifo("pipe.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.mp4")
        found = list_inputs(["pipe.mp4", "/dev/zero", "s.mp4"])
    assert [item.error.status for item in found.items] == ["unsupported"] * 3
    # In a folder they are counted with whatever else is not media.
    assert list_inputs([tmp_path]).skipped == 2


@posix
def test_a_link_that_is_named_is_followed(tmp_path):
    fill(tmp_path, "real/a.png")
    (tmp_path / "link.png").symlink_to("real/a.png")
    (tmp_path / "folder").symlink_to("real")
    found = list_inputs([tmp_path / "link.png", tmp_path / "folder"])
    assert names(found, tmp_path) == ["link.png", "folder/a.png"]
    assert all(item.error is None for item in found.items)


@posix
def test_a_link_in_a_folder_leads_only_within_it(tmp_path):
    fill(tmp_path, "outside/secret.png", "in/deep/a.png", "in-sibling/b.png")
    links = {
        "in/0.png": "deep/a.png",
        "in/1.png": "../outside/secret.png",
        "in/2.png": "absent.png",
        "in/3.png": "3.png",
        "in/4.png": "../in-sibling/b.png",  # shares the folder's name as a prefix only
        "in/5": "deep/a.png",
        "in/6": "../outside/secret.png",
        "in/7.png": "deep",
    }
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    found = list_inputs([tmp_path / "in"])
    real = os.path.join(os.path.realpath(tmp_path), "in", "deep", "a.png")
    # What is opened later is the resolved name.
    assert [item.path for item in found.items if item.error is None and "deep/a" in item.path] == [
        real, real, str(tmp_path / "in/deep/a.png"),
    ]  # fmt: skip
    refused = {os.path.basename(item.path): item.error.status for item in found.items if item.error}
    assert refused == dict.fromkeys(["1.png", "2.png", "3.png", "4.png", "7.png"], "unsupported")
    assert found.skipped == 1


@posix
def test_a_loop_of_folders_ends(tmp_path):
    fill(tmp_path, "a/b/x.png")
    (tmp_path / "a/b/up").symlink_to(tmp_path / "a")
    (tmp_path / "a/self").symlink_to(".")
    found = list_inputs([tmp_path])
    assert names(found, tmp_path) == ["a/b/x.png"]
    assert found.skipped == 2


@posix
def test_a_dangling_link_that_is_named_is_not_found(tmp_path):
    (tmp_path / "link.png").symlink_to("absent.png")
    assert only(list_inputs([tmp_path / "link.png"])).error.status == "not_found"


@posix
def test_a_link_to_itself_that_is_named_cannot_be_reached(tmp_path):
    (tmp_path / "link.png").symlink_to("link.png")
    item = only(list_inputs([tmp_path / "link.png"]))
    assert item.error.status == "decode_error"
    assert "cannot be reached" in item.error.message


@any_name
def test_names_of_any_bytes_are_listed_in_the_order_of_their_bytes(tmp_path):
    odd = [os.fsdecode(name) for name in (b"a\nb.mp4", b"caf\xc3\xa9.mp4", b"caf\xe9.mp4", b"\xff.mp4")]
    fill(tmp_path, *odd)
    assert names(list_inputs([tmp_path]), tmp_path) == odd
    assert only(list_inputs([tmp_path / odd[2]])).error is None


def test_the_deepest_folder_the_system_makes_is_walked(tmp_path):
    deep = tmp_path
    while len(str(deep)) < 800:
        deep = deep / ("d" * 50)
    fill(deep, "a.png")
    assert names(list_inputs([tmp_path]), deep) == ["a.png"]


def denied(function, name):
    """`function`, for root too without the right to touch what is called `name`."""

    def call(path, *arguments, **options):
        if os.path.basename(os.fspath(path)) == name:
            raise PermissionError(13, "Permission denied", path)
        return function(path, *arguments, **options)

    return call


def test_a_folder_that_cannot_be_read_is_one_answer_among_the_others(tmp_path, monkeypatch):
    fill(tmp_path, "a/1.png", "locked/2.png", "z/3.png")
    monkeypatch.setattr(inputs.os, "scandir", denied(os.scandir, "locked"))
    found = list_inputs([tmp_path])
    assert names(found, tmp_path) == ["a/1.png", "locked", "z/3.png"]
    assert (found.items[1].kind, found.items[1].error.status) == ("folder", "decode_error")
    assert "Permission denied" in found.items[1].error.message


def test_an_unreadable_file_is_listed_by_its_name_and_counted_without_one(tmp_path, monkeypatch):
    fill(tmp_path, "locked.png", "locked")
    monkeypatch.setattr(inputs, "open", denied(open, "locked"), raising=False)
    found = list_inputs([tmp_path])
    assert names(found, tmp_path) == ["locked.png"]
    assert found.skipped == 1


def test_a_path_that_may_not_be_looked_up_says_so(tmp_path, monkeypatch):
    fill(tmp_path, "a.png")
    monkeypatch.setattr(inputs.os, "stat", denied(os.stat, "a.png"))
    item = only(list_inputs([tmp_path / "a.png"]))
    assert item.error.status == "decode_error"
    assert "Permission denied" in item.error.message


@posix
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root reads everything")
def test_the_rights_of_the_file_system_count(tmp_path):
    fill(tmp_path, "locked/2.png", "b.png")
    (tmp_path / "locked").chmod(0)
    found = list_inputs([tmp_path])
    (tmp_path / "locked").chmod(stat.S_IRWXU)
    assert [item.error and item.error.status for item in found.items] == [None, "decode_error"]


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (PNG, "image"),
        (b"\xff\xd8\xff\xe0", "image"),
        (b"GIF89a", "image"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image"),
        (MP4, "video"),
        (b"\0\0\0\x08wide\0\0\0\0mdat", "video"),
        (b"\0\0\0\x18stypmsdh", "video"),
        (b"\0\0\0\x18uuid" + b"\0" * 16, "video"),
        (b"\0\0\0\x08skip\0\0\0\0moov", "video"),
        (b"RIFF\0\0\0\0AVI LIST", "video"),
        (b"\x1a\x45\xdf\xa3", "video"),
        (b"G" + b"\0" * 187 + b"G", "video"),
        (b"\0\0\0\0G" + b"\0" * 191 + b"G", "video"),
        (b"", None),
        (b"G", None),
        (b"\0\0\0\x18ftypheic", "image"),  # a still, though in a video's container
        (b"\0\0\0\x18ftypavif", "image"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "image"),
        (b"\xff\x4f\xff\x51", "image"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "image"),
        (b"RIFF\0\0\0\0WAVEfmt ", None),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n", None),
        (b"ffconcat version 1.0\nfile a.mp4\n", None),
        (b"<?xml version='1.0'?><MPD/>", None),
        (b"%PDF-1.7", None),
        (b"v=0\no=- 0 0 IN IP4 127.0.0.1\n", None),
        (b"nut/multimedia container\0", None),
    ],
)
def test_content_decides_the_kind(head, kind):
    assert kind_of_content(head[:HEAD_BYTES]) == kind


@pytest.mark.parametrize(
    ("brands", "name"),
    [
        (b"heic\0\0\0\0mif1heic", "heif"),
        (b"mif1\0\0\0\0mif1heicmiaf", "heif"),
        (b"mif1\0\0\0\0mif1avifmiaf", "avif"),
        (b"msf1\0\0\0\0msf1hevc", "heif"),
        (b"avis\0\0\0\0avifavis", "avif"),
        (b"mp42\0\0\0\0mp42mif1", None),  # a video, whatever else it may hold
    ],
)
def test_brands_tell_the_coding_of_a_still(brands, name):
    assert image_format(struct.pack(">I", len(brands) + 8) + b"ftyp" + brands + b"\0" * 60) == name


def test_names_tell_images_and_videos_apart():
    assert not IMAGE_SUFFIXES & VIDEO_SUFFIXES
    cases = ("a.JPG", "x/b.MP4", "c.txt", "mp4", ".mp4", "a.mp4.part", "a.tar.png")
    assert [kind_of_name(name) for name in cases] == ["image", "video", None, None, None, None, "image"]
