"""The report page: what it shows, what it refuses to run or load, how it is drawn and how it is written."""

import base64
import csv
import hashlib
import io
import json
import math
import os
import re
from functools import lru_cache
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from tests.browser import Browser
from tfdfd import files
from tfdfd.detect.results import STATUSES, Detection, FaceTrack, FrameScore
from tfdfd.report import chart, page, pictures
from tfdfd.report.page import render_report, write_report
from tfdfd.report.pictures import Gallery

MODEL = {
    "handle": "tfdfd/meso_inception4",
    "sha256": "9f" * 32,
    "threshold": 0.5,
    "inconclusive_band": [0.42, 0.58],
    "card": {
        "licence": "Apache-2.0",
        "training_data": ["FaceForensics++ c23", "own recordings"],
        "protocol": "official split by source video; 32 frames a clip",
        "scores": [
            {
                "set": "FaceForensics++ c23",
                "level": "video",
                "n_real": 140,
                "n_fake": 560,
                "auc": 0.9312,
                "auc_ci95": [0.905, 0.953],
                "balanced_accuracy": 0.846,
                "majority_baseline": 0.8,
            },
            {"set": "Celeb-DF v2", "level": "video", "n_real": 178, "n_fake": 340, "auc": 0.61, "eer": None},
        ],
        "operating_points": {"balanced": {"threshold": 0.5, "fpr": 0.15}, "strict": {"threshold": 0.83, "fpr": 0.01}},
        "limits": ["Trained on <b>frontal</b> faces."],
    },
}
SETTINGS = {"version": "0.1.0", "detector": "mtcnn", "frames_per_clip": 32, "max_seconds": 600.0}
HOSTILE = "<script>alert(1)</script>.mp4"
UNDECODABLE = os.fsdecode(b"caf\xe9.mp4")
FAKE_BADGE = (0xB4, 0x23, 0x18)


photograph = lru_cache(maxsize=1)(astronaut)


def face(number):
    """The astronaut's face, shifted and lit a little differently from frame to frame."""
    left = 155 + number % 12
    crop = photograph()[20:200, left : left + 135].astype(np.float32)
    return (crop * (0.75 + 0.01 * (number % 25))).astype(np.uint8)


def track_of(number, scores, seconds_apart=0.32, crops=True):
    frames = [
        FrameScore(
            index=8 * place,
            time_s=seconds_apart * place,
            box=(120 + place, 40, 110, 150),
            detector_score=0.99,
            fake_probability=score,
            crop=face(place) if crops else None,
        )
        for place, score in enumerate(scores)
    ]
    return FaceTrack(number, float(np.mean(scores)), frames)


def scored(path, verdict, tracks, kind="video", duration_s=10.4):
    return Detection(
        path,
        kind,
        "ok",
        fake_probability=max(track.fake_probability for track in tracks),
        verdict=verdict,
        frames_requested=32 if kind == "video" else 1,
        frames_scored=max(len(track.frames) for track in tracks),
        duration_s=duration_s,
        elapsed_s=1.9,
        faces=tracks,
    )


def two_faces(path="clips/interview.mp4"):
    suspicious = [min(0.999, 0.84 + 0.13 * math.sin(place / 3) - (place in (9, 10)) * 0.4) for place in range(32)]
    calm = [0.16 + 0.1 * math.cos(place / 4) for place in range(32)]
    return scored(path, "fake", [track_of(0, calm), track_of(1, suspicious)])


def with_views(detection, size=(90, 160)):
    """The same with a whole frame for each index that has a face."""
    indices = {frame.index for track in detection.faces for frame in track.frames}
    detection.views = {index: np.full((*size, 3), index % 256, np.uint8) for index in indices}
    detection.frame_size = (4 * size[0], 4 * size[1])
    return detection


def image(path="portrait.jpg", score=0.127, verdict="real"):
    return scored(path, verdict, [track_of(0, [score])], kind="image", duration_s=None)


def failures():
    return [
        Detection(f"{status}.mp4", "video", status, message=f"{status}: see the manual & try again.")
        for status in STATUSES
        if status != "ok"
    ]


def everything():
    undecided = scored(UNDECODABLE, "inconclusive", [track_of(0, [0.45 + 0.01 * (n % 9) for n in range(20)])])
    return [two_faces(), image(), undecided, image(HOSTILE, 0.97, "fake"), *failures()]


# One with what can be saved, and one that runs.
OUR_SCRIPTS = 2


class Elements(HTMLParser):
    """Collects the start tags, the attributes, the scripts and the visible text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.scripts = [], [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        (self.scripts if self.tags and self.cdata_elem == "script" else self.texts).append(data)


def test_shows_every_input_with_status_verdict_and_score():
    elements = Elements(render_report(everything(), MODEL, settings=SETTINGS))
    for status in STATUSES:
        assert status in elements.text
        assert page.STATUS_TEXT[status] in elements.text
    for wanted in ("10 inputs, 4 scored", "fake", "real", "inconclusive", "not scored", "0.127", "32 of 32", "10.4 s"):
        assert wanted in elements.text
    assert elements.tags.count("section") == 4  # inputs, limits, examination, card
    assert elements.tags.count("li") >= 10
    assert "timeout: see the manual & try again." in elements.text
    assert "not forensic proof" in elements.text


def test_shows_the_card_and_the_settings():
    text = Elements(render_report([image()], MODEL, settings=SETTINGS)).text
    for wanted in ("[0.905, 0.953]", "Majority baseline", "0.800", "Celeb-DF v2", "Apache-2.0", "strict", "0.010"):
        assert wanted in text
    for wanted in ("FaceForensics++ c23, own recordings", "Trained on <b>frontal</b> faces.", "mtcnn", "600"):
        assert wanted in text


def test_the_worst_face_comes_first_and_explains_the_score():
    detection = two_faces()
    text = Elements(render_report([detection], MODEL)).text
    assert "Verdict: fake" in text
    assert "32 frames of Face 2, the one of 2 faces that looks most fake" in text
    assert text.index(f"Face 2: {detection.fake_probability:.3f}") < text.index("Face 1: 0.1")


def test_several_faces_are_held_against_their_own_threshold():
    detection = two_faces()
    detection.faces.append(track_of(2, [0.999] * 4))
    detection.faces[2].decides, detection.faces[2].left_out = False, "small"
    detection.faces_judged, detection.correction = 2, "validation"
    detection.threshold, detection.inconclusive_band = 0.83, (0.42, 0.83)
    text = Elements(render_report([detection, image()], MODEL)).text
    assert "Scores above 0.83 point to fake, scores below 0.42 to real" in text
    assert "Scores above 0.58 point to fake" in text  # of the image, which says nothing else
    assert "2 faces decide. The highest of several scores of genuine faces" in text
    assert "4 frames scored; does not decide: too small to score reliably" in text
    assert text.index("Face 2: 0.8") < text.index("Face 1: 0.1") < text.index("Face 3: 0.999")
    assert "2 of 3" in text

    for track in detection.faces:
        track.decides, track.left_out = False, "doubtful"
    detection.faces_judged = 0
    text = Elements(render_report([detection], MODEL)).text
    assert "No face is large and certain enough for a verdict" in text and "Scores above" not in text


def test_crops_are_the_strongest_both_ways():
    text = render_report([two_faces()], MODEL)
    captions = [float(value) for value in re.findall(r'alt="Face 2 at [\d.]+ s, P\(fake\) ([\d.]+)"', text)]
    scores = sorted(frame.fake_probability for frame in two_faces().faces[1].frames)
    assert captions == pytest.approx([*scores[:-7:-1], *scores[:2]], abs=5e-4)
    jpegs = re.findall(r"data:image/jpeg;base64,([\w+/=]+)", text)
    assert len(jpegs) == 16
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(jpegs[0]), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert picture.shape == (128, 96, 3)
    assert picture[..., 0].mean() > picture[..., 2].mean() + 15  # skin is red, not blue


def test_whole_frames_have_boxes_and_numbers():
    text = render_report([with_views(two_faces())], MODEL)
    shots = re.findall(r'<figure class="shot">.*?</figure>', text, re.S)
    assert len(shots) == 3
    best = {max(track.frames, key=lambda frame: frame.fake_probability).index for track in two_faces().faces}
    shown = [int(re.search(r"frame (\d+) ·", shot)[1]) for shot in shots]
    assert shown == sorted(shown) and best <= set(shown)
    for shot, index in zip(shots, shown, strict=True):
        # The box of frame number n is at (120 + n / 8, 40) in a frame of 640 x 360 pixels.
        assert f'<rect class="box t0" x="{round(100 * (120 + index // 8) / 640, 2)}%" y="11.11%" width="17.19%"' in shot
        assert shot.count('class="box t') == 2 and re.findall(r"middle\">(\d)</text>", shot) == ["2", "1"]


def test_the_timeline_has_the_frame_of_each_moment():
    elements = Elements(render_report([with_views(two_faces())], MODEL))
    moments = json.loads(elements.scripts[0])
    assert [moment["cell"] for moment in moments] == list(range(32))
    assert moments[2]["time"] == 0.64 and moments[2]["faces"][0]["name"] == "Face 2"
    assert moments[2]["x"] == pytest.approx(100 * 0.64 / 10.4, abs=0.01)
    without = Elements(render_report([two_faces()], MODEL))
    assert {moment["cell"] for moment in json.loads(without.scripts[0])} == {None}


def test_a_gallery_keeps_the_most_suspicious_in_memory_and_in_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "PICTURED_INPUTS", 2)
    scores = [0.3, 0.9, 0.1, 0.9, 0.8]
    in_memory, stored = Gallery(5), Gallery(5, tmp_path / "pictures")
    for place, score in enumerate(scores):
        if place == 3:  # stopped in between
            stored = Gallery(5, tmp_path / "pictures")
        for gallery in (in_memory, stored):
            gallery.add(place, image(score=score))
    assert [place in in_memory for place in range(5)] == [place in stored for place in range(5)]
    assert [place for place in range(5) if place in stored] == [1, 3]
    assert stored.get(1) == in_memory.get(1) and stored.get(0) is None
    assert len(list((tmp_path / "pictures").iterdir())) == 2
    (tmp_path / "pictures" / "0000001.json").write_text("{")
    assert 1 not in Gallery(5, tmp_path / "pictures")


def test_the_examination_states_the_error_rates_with_their_protocol():
    card = MODEL["card"] | {"scores": [{"set": "A", "weights": "these", "n_real": 9, "tpr_at_threshold": 0.75,
        "fpr_at_threshold": 0.05, "auc": 0.9}, {"set": "B", "weights": "another"}]}  # fmt: skip
    text = Elements(render_report([image()], MODEL | {"card": card})).text
    part = text[text.index("Examination") : text.index("Model card")]
    assert "SWGDE 23-V-001" in part and "0.050" in part and "0.250" in part and "official split" in part
    assert "states no error rates" in Elements(render_report([image()], {})).text


def test_an_image_gets_a_scale_instead_of_a_line():
    assert "<polyline" not in render_report([image()], MODEL)
    assert "<polyline" in render_report([two_faces()], MODEL)


@pytest.mark.parametrize(
    "text", [HOSTILE, '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "]]></svg><script>x</script>"]
)
def test_hostile_text_stays_text(text):
    card = dict.fromkeys(("licence", "protocol", text), text) | {"scores": [{text: text}], "limits": [text]}
    model = MODEL | {"handle": text, "sha256": text, "card": card}
    failed = Detection(text, None, "decode_error", message=text)
    elements = Elements(render_report([image(text), failed], model, settings={text: text}))
    assert elements.tags.count("script") == OUR_SCRIPTS
    assert not [name for _, name, _ in elements.attributes if name.startswith("on")]
    assert elements.text.count(text) >= 10
    saved = json.loads(elements.scripts[0])
    assert json.loads(saved["json"])["results"][0]["path"] == text
    assert [row["path"] for row in csv.DictReader(io.StringIO(saved["csv"]))] == [text, text]


@pytest.mark.parametrize(
    "name, shown",
    [
        (UNDECODABLE, r"caf\xe9.mp4"),
        ("a\u202egpj.exe", r"a\u202egpj.exe"),
        ("a\x1b[31m.mp4", r"a\x1b[31m.mp4"),
        ("a\n<b>.mp4", r"a\n<b>.mp4"),
    ],
)
def test_odd_names_become_readable(name, shown):
    text = render_report([Detection(name, None, "not_found", message=f"{name} is missing")], MODEL)
    assert text.encode("utf-8")
    assert not set(text) & set("\u202e\x1b")
    assert Elements(text).text.count(shown) >= 3  # the title, the heading and the examined file


def test_the_page_loads_nothing():
    text = render_report(everything(), MODEL, settings=SETTINGS)
    elements = Elements(text)
    for forbidden in ("http://", "https://", 'src="//', "url(", "@import"):
        assert forbidden not in text.replace("http://www.w3.org/2000/svg", "")
    assert not {"link", "iframe", "object", "embed", "base"} & set(elements.tags)
    for _, name, value in elements.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "poster", "data", "action"):
            assert value.startswith(("data:image/jpeg;base64,", "#"))
    [policy] = [value for _, name, value in elements.attributes if name == "content" and "default-src" in value]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-")
    digest = base64.b64encode(hashlib.sha256(elements.scripts[-1].encode()).digest()).decode()
    assert policy.split("; ")[3] == f"script-src 'sha256-{digest}'"


def test_same_input_gives_the_same_page():
    assert render_report(everything(), MODEL) == render_report(everything(), MODEL)


def test_every_picture_has_a_text_and_every_reference_its_target():
    elements = Elements(render_report(everything(), MODEL))
    assert elements.tags.count("img") == sum(bool(value) for tag, name, value in elements.attributes if name == "alt")
    ids = [value for _, name, value in elements.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for _, name, value in elements.attributes:
        if name in ("aria-labelledby", "href"):
            assert value.removeprefix("#") in ids


@pytest.mark.parametrize("missing", [*MODEL, "all"])
def test_a_model_may_lack_anything(missing):
    model = {} if missing == "all" else {key: value for key, value in MODEL.items() if key != missing}
    assert "Verdict: fake" in Elements(render_report([two_faces()], model)).text


@pytest.mark.parametrize("missing", MODEL["card"])
def test_a_card_may_lack_anything(missing):
    card = {key: value for key, value in MODEL["card"].items() if key != missing}
    assert "Model card" in render_report([image()], MODEL | {"card": card})
    assert "Model card" in render_report([image()], MODEL | {"card": MODEL["card"] | {missing: None}})


def test_no_input_at_all():
    assert "0 inputs" in Elements(render_report([], MODEL)).text


def test_a_score_is_never_shown_as_certain():
    text = Elements(render_report([image("a.jpg", 1.0, "fake"), image("b.jpg", 0.0)], MODEL)).text
    assert "> 0.999" in text and "< 0.001" in text and "1.000" not in text


def test_the_page_stays_bounded():
    crowd = scored("crowd.mp4", "real", [track_of(number, [0.01 * number] * 300) for number in range(9)])
    said = Elements(render_report([crowd], MODEL)).text
    assert "3 more faces not shown, with lower scores or such as do not decide" in said
    assert "100 more frames of Face 9" in said


def test_ten_thousand_inputs_are_counted_and_the_most_suspicious_listed():
    few = [image("low.jpg", 0.1), image("high.jpg", 0.9, "fake"), failures()[0]]
    inputs = [few[place % 3] for place in range(page.LISTED)] + [image("last.jpg", 0.95, "fake")]
    inputs += [few[0]] * (10_000 - len(inputs))
    text = render_report(inputs, MODEL)
    elements = Elements(text)
    assert "10,000 inputs, 9,667 scored" in elements.text
    assert "The 1,000 inputs with the highest P(fake) are listed. The other 9,000 are in the counts" in elements.text
    assert text.count('<li class="row"') == page.LISTED and 'id="input-1001"' in text
    assert len(text) < 30e6
    assert len(json.loads(elements.scripts[-2])["csv"].splitlines()) == 10_001


def test_long_messages_are_cut():
    text = render_report([Detection("a", None, "decode_error", message="x" * 5000)], MODEL)
    said = Elements(text).text
    assert "x" * page.MESSAGE_LENGTH + " …" in said and "x" * (page.MESSAGE_LENGTH + 1) not in said


@pytest.mark.parametrize(
    "model, message",
    [
        ({"threshold": 50}, "threshold must be in .0, 1.; received 50"),
        ({"inconclusive_band": [0.6, 0.4]}, r"received \[0.6, 0.4\]"),
    ],
)
def test_a_wrong_model_entry_is_named(model, message):
    with pytest.raises(ValueError, match=message):
        render_report([image()], MODEL | model)


@pytest.mark.parametrize(
    "crop, message",
    [(np.zeros((4, 4), np.uint8), r"uint8 \(4, 4\)"), (np.zeros((4, 4, 3)), "float64"), ("a.jpg", "str")],
)
def test_a_wrong_crop_is_named(crop, message):
    detection = image()
    detection.faces[0].frames[0].crop = crop
    with pytest.raises(ValueError, match=message):
        render_report([detection], MODEL)


def test_chart_puts_one_on_top_and_zero_at_the_bottom():
    plot = chart.time_chart([[(0.0, 0.0), (5.0, 1.0), (10.0, 0.25)]], threshold=0.6, band=(0.5, 0.75), duration_s=20.0)
    [series] = plot["series"]
    assert [(point["x"], point["y"]) for point in series["points"]] == [(0, 100), (25, 0), (50, 75)]
    assert series["lines"] == ["0,100 25,0 50,75"]
    assert plot["threshold_y"] == 40
    assert plot["band"] == {"y": 25, "height": 25}
    x_ticks, y_ticks = ({tick["label"]: tick["at"] for tick in plot[axis]} for axis in ("x_ticks", "y_ticks"))
    assert x_ticks == {"0": 0, "5": 25, "10": 50, "15": 75, "20": 100}
    assert y_ticks == {"0": 100, "0.25": 75, "0.5": 50, "0.75": 25, "1": 0}


def test_chart_leaves_a_gap_where_the_face_was_away():
    times = [0, 1, 2, 3, 9, 10, 11, 20]
    [series] = chart.time_chart([[(time_s, 0.5) for time_s in times]])["series"]
    assert len(series["lines"]) == 2
    assert len(series["points"]) == len(times)  # the last one stands alone: a marker without a line


def test_chart_of_one_moment_is_none():
    assert chart.time_chart([[(0.0, 0.5)], [(0.0, 0.7)]], duration_s=3.0) is None
    assert chart.time_chart([]) is None


def test_chart_thins_markers_and_tells_tracks_apart():
    plot = chart.time_chart([[(n / 25, 0.5) for n in range(1000)], [(n / 25, 0.4) for n in range(1000)]])
    assert all(len(series["points"]) <= chart.MARKERS_PER_LINE for series in plot["series"])
    assert len({series["marker"] for series in plot["series"]}) == 2


def test_scale_runs_from_left_to_right():
    assert chart.scale(0.75, 0.5, (0.4, 0.6)) == {"x": 75, "threshold_x": 50, "band": {"x": 40, "width": 20}}
    assert chart.scale(0.0) == {"x": 0, "threshold_x": None, "band": None}


@pytest.mark.parametrize("end", [0.04, 0.3, 1, 7, 9.99, 10, 59, 61, 600, 7261.5])
def test_ticks_are_few_and_inside(end):
    ticks = chart.ticks(0.0, end)
    assert 2 <= len(ticks) <= chart.LONGEST_AXIS
    assert ticks[0] == 0 and ticks[-1] <= end


@pytest.mark.parametrize("wrong", [-0.01, 1.01, float("nan")])
def test_a_score_outside_its_range_is_no_point(wrong):
    with pytest.raises(ValueError, match=r"in \[0, 1\] to be drawn; received"):
        chart.scale(wrong)
    with pytest.raises(ValueError, match=r"in \[0, 1\] to be drawn; received"):
        chart.time_chart([[(0.0, 0.5), (1.0, wrong)]])


@pytest.mark.parametrize("wrong", [float("inf"), float("nan")])
def test_a_time_must_be_finite(wrong):
    with pytest.raises(ValueError, match="must be finite, in seconds"):
        chart.time_chart([[(0.0, 0.5), (wrong, 0.5)]])


def test_writes_the_page_and_nothing_else(tmp_path):
    target = tmp_path / os.fsdecode(b"r\xe9sum\xe9.html")
    target.write_text("older")
    write_report(str(target), [image()], MODEL, settings=SETTINGS)
    assert target.read_text("utf-8") == render_report([image()], MODEL, settings=SETTINGS)
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_write_leaves_what_was_there(tmp_path, monkeypatch, step):
    def fail(*_):
        raise OSError(28, "No space left on device")

    target = tmp_path / "page.html"
    target.write_text("older")
    monkeypatch.setattr(files.os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        write_report(target, [image()], MODEL)
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_text() == "older"


def test_a_failing_render_leaves_what_was_there(tmp_path):
    with pytest.raises(ValueError, match="threshold"):
        write_report(tmp_path / "page.html", [image()], MODEL | {"threshold": 2})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_report(tmp_path / "nowhere" / "page.html", [image()], MODEL)


@pytest.fixture(scope="module")
def browser():
    with Browser() as one:
        yield one


def pixels_of(file, color):
    """Number of pixels in each row that have exactly `color`."""
    picture = cv2.imread(str(file), cv2.IMREAD_COLOR_RGB)
    return (picture == np.array(color, np.uint8)).all(axis=-1).sum(axis=1)


@pytest.mark.parametrize(
    "scheme, background, curve",
    [("light", (0xF3, 0xF5, 0xF8), (0x4F, 0x46, 0xE5)), ("dark", (0x0E, 0x13, 0x19), (0xA5, 0xB4, 0xFC))],
)
def test_looks_right_in_a_browser(tmp_path, browser, scheme, background, curve):
    write_report(tmp_path / "page.html", [with_views(two_faces())], MODEL, settings=SETTINGS)
    browser.show(1200, 1600, scheme)
    browser.open((tmp_path / "page.html").as_uri())
    browser.screenshot(tmp_path / "page.png")
    rows = pixels_of(tmp_path / "page.png", background)
    assert 0.05 < rows.sum() / (1200 * len(rows)) < 0.6
    assert pixels_of(tmp_path / "page.png", FAKE_BADGE).sum() > 2000
    assert len(np.flatnonzero(pixels_of(tmp_path / "page.png", curve))) > 40


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("more", [0, 60], ids=["few inputs", "many inputs"])
def test_a_page_fits_runs_nothing_foreign_and_is_accessible(tmp_path, browser, width, more):
    inputs = [with_views(two_faces()), *everything()[1:], *[image()] * more]
    write_report(tmp_path / "page.html", inputs, MODEL, settings=SETTINGS)
    browser.show(width, 900)
    browser.problems.clear()
    browser.open((tmp_path / "page.html").as_uri())
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    browser.until("document.querySelectorAll('.body .facts').length >= 4")
    assert browser.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    assert HOSTILE in browser.run("[...document.querySelectorAll('.name')].map((one) => one.textContent).join()")
    assert browser.run("document.querySelectorAll('body > script').length") == OUR_SCRIPTS
    assert browser.axe_violations() == []
    assert browser.problems == []


DRIVE = """new Promise((done) => {
const $ = (id) => document.getElementById(id), said = [];
const rows = () => [...$("rows").children].filter((row) => !row.hidden);
const set = (id, value) => { $(id).value = value; $(id).dispatchEvent(new Event("input")); };
const names = () => rows().map((row) => row.querySelector(".name").textContent).join("|");
URL.createObjectURL = (blob) => { said.push("blob " + blob.type + " " + blob.size); return "#"; };
HTMLAnchorElement.prototype.click = function () { said.push("saved " + this.download); };
document.querySelectorAll("[data-save]").forEach((button) => button.click());
set("sort", "fake"); said.push("first " + names().split("|")[0]);
set("search", "CLIPS view"); said.push("found " + names()); set("search", "");
set("filter", "inconclusive"); said.push("filtered " + rows().length + ", " + $("shown").textContent);
set("filter", "");
const row = document.querySelector("#input-1 details"); row.open = true;
setTimeout(() => {
  const player = row.querySelector(".player"), slider = player.querySelector("input");
  slider.value = 2; slider.dispatchEvent(new Event("input"));
  said.push("slider " + player.querySelector("output").textContent);
  said.push("boxes " + player.querySelectorAll(".box").length + ", " + player.querySelector(".strip").style.transform);
  const area = row.querySelector(".area"), place = area.getBoundingClientRect();
  area.dispatchEvent(new PointerEvent("pointermove", { clientX: place.right, clientY: place.top + 5 }));
  said.push("pointer " + slider.getAttribute("aria-valuetext"));
  done(said.join("; "));
}, 200);
})"""


@pytest.mark.parametrize("more", [0, 60], ids=["few inputs", "many inputs"])
def test_the_list_and_the_timeline_work(tmp_path, browser, more):
    inputs = [with_views(two_faces()), image("unsure.jpg", 0.5, "inconclusive"), image(HOSTILE, 0.99, "fake")]
    write_report(tmp_path / "page.html", [*inputs, *[image()] * more], MODEL)
    browser.open((tmp_path / "page.html").as_uri())
    said = browser.run(DRIVE)
    assert "saved results.json" in said and "saved results.csv" in said and "blob text/csv" in said
    assert f"first {HOSTILE}; found clips/interview.mp4; filtered 1, 1 of {3 + more} inputs" in said
    if more:  # the strip has fewer frames
        assert "slider 3.20 s: Face 2 0.415, Face 1 0.080; boxes 2, translateX(-25%); pointer 9.60 s: Face 2" in said
    else:
        assert "slider 0.64 s: Face 2 0.920, Face 1 0.248; boxes 2, translateX(-6.25%); pointer 9.92 s: Face 2" in said


def test_two_hundred_inputs_show_in_a_second(tmp_path, browser):
    write_report(tmp_path / "page.html", [with_views(two_faces(f"{n}.mp4")) for n in range(200)], MODEL)
    browser.show(1280, 900)
    browser.open((tmp_path / "page.html").as_uri())
    painted, height = browser.run(
        "[performance.getEntriesByName('first-contentful-paint')[0].startTime, document.documentElement.scrollHeight]"
    )
    assert painted < 1000 and height < 15_000
    assert (tmp_path / "page.html").stat().st_size < 25e6


def test_what_is_open_and_the_whole_card_are_printed(tmp_path, browser):
    write_report(tmp_path / "page.html", [with_views(two_faces()), image(), image("b.jpg")], MODEL)
    browser.show(800, 1100, media="print")
    browser.open((tmp_path / "page.html").as_uri())
    browser.run("document.querySelector('#input-1 details').open = true")
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert browser.run("[...document.querySelectorAll('details.whole')].map((one) => one.open)") == [True]
    shown = "[...document.querySelectorAll('{}')].map((one) => one.checkVisibility())"
    assert browser.run(shown.format(".tools, .save, .player")) == [False] * 3
    assert browser.run(shown.format(".shots img")) == [True] * 3 and browser.run(shown.format(".name")) == [True] * 3
    browser.show(1280, 900)


def test_the_browser_would_complain_and_would_not_run_it(tmp_path, browser):
    """The checks above can fail: a script, a request and an event handler put into the page are refused aloud."""
    bad = (
        """<script>document.body.id = "ran"</script><img src="http://example.com/x" onerror="document.body.id='ran'">"""
    )
    (tmp_path / "page.html").write_text(render_report([image()], MODEL).replace("</main>", bad + "</main>"), "utf-8")
    browser.problems.clear()
    browser.open((tmp_path / "page.html").as_uri())
    browser.run("1")  # events arrive before an answer
    assert len(browser.problems) >= 2 and "Content Security Policy" in str(browser.problems)
    assert browser.run("document.body.id") == ""
