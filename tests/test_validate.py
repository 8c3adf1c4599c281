"""The validation table: which videos it takes, its figures on known scores, and that kept scores change nothing."""

import json
import zlib
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from tfdfd import Detector
from tfdfd.data.tables import FaceRow, write_table
from tfdfd.detect.verdict import verdict_of
from tfdfd.evaluation import scoring
from tfdfd.metrics.scores import ScoreRow
from tools import validate as tool
from tools.validate import ALL, PHOTOGRAPHS, TOGETHER, figures, summary, validate

CLIP_FOLDERS = {
    "original_sequences/youtube/c23/videos/004.mp4": False,
    "original_sequences/youtube/c23/videos/982.mp4": True,
    "manipulated_sequences/Deepfakes/c23/videos/004_982.mp4": False,
}  # name to whether it is damaged


@pytest.fixture(scope="module", autouse=True)
def _few_draws():
    with pytest.MonkeyPatch.context() as patch:
        real = tool.bootstrap_interval
        patch.setattr(tool, "bootstrap_interval", lambda *arguments: real(*arguments, resamples=50))
        yield


@dataclass
class Fixed:
    """A model's threshold and band without the model."""

    threshold: float = 0.5
    band: tuple | None = None

    def verdict(self, score):
        return verdict_of(score, self.threshold, self.band)


def score_rows(*videos):
    """Rows of `(name, source, label, scores)`."""
    return [
        ScoreRow(
            f"{name}-{place}.png", "set", name, place, 0, label, ("original", "swap")[label], (source,), None, "val",
            score, "ok" if score is not None else "no_face",
        )
        for name, source, label, scores in videos
        for place, score in enumerate(scores)
    ]  # fmt: skip


def test_figures_of_known_scores():
    rows = score_rows(
        ("a", "1", 0, [0.1, 0.3]), ("b", "2", 0, [0.5, 0.7]), ("c", "1", 1, [0.9]), ("d", "2", 1, [0.35, 0.45])
    )
    found = figures(rows, Fixed(0.5, (0.38, 0.6)))
    assert found["auc"] == 0.75  # videos: 0.2 and 0.6 against 0.9 and 0.4
    assert found["real"]["n"] == 2 and found["real"]["real"] == 0.5 and found["real"]["inconclusive"] == 0.5
    assert found["fake"]["fake"] == 0.5 and found["fake"]["inconclusive"] == 0.5 and found["fake"]["failed"] == 0
    by_crop = figures(rows, Fixed(), "crop")
    assert by_crop["auc"] == pytest.approx(8 / 12, abs=1e-4)
    assert (by_crop["real"]["n"], by_crop["fake"]["n"], by_crop["real"]["fake"]) == (4, 3, 0.5)


def test_a_video_without_a_score_is_counted():
    rows = score_rows(("a", "1", 0, [0.1]), ("b", "2", 0, [None]), ("c", "3", 1, [0.3]), ("d", "4", 1, [0.8]))
    found = figures(rows, Fixed())
    assert found["auc"] == 0.75 and found["real"] | {"failed": 1, "n": 2, "real": 0.5} == found["real"]


def test_intervals_are_over_sources():
    videos = [(f"{label}{n}", f"{label}{n}", label, [n / 10 + label / 4]) for label in (0, 1) for n in range(8)]
    found = figures(score_rows(*videos), Fixed())
    low, high = found["auc_ci95"]
    assert low < found["auc"] < high and found["real"]["fake_ci95"][0] < found["real"]["fake_ci95"][1]
    one_source = score_rows(*((name, "same", label, scores) for name, _, label, scores in videos))
    assert figures(one_source, Fixed())["auc_ci95"] is None


def test_the_summary_takes_the_worst_large_source():
    def part(**sources):
        return {
            "figures": {name: {"real": {"n": n, "fake": f, "inconclusive": i}} for name, (n, f, i) in sources.items()}
        }

    parts = {"ffpp": {"figures": {"by video": {"auc": 0.9}}}, "clips": {"figures": {ALL: {"auc": 0.7}}}}
    parts |= {
        "swapped": {"skipped": "no"},
        "genuine": part(few=(5, 1.0, 0.0), many=(50, 0.1, 0.2), more=(20, 0.3, 0.1)),
    }
    assert summary({"parts": parts}) == {
        "ffpp_val_video_auc": 0.9,
        "clips_auc": 0.7,
        "swapped_auc": None,
        "worst_genuine_fake_share": 0.3,
        "worst_genuine_inconclusive_share": 0.2,
        "mean": 0.8,
    }


@pytest.fixture(scope="module")
def small_data(tmp_path_factory, astronaut, make_video):
    """A folder with `real_deepfakes` and photographs, of one face in varying light."""
    root = tmp_path_factory.mktemp("data")
    face = astronaut[20:220, 124:324]
    held = [name for name in map("talking {}".format, range(40)) if zlib.crc32(name.encode()) / 2**32 < 0.25][:2]
    trained = [name for name in map("talking {}".format, range(40)) if zlib.crc32(name.encode()) / 2**32 >= 0.25][:2]
    videos = [("ffpp", f"{n:03d}", 0, "original", "val", "c23") for n in range(3)]
    videos += [("ffpp", f"{n:03d} {m}", 1, m, "val", "c40") for n in range(3) for m in ("Deepfakes", "FaceSwap")]
    videos += [("ffpp", "900", 0, "original", "train", "c23"), ("ffpp", "901", 0, "original", "test", "c40")]
    videos += [("talking_heads", name, 0, "original", "train", None) for name in held + trained]
    write_faces(root / "real_deepfakes", videos, face)
    photographs = [("folder", f"photograph {n}", 0, "original", ("val", "test")[n // 2], None) for n in range(4)]
    write_faces(root / "photographs", photographs, face)
    swaps = [("folder", f"photograph {n}", 0, "original", "val", None) for n in range(2)]
    swaps += [("folder", f"photograph {n}#swapped", 1, "swapped", "val", None) for n in range(2)]
    write_faces(root / "swaps", swaps, face)
    for name, damaged in CLIP_FOLDERS.items():
        file = root / "real_deepfakes/val_clips" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"no video") if damaged else make_video(file, [astronaut[:256, 96:352]] * 3)
    return root, held


def write_faces(folder, videos, face):
    rows = []
    (folder / "crops").mkdir(parents=True)
    for number, (dataset, video, label, method, split, compression) in enumerate(videos):
        file = f"crops/{number}.png"
        Image.fromarray(np.clip(face * (1 - 0.03 * number), 0, 255).astype(np.uint8)).save(folder / file)
        rows.append(
            FaceRow(
                file, dataset, video, 0, 0.0, 0, (0, 0, 200, 200), None, label, method, (video.split(" ")[0],),
                compression=compression, split=split,
            )
        )  # fmt: skip
    write_table(folder / "faces.csv", rows, FaceRow)


@pytest.fixture(scope="module")
def result(small_data, toy_weights, tmp_path_factory):
    cache = tmp_path_factory.mktemp("kept")
    arguments = ([toy_weights], small_data[0], small_data[0] / "photographs", small_data[0] / "swaps", cache)
    return validate(*arguments), arguments


def test_every_part_has_figures_and_says_of_what(result):
    (entry,) = result[0]["models"]
    assert set(entry["parts"]) == set(tool.PARTS)
    for content in entry["parts"].values():
        assert set(content["protocol"]) == {"data", "split", "level", "threshold"} and content["figures"]
    assert entry["summary"]["mean"] is not None and json.loads(json.dumps(result[0])) == result[0]


def test_validation_videos_alone_are_taken(result, small_data):
    parts = {name: content["figures"] for name, content in result[0]["models"][0]["parts"].items()}
    assert (parts["ffpp"]["by video"]["real"]["n"], parts["ffpp"]["by video"]["fake"]["n"]) == (3, 6)
    assert parts["ffpp"]["FaceSwap, by video"]["fake"]["n"] == 3 and "c40 only, by video" in parts["ffpp"]
    counts = {name: found["real"]["n"] for name, found in parts["genuine"].items()}
    assert counts == {"ffpp": 3, "talking_heads": 2, PHOTOGRAPHS: 2, "clips": 2, TOGETHER: 4}
    root, held = small_data
    taken = {row.video for row in tool._validation(root / "real_deepfakes").rows if row.dataset == "talking_heads"}
    assert taken == set(held)
    assert {name: found["fake"]["n"] for name, found in parts["blended"].items()} == {
        "talking_heads": 2,
        PHOTOGRAPHS: 2,
    }
    assert set(parts["degraded"]) == set(tool.DEGRADED)


def test_clips_have_the_scores_of_detect_and_failures_count(result, small_data, toy_weights):
    clips = result[0]["models"][0]["parts"]["clips"]["figures"][ALL]
    assert (clips["real"]["n"], clips["real"]["failed"], clips["fake"]["failed"]) == (2, 1, 0)
    arguments = result[1]
    folder = small_data[0] / "real_deepfakes/val_clips"
    rows = tool.score_clips(tool.Model(toy_weights), folder, arguments[4])
    with Detector(toy_weights) as detector:
        found = {row.file: detector.detect(folder / row.file) for row in rows}
    assert {row.file: row.fake_probability for row in rows} == {f: one.fake_probability for f, one in found.items()}
    assert {row.file: row.status for row in rows} == {f: one.status for f, one in found.items()}
    # What failed may go better next time.
    assert not list((arguments[4] / "clips").rglob("*.json")) and len(list((arguments[4] / "faces").iterdir())) == 1


def test_kept_scores_give_the_same_result(result, monkeypatch):
    first, arguments = result
    rows = score_rows(("a", "1", 0, [0.1]), ("b", "2", 1, [0.6]))
    monkeypatch.setattr(tool, "score_clips", lambda model, folder, cache: rows)  # not kept, as one has failed
    monkeypatch.setattr(scoring, "_score_part", None)
    again = validate(*arguments)
    for part in set(tool.PARTS) - {"clips", "genuine"}:
        assert again["models"][0]["parts"][part] == first["models"][0]["parts"][part]


def test_the_command_prints_the_table_and_what_is_skipped(result, tmp_path, capsys):
    _, (models, data, _, _, cache) = result
    file = tmp_path / "validation.json"
    words = [
        *map(str, models),
        "--data",
        str(data),
        "--cache",
        str(cache),
        "--parts",
        "ffpp",
        "swapped",
        "-o",
        str(file),
    ]
    tool.main(words)
    printed = capsys.readouterr()
    assert "AUC FaceSwap, by video (3 real, 3 fake)" in printed.out and "no --swaps given" in printed.out
    assert "FaceForensics++ crops: 9 crops" in printed.err
    parts = json.loads(file.read_text("utf-8"))["models"][0]["parts"]
    assert parts["clips"] == {"skipped": "not asked for"} and parts["ffpp"]["figures"]


def test_tails_are_written_into_the_card_of_these_weights(tmp_path):
    card = {"sha256": "a" * 64, "threshold": 0.5, "inconclusive_band": [0.3, 0.6], "limits": ["é"]}
    (tmp_path / "a.json").write_text(json.dumps({"sha256": "b" * 64}))
    (tmp_path / "b.json").write_text(json.dumps(card | {"genuine_tails": []}))
    scores = [round(0.02 * n, 2) for n in range(40)]
    entry = {"model": "toy", "sha256": "a" * 64, "domains": {"photographs": [scores, []]}}
    tool.write_tails(entry, tmp_path)
    written = json.loads((tmp_path / "b.json").read_text("utf-8"))
    assert list(written) == ["sha256", "threshold", "inconclusive_band", "genuine_tails", "limits"]
    [tail] = written["genuine_tails"]
    assert (tail["domain"], tail["n"], tail["highest"], tail["n_above"]) == ("photographs", 40, [0.78], 10)
    with pytest.raises(ValueError, match="no card of toy"):
        tool.write_tails(entry | {"sha256": "c" * 64}, tmp_path)
    with pytest.raises(ValueError, match="no genuine scores"):
        tool.write_tails(entry | {"domains": {}}, tmp_path)


def test_missing_data_is_said(toy_weights, tmp_path):
    (entry,) = validate([toy_weights], tmp_path, cache=tmp_path)["models"]
    assert all("skipped" in content for content in entry["parts"].values())
    assert str(tmp_path) in entry["parts"]["ffpp"]["skipped"] and entry["summary"]["mean"] is None
    with pytest.raises(SystemExit):
        tool.main(
            [str(toy_weights), "--data", str(tmp_path), "--swaps", str(tmp_path / "none"), "--cache", str(tmp_path)]
        )
