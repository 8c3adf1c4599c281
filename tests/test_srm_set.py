"""A face set cloned through SRM: the layer's numbers in 8 bits, stopped anywhere, and nothing overwritten."""

import errno
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest

from tfdfd.data import SrmOptions, srm_set
from tfdfd.data.srm_set import SrmSet, residuals, to_levels
from tfdfd.data.tables import FaceRow, read_table, write_table

COUNT = 12
EACH_KERNEL = [("KB", "KV", "second"), ("KB",), ("KV",), ("second",)]


def from_levels(levels, truncate):
    """The residuals that a file's grey levels stand for, as its `run.json` says."""
    return (levels.astype(np.float32) - 128) * np.float32(truncate / 127)


def read(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def make_set(folder, astronaut, count=COUNT, side=64, ending="png"):
    """A face set of shifted pictures of one face, as `tfdfd extract` lays it out, with splits."""
    rows = []
    for n in range(count):
        name = f"crops/v{n // 4}/{n:06d}-0.{ending}"
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.ascontiguousarray(astronaut[n : n + side, 100 + n : 100 + n + side])
        cv2.imwrite(str(file), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        split = ("train", "val", "test")[n // 4 % 3]
        box = (1, 2, 3, 4)
        sources, people = (f"v{n // 4}",), ("anna",)
        rows.append(
            FaceRow(name, "ffpp", f"v{n // 4}.mp4", n, n / 25, 0, box, 0.5, n % 2, "x", sources, people, "c23", split)
        )
        rows[-1] = replace(rows[-1], sha256=digest)
    write_table(folder / "faces.csv", rows, FaceRow)
    return folder


@pytest.fixture
def faces(tmp_path, astronaut):
    return make_set(tmp_path / "faces", astronaut)


def bytes_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def clone(faces, folder, **options):
    with SrmSet(faces, folder, SrmOptions(**options), threads=2) as noise:
        list(noise.clone())
        return noise.finish()


@pytest.mark.parametrize("kernels", EACH_KERNEL)
@pytest.mark.parametrize("truncate", [127, 2, 40.5])
def test_a_file_read_back_is_the_layers_output_within_half_a_step(astronaut, kernels, truncate):
    from tfdfd.models.srm import SRM

    image = astronaut[60:190, 150:300]
    options = SrmOptions(kernels, truncate)
    layer = np.asarray(SRM(kernels, options.combine, truncate=truncate)(image))
    levels = to_levels(residuals(image, options), truncate)
    assert levels.dtype == np.uint8 and levels.shape == image.shape and levels.min() >= 1
    half = truncate / 254
    assert np.abs(from_levels(levels, truncate) - layer).max() <= half + 1e-3
    assert half <= 0.5  # of a grey level
    assert np.abs(layer).max() > truncate / 2  # the range is used


@pytest.mark.parametrize("kernels", EACH_KERNEL)
def test_residuals_are_filter2ds(astronaut, kernels):
    from tfdfd.models.srm import SRM_KERNELS

    image = astronaut[60:190, 150:300]
    found = residuals(image, SrmOptions(kernels))
    colours = image.astype(np.float32)
    if len(kernels) == 1:
        expected = cv2.filter2D(colours, cv2.CV_32F, SRM_KERNELS[kernels[0]])
        as_s4 = cv2.filter2D(image, -1, SRM_KERNELS[kernels[0]])
        assert np.abs(np.clip(found, 0, 255) - as_s4).max() <= 0.5 + 1e-3  # whose files lose what is negative
    else:
        expected = np.stack([cv2.filter2D(colours.sum(axis=2), cv2.CV_32F, SRM_KERNELS[k]) for k in kernels], axis=-1)
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("truncate", [127, 2, 0.37, 3060])
def test_storing_can_be_undone(truncate):
    levels = np.arange(1, 256, dtype=np.uint8)
    back = from_levels(levels, truncate)
    assert back.dtype == np.float32 and back[127] == 0
    np.testing.assert_array_equal(to_levels(back, truncate), levels)
    np.testing.assert_allclose(back[[0, -1]], [-truncate, truncate], rtol=1e-6)


def test_a_network_sees_of_the_clone_what_a_noise_network_sees_of_the_crops(faces, tmp_path):
    from tfdfd.models import build
    from tfdfd.pipelines.datasets import eval_pipeline

    clone(faces, tmp_path / "noise")
    network = build("srm_mobilenet_v2", input_shape=(64, 64, 3), truncate=127 / 255)
    import keras

    noise = keras.Model(network.input, network.get_layer("noise").output)
    [(crops, labels)] = eval_pipeline(faces, 64, COUNT, split=None)
    [(cloned, same_labels)] = eval_pipeline(tmp_path / "noise", 64, COUNT, split=None)
    # Half a grey level of rounding, and half between 128 / 255 and the layer's 0.5.
    assert np.abs(np.asarray(noise(crops)) - cloned.numpy()).max() <= 1 / 255 + 1e-5
    assert np.asarray(cloned).std() > 0.01
    np.testing.assert_array_equal(labels, same_labels)


def test_verb_clones_rows_and_tells_how(faces, tmp_path, run_tfdfd):
    code, out, err = run_tfdfd("srm", faces, "-o", tmp_path / "noise")
    assert code == 0 and out.startswith(f"{COUNT} crops: ") and f"[1/1] {COUNT} of {COUNT} crops" in err
    before, after = read_table(faces / "faces.csv", FaceRow), read_table(tmp_path / "noise" / "faces.csv", FaceRow)
    assert [replace(row, sha256=None) for row in after] == [replace(row, sha256=None) for row in before]
    for row in after:
        file = tmp_path / "noise" / row.file
        assert hashlib.sha256(file.read_bytes()).hexdigest() == row.sha256
        expected = residuals(read(faces / row.file), SrmOptions())
        assert np.abs(from_levels(read(file), 127) - np.clip(expected, -127, 127)).max() <= 0.5
    run = json.loads((tmp_path / "noise" / "run.json").read_text())
    assert run["finished"] and run["counts"]["crops"] == COUNT and 0 <= run["counts"]["clipped"] < 0.05
    assert run["srm"]["kernels"] == ["KB", "KV", "second"] and run["srm"]["truncate"] == 127
    assert run["srm"]["stored"] == "level = 128 + round(127 * residual / truncate), residuals in grey levels"


def test_verb_with_one_kernel_and_a_small_range(faces, tmp_path, run_tfdfd):
    words = ["srm", faces, "-o", tmp_path / "noise", "--kernels", "KV", "--truncate", "2", "--quiet"]
    code, out, err = run_tfdfd(*words)
    assert (code, err) == (0, "") and "% of the residuals reach 2 gray levels" in out
    row = read_table(tmp_path / "noise" / "faces.csv", FaceRow)[0]
    expected = np.clip(cv2.filter2D(read(faces / row.file).astype(np.float32), cv2.CV_32F, kv()), -2, 2)
    assert np.abs(from_levels(read(tmp_path / "noise" / row.file), 2) - expected).max() <= 2 / 254 + 1e-3
    told = json.loads((tmp_path / "noise" / "run.json").read_text())["counts"]["clipped"]
    assert told == pytest.approx(np.mean([clipped(faces / r.file) for r in rows_of(faces)]), abs=0.01)


def kv():
    from tfdfd.models.srm import SRM_KERNELS

    return SRM_KERNELS["KV"]


def rows_of(folder):
    return read_table(folder / "faces.csv", FaceRow)


def clipped(file):
    return np.mean(np.abs(cv2.filter2D(read(file).astype(np.float32), cv2.CV_32F, kv())) >= 2 * (1 - 1 / 254))


def test_the_table_of_a_split_elsewhere_and_a_plain_folder(faces, tmp_path, astronaut, monkeypatch):
    moved = [replace(row, file=f"../faces/{row.file}") for row in rows_of(faces)]
    (tmp_path / "tables").mkdir()
    write_table(tmp_path / "tables" / "split.csv", moved, FaceRow)
    monkeypatch.setenv("TFDFD_DATA", str(faces))
    clone(tmp_path / "tables" / "split.csv", tmp_path / "noise")
    assert [row.file for row in rows_of(tmp_path / "noise")] == [f"faces/{row.file}" for row in rows_of(faces)]
    assert set(bytes_of(tmp_path / "noise")) == {f"faces/{row.file}" for row in rows_of(faces)} | {
        "faces.csv",
        "run.json",
    }
    for name in ("real/a.jpg", "fake/m/b.png"):
        file = tmp_path / "plain" / name
        file.parent.mkdir(parents=True)
        cv2.imwrite(str(file), astronaut[:40, :50])
    clone(tmp_path / "plain", tmp_path / "plain_noise")
    rows = rows_of(tmp_path / "plain_noise")
    assert [(row.file, row.label, row.method) for row in rows] == [
        ("real/a.png", 0, "original"),
        ("fake/m/b.png", 1, "m"),
    ]


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_a_run_that_was_stopped_goes_on_and_ends_in_the_same_bytes(faces, tmp_path, monkeypatch, stop):
    monkeypatch.setattr(srm_set, "BLOCK", 4)
    counts = clone(faces, tmp_path / "whole")
    with SrmSet(faces, tmp_path / "noise", SrmOptions()) as noise:
        steps = noise.clone()
        for _ in range(stop):
            next(steps)
        with pytest.raises(RuntimeError, match=rf"{4 * stop} of {COUNT} crops are cloned"):
            noise.finish()
    done = sorted((tmp_path / "noise").rglob("*.png"))
    if done:
        # A torn file, as a file system may leave it after a power cut.
        done[0].write_bytes(done[0].read_bytes()[:-40])
        done[1].write_bytes(b"")
    (tmp_path / "noise" / ".tfdfd-0.tmp").write_bytes(b"left over")
    assert clone(faces, tmp_path / "noise") == counts
    assert bytes_of(tmp_path / "noise") == bytes_of(tmp_path / "whole")


def test_what_is_there_is_not_made_again(faces, tmp_path, monkeypatch):
    clone(faces, tmp_path / "noise")
    monkeypatch.setattr(srm_set, "residuals", None)
    clone(faces, tmp_path / "noise")


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_killed_at_random_moments_it_ends_in_the_same_bytes(tmp_path, astronaut):
    faces = make_set(tmp_path / "faces", astronaut, count=300, side=160)
    clone(faces, tmp_path / "whole")
    command = [sys.executable, "-m", "tfdfd", "srm", faces, "-o", tmp_path / "noise", "--workers", "2"]
    draw = random.Random(0)
    for _ in range(3):
        wanted = len(list((tmp_path / "noise").rglob("*.png"))) + draw.randint(1, 60)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list((tmp_path / "noise").rglob("*.png"))) < wanted:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "noise" / "faces.csv").exists()
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == 0
    assert bytes_of(tmp_path / "noise") == bytes_of(tmp_path / "whole")


def test_nothing_is_overwritten(faces, tmp_path, run_tfdfd, monkeypatch):
    before = bytes_of(faces)
    monkeypatch.chdir(faces)
    for target in (faces, ".", faces / "crops" / ".."):
        code, _, err = run_tfdfd("srm", faces / "faces.csv", "-o", target)
        assert code == 2 and "is the folder of the crops" in err
    code, _, err = run_tfdfd("srm", faces, "-o", tmp_path)
    assert code == 2 and "is not empty and holds no SRM set" in err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text('{"schema": 1, "finished": true}')
    code, _, err = run_tfdfd("srm", faces, "-o", tmp_path / "other")
    assert code == 2 and "holds other work than an SRM set" in err
    (tmp_path / "other" / "run.json").write_text("[]")
    code, _, err = run_tfdfd("srm", faces, "-o", tmp_path / "other")
    assert code == 2 and "a list where an object is expected" in err
    assert bytes_of(faces) == before and os.listdir(tmp_path / "other") == ["run.json"]


def test_other_crops_or_options_are_not_mixed(faces, tmp_path, run_tfdfd):
    noise = tmp_path / "noise"
    assert run_tfdfd("srm", faces, "-o", noise)[0] == 0
    before = bytes_of(noise)
    code, _, err = run_tfdfd("srm", faces, "-o", noise, "--truncate", "2")
    assert code == 2 and "started with other settings: srm.truncate was 127.0, now 2.0" in err
    write_table(faces / "fewer.csv", rows_of(faces)[1:], FaceRow)
    code, _, err = run_tfdfd("srm", faces / "fewer.csv", "-o", noise)
    assert code == 2 and "started with other settings: crops_sha256 was" in err
    code, _, err = run_tfdfd("srm", noise, "-o", tmp_path / "twice")
    assert code == 2 and "holds noise already" in err
    assert bytes_of(noise) == before


def test_two_at_once_are_kept_apart(faces, tmp_path):
    with SrmSet(faces, tmp_path / "noise"), pytest.raises(ValueError, match="another 'tfdfd srm' is at work"):
        SrmSet(faces, tmp_path / "noise")


def test_two_crops_of_one_name_are_refused(tmp_path, astronaut):
    faces = make_set(tmp_path / "faces", astronaut, count=2)
    one, other = rows_of(faces)
    write_table(faces / "faces.csv", [one, replace(other, file=one.file.replace(".png", ".jpg"))], FaceRow)
    with pytest.raises(ValueError, match=r"000000-0.png and crops/v0/000000-0.jpg would have their noise in the same"):
        SrmSet(faces, tmp_path / "noise")
    assert not (tmp_path / "noise").exists()


def spoil_missing(file):
    file.unlink()


def spoil_text(file):
    file.write_bytes(b"no picture")


def spoil_empty(file):
    file.write_bytes(b"")


def spoil_cut(file):
    cv2.imwrite(str(file.with_suffix(".jpg")), cv2.imread(str(file)))
    file.write_bytes(file.with_suffix(".jpg").read_bytes()[:600])


def spoil_small(file):
    cv2.imwrite(str(file), np.zeros((2, 50, 3), np.uint8))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (spoil_missing, "cannot be read: No such file"),
        (spoil_text, "cannot be filtered: .* cannot be decoded"),
        (spoil_empty, "cannot be filtered: .* cannot be decoded"),
        (spoil_cut, "cannot be filtered: .* cannot be decoded"),
        (spoil_small, r"cannot be filtered: image is .* expected RGB uint8 \(height, width, 3\), sides at least 3"),
    ],
)
def test_a_bad_crop_is_named_and_the_rest_stays(faces, tmp_path, spoil, told):
    file = faces / "crops" / "v1" / "000005-0.png"
    good = file.read_bytes()
    rows = rows_of(faces)
    write_table(faces / "faces.csv", [replace(row, sha256=None) for row in rows], FaceRow)
    spoil(file)
    with pytest.raises(ValueError, match=rf"the crop .*/v1/000005-0\.png {told}"):
        clone(faces, tmp_path / "noise")
    assert not (tmp_path / "noise" / "faces.csv").exists()
    assert (tmp_path / "noise" / "crops" / "v0" / "000000-0.png").exists()
    file.write_bytes(good)
    assert clone(faces, tmp_path / "noise")["crops"] == COUNT


def test_a_crop_that_is_not_the_tables_is_refused(faces, tmp_path):
    rows = rows_of(faces)
    (faces / rows[3].file).write_bytes((faces / rows[4].file).read_bytes())
    with pytest.raises(
        ValueError, match=rf"{rows[3].file} has other bytes than its table says .sha256 {rows[3].sha256}"
    ):
        clone(faces, tmp_path / "noise")


def test_a_full_disk_says_so_and_what_was_done_stays(faces, tmp_path, run_tfdfd, monkeypatch):
    clone(faces, tmp_path / "whole")
    write, written = srm_set.write_atomically, []

    def full(path, data):
        if len(written) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path)
        write(path, data)

    monkeypatch.setattr(srm_set, "write_atomically", full)
    code, _, err = run_tfdfd("srm", faces, "-o", tmp_path / "noise")
    assert code == 1 and "No space left on device" in err and "the same command resumes it" in err
    monkeypatch.setattr(srm_set, "write_atomically", write)
    assert run_tfdfd("srm", faces, "-o", tmp_path / "noise")[0] == 0
    assert bytes_of(tmp_path / "noise") == bytes_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--kernels", "KX"], "one of KB, KV, second, or all three, .* received KX"),
        (["--kernels", "KB", "KV"], "received KB KV"),
        (["--kernels", "KB", "KB", "KV"], "received KB KB KV"),
        (["--truncate", "0"], "truncate must be above 0 and at most 3,060 gray levels; received 0.0"),
        (["--truncate", "nan"], "received nan"),
        (["--workers", "0"], "--workers must be at least 1; received 0"),
    ],
)
def test_wrong_usage(faces, tmp_path, run_tfdfd, words, told):
    code, out, err = run_tfdfd("srm", faces, "-o", tmp_path / "noise", *words)
    assert (code, out) == (2, "") and re.search(told, err)
    assert not (tmp_path / "noise").exists()


def test_real_crops(data, tmp_path):
    from tfdfd.models.srm import SRM

    clone(data / "crops" / "dfdc", tmp_path / "noise")
    rows = rows_of(tmp_path / "noise")
    assert len(rows) == 22
    layer = SRM(truncate=127)
    for row in rows:
        image = read(data / "crops" / "dfdc" / row.file)
        back = from_levels(read(tmp_path / "noise" / row.file), 127)
        assert np.abs(back - np.asarray(layer(image))).max() <= 0.5 + 1e-3
