"""tfdfd and its peers on the same clips, photographs and broken files in one run.

    python -m benchmarks.peers -o RESULTS.json [--only NAME ...] [--show]

Each peer is installed from the package registries into an environment of its own under the cache folder, as its
documentation says, and called as its documentation says (`benchmarks.peers.adapters`). Its clips are timed in turns
with tfdfd's, so compare ratios; on a busy machine those of processor seconds. Peers that take pictures only get the
same decoded frames, without the time of decoding; of finders of faces only the finding is timed. RESULTS.json keeps
each finished part; another call measures only those that are missing (delete a peer's entry, or a part of it, to repeat
it). A peer that does not answer within the time limit is killed, and its row says so.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.common import hardware, print_table
from benchmarks.detectors import annotated_boxes, evaluate, iou
from benchmarks.peers.adapters import FACES, FAKES, PEERS, read_frames
from benchmarks.peers.session import ANSWER, CRASH, ERROR, GARBAGE, HANG, Session, install
from benchmarks.turns import FOLDER
from tfdfd.files import user_cache, write_atomically
from tfdfd.metrics.intervals import auc_variance

BASELINE = {FAKES: "tfdfd", FACES: "tfdfd-faces"}
# Frames of a clip for peers that take pictures; fewer of a validation clip, on which finders of faces only lose some.
FRAMES, FEW = 32, 4
# Measured one after another; no face is looked for by detectors of fakes.
PARTS = ("photographs", "broken", "timed", "clips")
SKIPPED = ("photographs", FAKES)
TIMED = (
    "ffpp/original_sequences/youtube/c23/videos/004.mp4",
    "dfdc/dfdc_train_part_0/lynaeydofd.mp4",
)
# Exceptions that a library does not raise to say that a file is unusable.
STRAY = {
    "ArithmeticError", "AssertionError", "AttributeError", "LookupError", "NameError", "TypeError", "error",
    "MemoryError", "SystemExit",
}  # fmt: skip
# What a broken file deserves: an error, a face or score, or either.
REFUSE, USE, EITHER = "refuse", "use", "either"
GIGABYTE = 1e9


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file of results, continued if there")
    parser.add_argument("--only", action="append", choices=list(PEERS), help="measure this peer (repeatable)")
    parser.add_argument("--part", action="append", choices=PARTS, help="measure this part (repeatable)")
    parser.add_argument("--show", action="store_true", help="print the tables of the file and measure nothing")
    parser.add_argument("--rounds", type=int, default=3, help="times that each timed clip is measured (default: 3)")
    parser.add_argument("--limit", type=float, default=120, help="seconds for one answer (default: 120)")
    parser.add_argument("--cache", type=Path, default=user_cache() / "peers", help="folder of the environments")
    parser.add_argument("--python", default="python3.11", help="interpreter of the environments (default: python3.11)")
    parser.add_argument("--shared", type=Path, default=FOLDER / "../shared", help="folder of data and cases")
    parser.add_argument("--keep", type=float, default=3, help="remove environments over this many GB (default: 3)")
    arguments = parser.parse_args(argv)
    results = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}

    def save(name, result):
        results[name] = result
        write_atomically(arguments.output, json.dumps(results, indent=1))

    for name in [] if arguments.show else arguments.only or list(PEERS):
        measure(name, results.get(name, {}), arguments, partial(save, name))
    show(results, arguments.shared.resolve())
    return 0


def measure(name: str, result: dict, arguments: argparse.Namespace, save: Callable[[dict], None]) -> None:
    """Measures and saves the missing parts of one peer's results, or why there are none (`failed`)."""
    peer, parts = PEERS[name], arguments.part or PARTS
    if "failed" in result or all(part in result or (part, peer.finds) == SKIPPED for part in parts):
        return
    with tempfile.TemporaryDirectory() as folder:
        installed = prepare(name, arguments, Path(folder))
        base = BASELINE[peer.finds]
        if "failed" in (other := prepare(base, arguments, Path(folder))):
            raise SystemExit(f"{base} cannot be installed: {other['failed']}")
        result |= {"machine": hardware(), "date": time.strftime("%Y-%m-%d"), "installed": installed}
        if "failed" in installed:
            return save(result | {"failed": installed["failed"]})
        with Runner(name, arguments) as runner, Runner(base, arguments) as baseline:
            if not runner.ready():
                save(result | {"failed": runner.reason})
            else:
                result["ready_s"] = runner.ready_s
                for part in parts:
                    if part not in result and (part, peer.finds) != SKIPPED:
                        print(f"{time.strftime('%H:%M:%S')} {name}: {part}", flush=True)
                        result[part] = measure_part(part, runner, baseline, arguments, Path(folder))
                        result["load"] = round(os.getloadavg()[0], 1)
                        result["peak"] = max(runner.peak, result.get("peak", 0))
                        save(result)
        if installed["bytes"] > arguments.keep * GIGABYTE and name not in BASELINE.values():
            shutil.rmtree(arguments.cache / installed["folder"])


def measure_part(part: str, runner: Runner, baseline: Runner, arguments: argparse.Namespace, folder: Path) -> dict:
    """The answers of one part, by file; of `timed` the seconds."""
    shared = arguments.shared.resolve()
    if part == "timed":
        return times(runner, baseline, shared, arguments)
    if part == "photographs":
        return {str(photo): runner.ask("photograph", photo) for photo in photographs(shared)}
    if part == "clips":
        count = FEW if runner.peer.finds == FACES else FRAMES
        return {str(clip): ask_clip(runner, clip, count, arguments.cache) for clip in validation_clips(shared)}
    return {
        file.name: runner.ask(kind, file) | {"deserves": deserved}
        for file, kind, deserved in broken_files(folder, shared)
        if kind == "photograph" or runner.peer.clips
    }


def prepare(name: str, arguments: argparse.Namespace, folder: Path) -> dict:
    """Installs a peer. Peers that install the same share an environment."""
    packages, key = PEERS[name].install, ""
    shared = next(other for other, peer in PEERS.items() if peer.install == packages)
    if any(package.startswith("CHECKOUT") for package in packages):
        checkout = folder / "tfdfd"
        if not checkout.exists():
            git(FOLDER, "clone", "-q", "--depth", "1", f"file://{FOLDER}", str(checkout))
        key = git(checkout, "rev-parse", "HEAD:tfdfd")
        packages = [package.replace("CHECKOUT", str(checkout)) for package in packages]
    arguments.cache.mkdir(parents=True, exist_ok=True)
    installed = install(arguments.cache / shared, arguments.python, packages, 1800, key)
    return installed | {"folder": shared}


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class Runner:
    """A peer that is started when it is needed, and again after its process is gone. A context manager."""

    def __init__(self, name: str, arguments: argparse.Namespace):
        self.peer, self._limit, self._session = PEERS[name], arguments.limit, None
        self._peaks, self.reason, self.ready_s = [0], None, None
        shared = next(other for other, peer in PEERS.items() if peer.install == PEERS[name].install)
        folder = arguments.cache / shared
        self._command = [str(folder / "bin/python"), str(Path(__file__).with_name("adapters.py")), name]
        (folder / "home").mkdir(exist_ok=True)
        self._environment = {
            "HOME": str(folder / "home"),
            "LANG": "C.UTF-8",
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "MESONET_WEIGHTS": str(arguments.shared.resolve() / "data/mesonet/weights/MesoInception_DF.h5"),
        }

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._end()

    @property
    def peak(self) -> int:
        return max([*self._peaks, self._session.peak if self._session else 0])

    def ready(self) -> bool:
        if self._session is None or not self._session.alive:
            self._end()
            start = time.perf_counter()
            self._session = Session(self._command, self._environment, 5 * self._limit)
            self.ready_s = time.perf_counter() - start
            self.reason = self._session.detail
        return self._session.outcome == ANSWER

    def ask(self, do: str, path: Path) -> dict:
        if not self.ready():
            return {"outcome": CRASH, "detail": f"does not start again: {self.reason}"}
        return self._session.ask({"do": do, "path": str(path)}, self._limit)

    def _end(self):
        if self._session is not None:
            self._peaks.append(self._session.peak)
            self._session.kill()
            self._session.__exit__()
            self._session = None


def ask_clip(runner: Runner, clip: Path, count: int, cache: Path) -> dict:
    """The answer on a clip, or on `count` of its frames, which are decoded once for all peers that take pictures."""
    if runner.peer.clips:
        return runner.ask("clip", clip)
    folder = frames_folder(clip, count, cache)
    if not folder.exists():
        import cv2

        partial_ = folder.with_suffix(".partial")
        shutil.rmtree(partial_, ignore_errors=True)
        partial_.mkdir(parents=True)
        for number, image in enumerate(read_frames(str(clip), count)):
            cv2.imwrite(str(partial_ / f"{number:02d}.png"), image)
        partial_.rename(folder)
    return runner.ask("frames", folder)


def frames_folder(clip: Path, count: int, cache: Path) -> Path:
    return cache / "frames" / f"{count}-{clip.parents[2].name}-{clip.stem}"


def is_fake(clip: str) -> bool:
    """Whether a clip of FaceForensics++ is one."""
    return "original_sequences" not in clip


def times(runner: Runner, baseline: Runner, shared: Path, arguments: argparse.Namespace) -> dict:
    """Wall-clock and processor seconds of each clip, and the baseline's right after, for each round.

    Each clip is given once before: some peers prepare themselves for each size of picture.
    """
    clips, measured = [shared / "data/videos" / clip for clip in TIMED], {clip: [] for clip in TIMED}
    for round_ in range(arguments.rounds + 1):
        for clip, path in zip(TIMED, clips, strict=True):
            mine, theirs = (ask_clip(each, path, FRAMES, arguments.cache) for each in (runner, baseline))
            if mine["outcome"] == HANG:
                return measured | {clip: mine["detail"]}
            if round_ == 0:
                continue
            measured[clip].append(
                [[each["seconds"], each["processor_s"]] if each["outcome"] == ANSWER else each["detail"]
                 for each in (mine, theirs)]
            )  # fmt: skip
    return measured


def validation_clips(shared: Path) -> list[Path]:
    return sorted((shared / "data/real_deepfakes/val_clips").rglob("*.mp4"))


def photographs(shared: Path) -> dict[Path, list]:
    """dlib's photographs with their annotated boxes."""
    return annotated_boxes(shared / "data/detection/dlib_faces")


def broken_files(folder: Path, shared: Path) -> list[tuple[Path, str, str]]:
    """Files with what they are given as, and what they deserve."""
    import cv2

    cases, samples = shared / "cases", FOLDER / "tfdfd/samples"
    clip, photo = (samples / "genuine.mp4").read_bytes(), next(iter(photographs(shared))).read_bytes()
    made = {
        "empty.mp4": b"", "text.mp4": b"no video\n" * 200, "half.mp4": clip[: len(clip) // 2],
        "noise.mp4": clip[:64] + np.random.default_rng(0).bytes(100_000),
        "empty.jpg": b"", "text.jpg": b"no picture\n" * 200, "header.jpg": photo[:300],
        "one_pixel.png": cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1].tobytes(),
        "no_face.png": cv2.imencode(".png", np.full((480, 640, 3), 99, np.uint8))[1].tobytes(),
        "gray16.png": cv2.imencode(".png", np.full((480, 640), 9999, np.uint16))[1].tobytes(),
    }  # fmt: skip
    for name, data in made.items():
        (folder / name).write_bytes(data)
    return [
        *((folder / f"{name}.mp4", "clip", REFUSE) for name in ("absent", "empty", "text", "noise")),
        (folder / "half.mp4", "clip", EITHER),
        (cases / "false_early_end/song_with_cover.mp4", "clip", REFUSE),
        (cases / "damaged_h264/damaged.mp4", "clip", EITHER),
        (cases / "security/ffv1_7k_200.mkv", "clip", EITHER),
        (cases / "time_reset/two_parts.ts", "clip", USE),
        (cases / "false_early_end/variable_rate.webm", "clip", USE),
        *((folder / name, "photograph", REFUSE) for name in ("absent.jpg", "empty.jpg", "text.jpg", "header.jpg")),
        *((folder / name, "photograph", EITHER) for name in ("one_pixel.png", "no_face.png", "gray16.png")),
        (cases / "alpha_hidden/invisible.png", "photograph", EITHER),
        (cases / "jpeg_no_eoi/no_end_marker.jpg", "photograph", USE),
    ]  # fmt: skip


def class_of_answer(answer: dict) -> str:
    """Class of a peer's answer to a broken file: `right`, `wrong`, `stray exception`, or how its process ended."""
    outcome, deserved = answer["outcome"], answer["deserves"]
    if outcome in (CRASH, HANG, GARBAGE):
        return outcome
    if outcome == ERROR:
        if STRAY & set(answer["kinds"]):
            return "stray exception"
        return "wrong" if deserved == USE else "right"
    used = bool(answer.get("boxes")) or "score" in answer
    return "right" if deserved == EITHER or (deserved == USE and used) else "wrong"


def show(results: dict, shared: Path) -> None:
    """Prints the tables: detectors of fakes, finders of faces, broken files one by one, and what did not run."""
    ran = {name: result for name, result in results.items() if "failed" not in result}
    for finds in (FAKES, FACES):
        rows = [row(name, result, ran, shared) for name, result in ran.items() if PEERS[name].finds == finds]
        if rows:
            last = ("AUC, 43 clips",) if finds == FAKES else ("photographs", "lost / more")
            broken = "broken files: right, wrong, stray, crash, hang"
            columns = ("peer", "seconds a clip", "processor seconds", "of tfdfd's", "peak", "install", *last, broken)
            print(f"\nFinders of {finds}; {results[next(iter(ran))]['machine']}\n")
            print_table(columns, rows)
    failed = [(name, *_size(result), result["failed"][:200]) for name, result in results.items() if "failed" in result]
    if failed:
        print("\nNot run\n")
        print_table(("peer", "install", "reason"), failed)


def row(name: str, result: dict, ran: dict, shared: Path) -> list[str]:
    """One peer's cells."""
    timed = result.get("timed", {})
    hung = next((text for text in timed.values() if isinstance(text, str)), None)
    pairs = [pair for clip in timed.values() if isinstance(clip, list) for pair in clip]
    pairs = np.array([pair for pair in pairs if all(isinstance(each, list) for each in pair)])
    cells = [f"{name} {_version(name, result)}", hung or "-", "-", "-"]
    if len(pairs):
        mine, ratio = np.median(pairs[:, 0], axis=0), np.median(pairs[:, 0] / pairs[:, 1], axis=0)
        late = f" ({hung})" if hung else ""
        cells[1:] = [f"{mine[0]:.2f}{late}", f"{mine[1]:.2f}", f"{ratio[0]:.1f}, {ratio[1]:.1f}"]
    cells += [f"{result['peak'] / GIGABYTE:.1f} GB", *_size(result)]
    cells += [_auc(result.get("clips", {}))] if PEERS[name].finds == FAKES else _faces(result, ran, shared)
    counts = Counter(class_of_answer(answer) for answer in result.get("broken", {}).values())
    return [*cells, ", ".join(str(counts[key]) for key in ("right", "wrong", "stray exception", CRASH, HANG))]


def _version(name: str, result: dict) -> str:
    package = PEERS[name].install[0].split("==")[0].split("[")[0].replace("CHECKOUT", "tfdfd")
    versions = {key.lower().replace("_", "-"): value for key, value in result["installed"]["versions"].items()}
    return versions.get(package.lower().replace("_", "-"), "")


def _size(result: dict) -> tuple[str]:
    installed = result["installed"]
    return (f"{installed['bytes'] / 1e6:.0f} MB, {installed['packages']}" if "bytes" in installed else "-",)


def _auc(clips: dict) -> str:
    scored = [(is_fake(clip), answer["score"]) for clip, answer in clips.items() if "score" in answer]
    if len({label for label, _ in scored}) < 2:
        return f"none scored of {len(clips)}"
    found = auc_variance(*zip(*scored, strict=True))
    text = f"{found.auc:.3f} [{found.interval[0]:.3f}, {found.interval[1]:.3f}]"
    return text if len(scored) == len(clips) else f"{text} of {len(scored)}"


def _faces(result: dict, ran: dict, shared: Path) -> list[str]:
    """Faces found, wrong ones; and of the frames of clips: main faces of tfdfd's that are lost, and the reverse."""
    answers = {Path(path): answer.get("boxes", []) for path, answer in result.get("photographs", {}).items()}
    truth = photographs(shared)
    pairs = [(answers[path], boxes) for path, boxes in truth.items() if path in answers]
    found, wrong = evaluate(lambda boxes: boxes, pairs)
    cells = [f"{found} of {sum(len(boxes) for _, boxes in pairs)}, {wrong} wrong"]
    base = ran.get(BASELINE[FACES])
    if base is None:
        return [*cells, "-"]
    lost = more = 0
    for clip, answer in result.get("clips", {}).items():
        for mine, theirs in zip(
            answer.get("boxes", []), base.get("clips", {}).get(clip, {}).get("boxes", []), strict=False
        ):
            lost += missing(theirs, mine)
            more += missing(mine, theirs)
    return [*cells, f"{lost} / {more}"]


def missing(boxes: list, others: list) -> bool:
    """Whether the widest of `boxes` overlaps none of `others` by an intersection over union of 0.4."""
    main = max(boxes, key=lambda box: box[2], default=None)
    return main is not None and all(iou(main, other) < 0.4 for other in others)


if __name__ == "__main__":
    raise SystemExit(main())
