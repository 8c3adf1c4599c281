"""The site of `tfdfd web`: how it is built, its arithmetic under node, and its scores in a browser.

`$TFDFD_NPM` names a folder with the npm archives of `tfdfd.web.RUNTIME`; without it, they are downloaded. What
needs node, a browser (`tests/browser.py`) or the archives is skipped where they are absent.
"""

import base64
import dataclasses
import functools
import hashlib
import http.server
import io
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import tarfile
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.browser import Browser
from tests.local_server import LocalServer
from tfdfd import web
from tfdfd.detect.detector import Detector
from tfdfd.extract.extraction import Extraction, FaceCrop, FrameFaces
from tfdfd.faces.crop import crop_face, measure_face, square_around
from tfdfd.faces.detectors import MtcnnDetector, _patch, _spans, pyramid
from tfdfd.hub import HubUnreachable
from tfdfd.weights import find_record

SAMPLES = Path(__file__).parent.parent / "tfdfd" / "samples"


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Small archives in place of those of npm, with their own digests; the folder that holds them."""
    folder, stated = tmp_path / "npm", []
    folder.mkdir()
    for package in web.RUNTIME:
        with tarfile.open(folder / package.archive, "w:gz") as archive:
            for name in package.files:
                info = tarfile.TarInfo(name)
                info.size = len(name)
                archive.addfile(info, io.BytesIO(name.encode()))
        data = (folder / package.archive).read_bytes()
        digest = base64.b64encode(hashlib.sha512(data).digest()).decode()
        stated.append(dataclasses.replace(package, sha512=digest, bytes=len(data)))
    monkeypatch.setattr(web, "RUNTIME", tuple(stated))
    return folder


@pytest.fixture
def no_work(monkeypatch):
    """Fails if a network is exported."""

    def export(*arguments):
        raise AssertionError("a network was exported")

    monkeypatch.setattr(web, "export", export)


def test_site_is_complete_and_asks_nobody_else(packages, toy_weights, tmp_path, run_tfdfd, monkeypatch):
    site = tmp_path / 'a "b" <c>\n'
    code, out, err = run_tfdfd("web", "-o", site, "--model", toy_weights, "--runtime", packages)
    assert code == 0, err
    assert out.splitlines()[0].endswith("MB") and "<c>\\n, " in out and "tfdfd/meso4.toy" in out
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    settings = json.loads((site / "settings.json").read_text("utf-8"))
    for file in settings["files"].values():
        data = (site / file["path"]).read_bytes()
        assert file == {"path": file["path"], "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    page = (site / "index.html").read_text("utf-8")
    assert web.POLICY.replace("'", "&#39;") in page and "What the words mean" in page and "tfdfd app" not in page
    # Scripts, styles and addresses are of the site itself, and each one is there.
    for name in [path.name for path in site.iterdir() if path.suffix in (".html", ".js", ".css")]:
        text = (site / name).read_text("utf-8")
        assert not re.search(r"https?://|[\"'(]//|\beval\(|innerHTML|XMLHttpRequest|sendBeacon|WebSocket", text), name
        asked = re.findall(r"""from "\./([^"]+)"|(?:src|href)="([^":]+)"|Worker\("([^"]+)\"""", text)
        for target in (next(filter(None, groups)) for groups in asked):
            assert (site / target).is_file(), (name, target)
    # The networks of the detector take any batch, and answer as before.
    import onnxruntime

    crops = np.random.default_rng(0).integers(0, 256, (3, 3, 30, 40)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(site / "networks" / "pnet.onnx"), providers=["CPUExecutionProvider"])
    expected = MtcnnDetector()._proposal
    expected.setInput(crops)
    np.testing.assert_allclose(session.run(None, {"image": crops})[0], expected.forward(), atol=1e-3)
    # A site is replaced as a whole, or stays.
    (site / "index.html").write_text("former")
    monkeypatch.setattr(web, "_page", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        web.build_site(site, toy_weights, packages)
    assert (site / "index.html").read_text() == "former"
    monkeypatch.setattr(web, "_page", lambda *arguments: "later")
    web.build_site(site, toy_weights, packages)
    assert (site / "index.html").read_text() == "later" and (site / "worker.js").is_file()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "temporal"}, "clips of several frames"),
        ({"members": {"a": {"handle": "tfdfd/meso4", "sha256": "0" * 64}}}, "an ensemble"),
        ({"model": "xception"}, "larger than"),
    ],
    ids=["clips", "ensemble", "large"],
)
def test_models_that_do_not_run_in_a_browser_are_refused_before_any_work(
    changes, message, packages, no_work, tmp_path, monkeypatch
):
    record = dataclasses.replace(find_record("tfdfd/meso4"), **changes)
    monkeypatch.setattr(web, "locate", lambda model: (record, Path("x")))
    with pytest.raises(ValueError, match=f"does not run in a browser: .*{message}.*--model fast"):
        web.build_site(tmp_path / "site", "x", packages)
    assert not (tmp_path / "site").exists()


def test_a_foreign_folder_is_not_overwritten(packages, no_work, tmp_path, run_tfdfd):
    for name, text in (("notes.txt", "mine"), ("settings.json", '{"made_by": "somebody"}'), ("settings.json", "[[")):
        site = tmp_path / "site"
        shutil.rmtree(site, ignore_errors=True)
        site.mkdir()
        (site / name).write_text(text)
        code, _, err = run_tfdfd("web", "-o", site, "--model", "fast", "--runtime", packages)
        assert code == 2 and "give a new folder" in err and (site / name).read_text() == text
    file = tmp_path / "file"
    file.write_text("mine")
    assert run_tfdfd("web", "-o", file, "--model", "fast", "--runtime", packages)[0] == 2
    assert file.read_text() == "mine"


def test_a_runtime_that_is_missing_or_altered_is_refused(packages, no_work, tmp_path, run_tfdfd):
    first = packages / web.RUNTIME[0].archive
    data = first.read_bytes()
    first.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    code, _, err = run_tfdfd("web", "-o", tmp_path / "site", "--model", "fast", "--runtime", packages)
    assert code == 2 and "its SHA-512 is" in err and web.RUNTIME[0].sha512 in err
    first.unlink()
    code, _, err = run_tfdfd("web", "-o", tmp_path / "site", "--model", "fast", "--runtime", packages)
    assert code == 2 and f"npm pack onnxruntime-web@{web.RUNTIME[0].version}" in err
    assert not (tmp_path / "site").exists()


def test_the_runtime_is_downloaded_once_and_checked(packages, tmp_path, monkeypatch):
    package = web.RUNTIME[0]
    data, asked = (packages / package.archive).read_bytes(), []

    def blocks_of(url, most):
        asked.append((url, most))
        yield answer

    monkeypatch.setenv("TFDFD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(web, "blocks_of", blocks_of)
    answer = data[:-1]
    with pytest.raises(ValueError, match="SHA-512"):
        web._archive(package, None)
    assert not list(tmp_path.glob("cache/**/*.tgz"))
    answer = data
    assert web._archive(package, None) == data == web._archive(package, None)
    assert asked == [(package.url, len(data))] * 2
    (cached,) = tmp_path.glob("cache/**/*.tgz")
    cached.write_bytes(data[::-1])  # damaged: downloaded again
    assert web._archive(package, None) == data and len(asked) == 3


def test_the_stated_packages_are_those_of_npm(tmp_path):
    for package, archive in zip(web.RUNTIME, npm_archives(), strict=True):
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            stated = json.load(files.extractfile("package/package.json"))
        assert (stated["name"], stated["version"]) == (package.name, package.version)
        assert package.licence.startswith(stated["license"]) and len(archive) == package.bytes


def npm_archives():
    try:
        return [web._archive(package, os.environ.get("TFDFD_NPM")) for package in web.RUNTIME]
    except HubUnreachable as error:
        pytest.skip(f"no npm packages: set TFDFD_NPM to a folder with them ({error})")


SCRIPT = """
import fs from "fs";
const [folder, input] = process.argv.slice(-2);
const module = (name) => import(`file://${folder}/${name}.js`);
const {pixels, faces, search, mtcnn, verdict} = Object.fromEntries(await Promise.all(
  ["pixels", "faces", "search", "mtcnn", "verdict"].map(async (name) => [name, await module(name)])));
const picture = ({bytes, width, height}) => ({data: new Uint8Array(Buffer.from(bytes, "base64")), width, height});
const asked = {
  resize: ({method, image, width, height}) => pixels[`resize${method}`](picture(image), width, height).data,
  crop: ({image, box, size}) => faces.cropFace(picture(image), box, size, 1.3).data,
  patch: ({image, box, size}) => {
    const out = new Float32Array(3 * size * size);
    pixels.sampleBox(picture(image), box, size, out, 0);
    return Uint8Array.from(out);
  },
  yuv: ({bytes, layout, width, height, format, matrix, full}) =>
    pixels.fromYuv(new Uint8Array(Buffer.from(bytes, "base64")), layout, width, height, format, matrix, full).data,
  turn: ({image, degrees, flip}) => pixels.turn(picture(image), degrees, flip).data,
  measure: ({image, crop, box, landmarks}) => faces.measureFace(picture(image), {box, landmarks}, picture(crop), 1.3),
  spans: ({length, side, overlap}) => search.spans(length, side, overlap),
  pyramid: ({width, height, settings}) => mtcnn.pyramid(width, height, settings),
  judge: ({input, settings}) => {
    for (const frame of input.frames) {
      for (const face of frame.faces) face.appearance = faces.appearance(picture(face.crop));
    }
    return verdict.judge(input, settings);
  },
};
const answers = JSON.parse(fs.readFileSync(input)).map(({what, ...values}) => {
  const answer = asked[what](values);
  return answer instanceof Uint8Array ? {bytes: Buffer.from(answer).toString("base64")} : answer;
});
console.log(JSON.stringify(answers));
"""


@pytest.fixture
def ask_node(tmp_path):
    """A function that gives the answers of the site's scripts to a list of questions; arrays come back flat."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node")

    def ask(questions):
        (tmp_path / "ask.mjs").write_text(SCRIPT)
        (tmp_path / "asked.json").write_text(json.dumps(questions))
        words = [node, tmp_path / "ask.mjs", web.SITE, tmp_path / "asked.json"]
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [
            np.frombuffer(base64.b64decode(one["bytes"]), np.uint8) if isinstance(one, dict) and "bytes" in one else one
            for one in json.loads(done.stdout)
        ]

    return ask


def packed(image):
    return {"bytes": base64.b64encode(image.tobytes()).decode(), "width": image.shape[1], "height": image.shape[0]}


def noise(height, width, seed=0):
    """Noise with edges of all strengths, uint8 RGB."""
    rough = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return np.ascontiguousarray(np.where(np.arange(width)[:, None] < width // 2, rough, cv2.blur(rough, (5, 5))))


def test_pixels_are_those_of_opencv(ask_node):
    image, questions, expected, tolerances = noise(171, 203), [], [], []

    def add(value, tolerance=0, **question):
        questions.append(question)
        expected.append(np.asarray(value).ravel())
        tolerances.append(tolerance)

    for method, sizes in (
        ("Area", ((101, 90), (203, 57), (29, 19), (203, 171))),
        ("Linear", ((256, 256), (150, 150), (203, 300))),
        ("Cubic", ((361, 171), (203, 300))),
    ):
        for size in sizes:
            value = cv2.resize(image, size, interpolation=getattr(cv2, f"INTER_{method.upper()}"))
            add(
                value,
                method == "Cubic",
                what="resize",
                method=method,
                image=packed(image),
                width=size[0],
                height=size[1],
            )
    halves = noise(120, 180)
    for side in ((90, 60), (60, 40)):
        value = cv2.resize(halves, side, interpolation=cv2.INTER_AREA)
        add(value, what="resize", method="Area", image=packed(halves), width=side[0], height=side[1])
    for box in (
        (40, 30, 60.4, 81.2),
        (-20.5, -9.2, 70, 60),
        (150, 100, 90, 120),
        (-300, -200, 900, 700),
        (3, 3, 11, 9),
    ):
        add(crop_face(image, box, 64), what="crop", image=packed(image), box=box, size=64)
        corners = np.array([box[0], box[1], box[0] + box[2], box[1] + box[3]])
        patch = _patch(image, corners, 24).transpose(2, 0, 1)
        inner = corners * np.tile([202 / 203, 170 / 171], 2)
        add(patch, what="patch", image=packed(image), box=inner.tolist(), size=24)
    for degrees, flip in ((90, False), (180, True), (270, True), (0, True)):
        value = np.rot90(image, -degrees // 90)
        add(value[:, ::-1] if flip else value, what="turn", image=packed(image), degrees=degrees, flip=flip)
    # OpenCV enlarges by cubic splines in float32 on x86, and in fixed point elsewhere.
    off_rate = 1e-4 if platform.machine() in ("x86_64", "AMD64") else 0.05
    for question, found, value, most in zip(questions, ask_node(questions), expected, tolerances, strict=True):
        off = np.abs(found.astype(int) - value)
        assert found.shape == value.shape and off.max() <= most and (off > 0).mean() <= off_rate, question["what"]


@pytest.mark.parametrize("matrix", ["bt709", "smpte170m"])
@pytest.mark.parametrize(
    ("pixels", "size"), [("I420", (96, 64)), ("I420", (95, 64)), ("I422", (95, 64)), ("I444", (95, 63))], ids=str
)
def test_colors_of_a_video_are_those_of_swscale(ask_node, pixels, size, matrix):
    import av
    from av.video.reformatter import Interpolation, VideoReformatter

    width, height = size
    questions, expected = [], []
    for full in (False, True):
        frame = av.VideoFrame(width, height, f"yuv{pixels.removeprefix('I')}p")
        planes = []
        for i, plane in enumerate(frame.planes):
            values = np.random.default_rng(i).integers(0, 256, (plane.height, plane.line_size), np.uint8)
            plane.update(values.tobytes())
            planes.append(values)
        frame.colorspace, frame.color_range = {"bt709": 1, "smpte170m": 6}[matrix], 2 if full else 1
        picture = VideoReformatter().reformat(frame, format="bgr24", interpolation=Interpolation.BICUBIC, threads=1)
        expected.append(picture.to_ndarray()[..., ::-1].ravel())
        starts = np.cumsum([0, *(plane.size for plane in planes)]).tolist()
        layout = [{"offset": at, "stride": plane.shape[1]} for at, plane in zip(starts, planes, strict=False)]
        data = b"".join(plane.tobytes() for plane in planes)
        asked = {"what": "yuv", "width": width, "height": height, "format": pixels, "matrix": matrix, "full": full}
        questions.append(asked | {"bytes": base64.b64encode(data).decode(), "layout": layout})
        # The same, with U and V interleaved.
        data = planes[0].tobytes() + np.stack(planes[1:], -1).tobytes()
        layout = [layout[0], {"offset": starts[1], "stride": 2 * planes[1].shape[1]}]
        questions.append(asked | {"bytes": base64.b64encode(data).decode(), "layout": layout})
    # The arithmetic is that of swscale's code for x86.
    most = 0 if platform.machine() in ("x86_64", "AMD64") else 3
    for i, found in enumerate(ask_node(questions)):
        assert np.abs(found.astype(int) - expected[i // 2]).max() <= most


def test_measures_parts_and_scales_are_those_of_the_package(ask_node):
    image = noise(300, 400)
    face = {
        "box": (120.3, 80.7, 101.5, 130.2),
        "landmarks": [[140, 120], [200, 126], [175, 150], [150, 180], [190, 181]],
    }
    crop = crop_face(image, face["box"], 128)
    parts = [(1080, 640.0, 320.0), (640, 640.0, 100.0), (2413, 701.3, 175.3), (10, 3.9, 3.1)]
    sizes = [(640, 360), (1280, 957), (12, 500), (11, 500), (31, 31)]
    settings = web._settings(find_record("tfdfd/meso4"))["mtcnn"]
    questions = [{"what": "measure", "image": packed(image), "crop": packed(crop), **face}]
    questions += [
        {"what": "spans", "length": length, "side": side, "overlap": overlap} for length, side, overlap in parts
    ]
    questions += [{"what": "pyramid", "width": w, "height": h, "settings": settings} for w, h in sizes]
    measures, *rest = ask_node(questions)
    left, top, side = square_around(face["box"])
    expected = measure_face(image[top : top + side, left : left + side], crop, np.array(face["landmarks"], np.float32))
    assert measures == pytest.approx(expected, abs=2e-4, rel=1e-5)
    assert rest[: len(parts)] == [[list(pair) for pair in _spans(*part)] for part in parts]
    for found, (width, height) in zip(rest[len(parts) :], sizes, strict=True):
        assert found == pytest.approx(pyramid(width, height, settings["min_face_size"]).tolist())


def made_up(kind, people, frames, seed):
    """An `Extraction` of made-up faces. Each of `people` is (side of the box, confidence, share of frames)."""
    random = np.random.default_rng(seed)
    looks = [noise(96, 96, seed=10 * seed + i) for i in range(len(people))]
    found = []
    for index in range(frames):
        faces = []
        for number, (side, confidence, share) in enumerate(people):
            if index < share * frames:
                crop = np.clip(looks[number].astype(int) + random.integers(-3, 4), 0, 255).astype(np.uint8)
                box = (
                    40 + 150 * number + int(random.integers(-4, 5)),
                    60 + int(random.integers(-4, 5)),
                    side,
                    side + 9,
                )
                measures = {"side": 150.0 if side < 95 else 101.5, "sharpness": 50.0 + index, "turn": 0.1 * number}
                faces.append(FaceCrop(box, confidence, None, crop, measures))
        random.shuffle(faces)
        found.append(FrameFaces(3 * index, round(0.12 * index, 3), faces))
    return Extraction("made up", kind, "ok", "a note", 4.0 if kind == "video" else None, found)


@pytest.mark.parametrize("model", ["tfdfd/efficientnet_lite0", "tfdfd/mobilenet_v1", "tfdfd/meso4"])
def test_outcomes_are_those_of_detect(ask_node, model):
    inputs = [
        made_up("image", [(90, 0.999, 1)], 1, 0),
        made_up("image", [(90, 0.999, 1), (110, 0.97, 1), (20, 0.99, 1), (80, 0.9, 1)], 1, 1),
        made_up("image", [(30, 0.999, 1)], 1, 2),
        made_up("image", [(90, 0.7, 1), (91, 0.7, 1)], 1, 3),
        made_up("video", [(90, 0.999, 1)], 9, 4),
        made_up("video", [(90, 0.999, 1), (100, 0.99, 0.7), (95, 0.99, 0.1), (50, 0.999, 1), (95, 0.99, 0.1)], 12, 5),
        made_up("video", [(90, 0.99, 1), (90, 0.99, 1), (90, 0.99, 0.6)], 7, 6),
    ]
    with Detector(model) as detector:
        questions, expected = [], []
        for seed, extraction in enumerate([*inputs, *inputs, *inputs]):
            count = sum(len(frame.faces) for frame in extraction.frames)
            low, high = ((0.0, 1.0), (0.9, 1.0), (0.0, 0.2))[seed // len(inputs)]
            scores = np.random.default_rng(seed).uniform(low, high, count).round(6)
            detector._loaded = lambda crops, scores=scores: scores
            expected.append(detector._score(extraction).to_dict())
            given = iter(scores.tolist())
            frames = [
                {
                    "index": frame.index,
                    "time_s": frame.time_s,
                    "faces": [
                        {
                            "box": face.box,
                            "score": face.score,
                            "fake_probability": next(given),
                            "crop": packed(face.crop),
                            "measures": face.measures,
                        }
                        for face in frame.faces
                    ],
                }
                for frame in extraction.frames
            ]
            given_input = {"path": "made up", "kind": extraction.kind, "frames": frames, "message": "a note"}
            given_input |= {"requested": 32 if extraction.kind == "video" else 1, "duration_s": extraction.duration_s}
            questions.append({"what": "judge", "input": given_input, "settings": web._settings(detector.record)})
        detector._loaded = None
    verdicts = set()
    for found, value in zip(ask_node(questions), expected, strict=True):
        value.pop("elapsed_s")
        verdicts.add(value["verdict"])
        assert_close(found, json.loads(json.dumps(value)))
    assert verdicts == {"fake", "real", "inconclusive"}


def assert_close(found, expected, tolerance=2e-6, place="result"):
    """Equal but for the last digits of numbers; likelihood ratios have three digits."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), place
        for name in expected:
            assert_close(found[name], expected[name], tolerance, f"{place}.{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), place
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_close(one, other, tolerance, f"{place}[{number}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=tolerance, rel=2e-3 if "likelihood" in place else 0), place
    else:
        assert found == expected, place


class Server(LocalServer):
    """The folder on this machine, as any static server offers it; `asked` are the methods and paths of requests."""

    def __init__(self, folder):
        self.asked = asked = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *arguments):
                asked.append(self.requestline)

        super().__init__(functools.partial(Handler, directory=folder))


DONE = "[...document.querySelectorAll('#files .links .main:not([hidden])')].length"
SAVED = """
(async () => {
  const texts = [], made = URL.createObjectURL;
  URL.createObjectURL = (blob) => { texts.push(blob.text()); return made.call(URL, blob); };
  HTMLAnchorElement.prototype.click = () => {};
  document.querySelectorAll('#files .links .main').forEach((button) => button.click());
  URL.createObjectURL = made;
  return Promise.all(texts);
})()
"""


# The statuses of a picture without a face under limits of bytes, pixels and seconds, and without.
LIMITED = """
(async () => {
  const {Detector} = await import("./detect.js"), detector = await Detector.load();
  const canvas = new OffscreenCanvas(300, 300);
  canvas.getContext("2d").fillRect(0, 0, 300, 300);
  const file = new File([await canvas.convertToBlob()], "x.png"), statuses = [], usual = detector.settings.limits;
  for (const limits of [{max_bytes: 9}, {max_pixels: 9}, {max_seconds: 0.001}, {}]) {
    detector.settings.limits = {...usual, ...limits};
    statuses.push((await detector.detect(file)).status);
  }
  return statuses;
})()
"""


def test_a_browser_scores_as_detect_does(tmp_path, astronaut, make_video, run_tfdfd):
    import av
    import jsonschema

    with Browser() as browser:
        npm_archives()
        web.build_site(tmp_path / "site", runtime=os.environ.get("TFDFD_NPM"))
        media = tmp_path / "media"
        media.mkdir()
        for name in ("genuine.mp4", "blended.mp4"):
            shutil.copy(SAMPLES / name, media)
        with av.open(str(SAMPLES / "blended.mp4")) as sample:
            frames = [frame.to_ndarray(format="rgb24") for frame in itertools.islice(sample.decode(video=0), 8)]
        low = [cv2.resize(frame, (480, 440), interpolation=cv2.INTER_AREA) for frame in frames]
        make_video(media / "tall.mp4", low, pixels="yuv444p", aspect=Fraction(11, 12))
        make_video(media / "ten_bits.mp4", frames[:2], pixels="yuv420p10le")
        picture = astronaut[..., ::-1]
        cv2.imwrite(str(media / "a <b>'q'.png"), picture)
        cv2.imwrite(str(media / "b.jpg"), cv2.resize(picture, (1500, 1500)), [cv2.IMWRITE_JPEG_QUALITY, 90])
        cv2.imwrite(str(media / "four.png"), np.concatenate([np.concatenate([picture, picture[:, ::-1]], 1)] * 2))
        cv2.imwrite(str(media / "none.png"), np.full((300, 300, 3), 127, np.uint8))
        (media / "notes.png").write_text("no picture")
        (media / "empty.mp4").write_bytes(b"")
        files = sorted(media.iterdir())
        _, out, _ = run_tfdfd("detect", *files, "--json", "-", "--quiet")
        expected = {Path(result["path"]).name: result for result in json.loads(out)["results"]}
        with Server(tmp_path / "site") as server:
            browser.open(server.address)
            browser.until("document.querySelector('#limits').textContent")
            browser.choose_files("#pick", *files)
            browser.until(f"{DONE} === {len(files)}", seconds=240)
            documents = [json.loads(text) for text in browser.run(SAVED)]
            texts = browser.run("document.querySelector('#files').innerText")
            assert "a <b>'q'.png" in texts and "Likelihood ratio" in texts and "frame" in texts
            for width, scheme in ((1280, "light"), (360, "dark")):
                browser.show(width, 800, scheme)
                browser.screenshot(tmp_path / f"{width}.png")
                assert browser.run("document.documentElement.scrollWidth") <= width
                assert browser.axe_violations() == []
            # A file that is cancelled makes room for the next at once; the keyboard is not lost with what it removed.
            browser.run("document.querySelector('#clear').click()")
            browser.choose_files("#pick", media / "genuine.mp4", media / "b.jpg")
            browser.until("document.querySelectorAll('#files canvas').length")
            browser.run("document.querySelector('#files > li:last-child .links button:last-child').focus()")
            browser.press_enter()
            browser.until(f"{DONE} === 1 && document.querySelectorAll('#files > li').length === 1")
            assert "b.jpg" in browser.run("document.querySelector('#files').innerText")
            assert browser.run("document.activeElement.id") == "choose"
            # Limits hold, and a worker that is cut off is replaced.
            assert browser.run(LIMITED) == ["too_large", "too_large", "timeout", "no_face"]
            assert browser.problems == []
        assert all(line.startswith("GET /") for line in server.asked)
    schema = json.loads((SAMPLES.parent / "detect" / "detect.schema.json").read_text("utf-8"))
    for document in documents:
        jsonschema.validate(document, schema)
        (found,) = document["results"]
        value = expected.pop(found["path"])
        value.pop("provenance", None)
        if value["status"] != "ok":
            assert (found["status"], found["verdict"]) == (value["status"], None), found
            continue
        # Pixels are equal; the sums of the detector's networks are not, which moves the crop of a frame now and then.
        # Where pixels are not equal, the page says so.
        converted = found["path"] == "ten_bits.mp4"
        assert converted == ("the browser converted the colors" in found.get("message", ""))
        most = 0.02 if converted else 5e-3 if found["path"] == "tall.mp4" else 1e-3
        assert found["fake_probability"] == pytest.approx(value["fake_probability"], abs=most)
        for name in ("verdict", "frames_requested", "frames_scored", "faces_judged", "correction", "duration_s"):
            assert found[name] == value[name], name
        assert found["threshold"] == pytest.approx(value["threshold"], abs=1e-6)
        for face, other in zip(found["faces"], value["faces"], strict=True):
            assert [(one["index"], one["time_s"]) for one in face["frames"]] == [
                (one["index"], one["time_s"]) for one in other["frames"]
            ]
            boxes, scores = (
                np.array([[one[name] for one in track["frames"]] for track in (face, other)])
                for name in ("box", "fake_probability")
            )
            if not converted:
                assert np.abs(np.subtract(*boxes)).max() <= 2
                assert len(boxes[0]) < 5 or np.median(np.abs(np.subtract(*scores))) < 1e-5
    assert expected == {}
