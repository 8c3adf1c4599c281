"""Verbs that are killed, run out of disk, or may not write: a repeated command gives what an undisturbed one gives.

    python -m benchmarks.kills                      tune, prune, evaluate, pull and detect, killed 20 times each
    python -m benchmarks.kills evaluate --times 3
    python -m benchmarks.kills --disk               every verb that writes, on a full disk and in a read-only folder

A kill is SIGKILL at a random moment of the command's own time, of the process alone or of its group in turn; the same
command is then repeated. One that ends before its kill is compared and started again. Full disks are small, separate
file systems (`unshare`, `mount`), which need Linux and user namespaces. Times and hosts in reports are not compared.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import psutil

from benchmarks.common import TFDFD, hardware, print_table

ROOT = Path(__file__).resolve().parents[1]
TIMES = 20
KILLED = ("tune", "prune", "evaluate", "pull", "detect")
# Keys and columns that differ between two undisturbed runs.
VARYING = {"seconds", "elapsed_s", "hardware", "started", "date", "wall_s", "command", "output", "duration_s"}
_TIMES = re.compile(
    r"\d+(\.\d+)? (ms|s|seconds|minutes)\b|Seconds: \d+(\.\d+)?|\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"
)
_SAVED = re.compile(r'(?<=<script type="application/json" id="saved">).*?(?=</script>)', re.DOTALL)
LITTER = 15  # seconds in which the processes that a killed command started must end


class World(NamedTuple):
    """A folder of inputs that all verbs share, and the folder that commands write to."""

    inputs: Path
    out: Path

    def words(self, line: str) -> list[str]:
        """The words of a command line in which `{i}` is the folder of inputs and `{o}` that of outputs."""
        return line.replace("{i}", str(self.inputs)).replace("{o}", str(self.out)).split()


# `{o}` is the only place that a command writes to. `train` and what needs a trained run come from the inputs.
VERBS = {
    "index": "index folder {i}/media -o {o}/index.csv --json {o}/index.json",
    "extract": "extract {i}/index.csv --root {i}/media -o {o}/faces --detector haar --frames 4 --workers 1",
    "merge": "merge {i}/faces {i}/more -o {o}/all.csv",
    "split": "split {i}/faces/faces.csv -o {o}/split.csv --no-crops",
    "check-leaks": "check-leaks {i}/faces --no-crops --json {o}/leaks.json",
    "srm": "srm {i}/faces -o {o}/noise --workers 1",
    "pack": "pack {i}/faces -o {o}/shards",
    "landmarks": "data landmarks {i}/real -o {o}/landmarks.csv",
    "blend": "data blend {i}/real -o {o}/blended --size 64",
    "preview": "data preview {i}/real -o {o}/sheet.png --count 2",
    "train": "train s1-meso4 --data {i}/faces -o {o}/run --quick",
    "tune": "tune {i}/space.json --data {i}/faces -o {o}/search --quick --max-trials 2 --seed 3 --set epochs=2 "
    "--set augment=none",
    "prune": "prune {i}/run --data {i}/faces -o {o}/pruned --epochs 3 --set batch_size=16",
    "finetune": "finetune {i}/stills/real {i}/stills/fake -o {o}/tuned --model {i}/run --detector none --quick",
    "evaluate": "evaluate {i}/run --data {i}/faces -o {o}/report --split val --resamples 100",
    "explain": "explain {i}/media/real/0.png --model {i}/run --detector none --method gradcam -o {o}/page.html",
    "export": "export {i}/run -o {o}/exported",
    "publish": "publish {i}/run --to {o}/hub --version 1 --name toy",
    "pull": "models pull tfdfd/reseption_v1 --from {i}/large_weights",
    "detect": "detect {i}/media --model {i}/run --detector none --workers 1 --frames 4 -o {o}/results "
    "--csv {o}/results.csv",
    "pages": "detect {i}/media --model {i}/run --detector none --workers 1 --frames 4 --json {o}/a.json "
    "--report {o}/a.html --csv {o}/a.csv",
}
QUICK = ("merge", "split", "check-leaks", "srm", "pack", "index")


def make_inputs(folder: Path, names: tuple[str, ...]) -> None:
    """Makes what these verbs read: media, face sets, a trained run."""
    import cv2
    import numpy as np
    from skimage.data import astronaut

    from benchmarks.common import write_clip
    from tests.made_faces import make_faces

    make_faces(folder / "faces", videos=36, frames=2)
    make_faces(folder / "more", videos=6, frames=2, seed=1)
    random = np.random.default_rng(0)
    for number in range(4):
        for kind in ("real", "fake"):
            picture = folder / "media" / kind / f"{number}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            face = astronaut()[20:276, 90 + 4 * number : 346 + 4 * number, ::-1]
            noise = random.integers(0, 8 if kind == "real" else 40, face.shape, dtype=np.uint8)
            cv2.imwrite(str(picture), cv2.add(face, noise))
    write_clip(folder / "media" / "real" / "clip.mp4", 320, 240, 1)
    shutil.copytree(folder / "media" / "real", folder / "real" / "real", ignore=shutil.ignore_patterns("*.mp4"))
    (folder / "large_weights").symlink_to(ROOT / "large_weights")
    (folder / "package").mkdir()
    (folder / "package" / "tfdfd").symlink_to(ROOT / "tfdfd")
    for number in range(24):  # sources and looks of their own, for three splits
        picture = folder / "stills" / ("real", "fake")[number % 2] / f"still{number}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(picture), cv2.resize(random.integers(0, 256, (8, 8, 3), dtype=np.uint8), (96, 96)))
    space = {"learning_rate": {"min": 1e-4, "max": 1e-2, "scale": "log"}}
    (folder / "space.json").write_text(json.dumps({"network": "meso4", "recipe": "s1-meso4", "search": space}))
    world = World(folder, folder)
    made = ["index folder {i}/media -o {o}/index.csv"]
    if set(names) - {*QUICK, "extract", "landmarks", "blend", "preview", "train", "tune", "pull"}:
        made.append("train s1-meso4 --data {i}/faces -o {o}/run --quick")
    for line in made:
        subprocess.run([*TFDFD, *world.words(line)], check=True, capture_output=True, **surroundings(world))


def surroundings(world: World) -> dict[str, Any]:
    """Working folder and variables of a command: its caches and temporary files lie beside its output.

    The package is used without the rest of the checkout, as from a wheel; `pull` would have nothing to fetch there.
    """
    own = {"TFDFD_CACHE": str(world.out / "cache"), "TMPDIR": str(world.inputs), "TF_CPP_MIN_LOG_LEVEL": "3"}
    own |= {"PYTHONPATH": str(world.inputs / "package"), "CUDA_VISIBLE_DEVICES": "", "TFDFD_HUB": ""}
    return {"cwd": world.inputs, "env": {**os.environ, **own}}


def contents(world: World) -> dict[str, str]:
    """Digests of all files below the folder of outputs by path, without what varies between runs."""
    return {str(file.relative_to(world.out)): _digest(file, str(world.out)) for file in _files(world.out)}


def _files(folder: Path) -> list[Path]:
    # Converted networks in the cache are made again; a full disk does not end a command for their sake. TensorBoard's
    # files have the time in their names.
    varying = {"runtimes", "tensorboard"}
    return sorted(path for path in folder.rglob("*") if path.is_file() and not varying & set(path.parts))


def _digest(file: Path, place: str) -> str:
    # TensorFlow writes the same variables in other bytes each time, and their hashes as numbers of several lengths.
    if file.parent.name == "variables":
        return str(file.stat().st_size)
    if file.name == "fingerprint.pb":
        return "fingerprint"
    data = file.read_bytes()
    if file.suffix in (".json", ".jsonl", ".csv", ".html", ".md"):
        text = data.decode("utf-8", "surrogateescape").replace(place, "OUT")
        if file.name.endswith(("model_card.json", "manifest.json", "record.json", "seen.json", ".html")):
            # Of SavedModels, of records, which name their folder, and of sources, which are those of their folder.
            text = re.sub(r"\b([0-9a-f]{64}|[0-9a-f]{32})\b", "DIGEST", text)
            text = re.sub(r'(fingerprint\.pb"[^}]*?"bytes": )\d+', r"\g<1>0", text)
        if file.suffix == ".json":
            value = json.loads(text)
            if file.parent.name == "trials":  # of a search: what else is in it counts the starts of a trial
                value = {name: value[name] for name in ("assignments", "failed")}
            text = json.dumps(_steady(value), sort_keys=True)
        elif file.suffix == ".csv":
            text = repr(
                [
                    {key: cell for key, cell in row.items() if key not in VARYING}
                    for row in csv.DictReader(io.StringIO(text))
                ]
            )
        elif file.suffix == ".html":
            text = _SAVED.sub(lambda found: json.dumps(_steady_page(json.loads(found[0]))), text)
        data = _TIMES.sub("TIME", text).encode("utf-8", "surrogateescape")
    return hashlib.sha256(data).hexdigest()


def _steady_page(saved: dict[str, str]) -> dict[str, Any]:
    """What a report page offers to save, without the times in the record."""
    return saved | {"json": _steady(json.loads(saved["json"]))}


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _steady(inner) for key, inner in value.items() if key not in VARYING}
    return [_steady(inner) for inner in value] if isinstance(value, list) else value


def differences(whole: dict[str, str], now: dict[str, str]) -> list[str]:
    """What is missing, besides, and different, in words."""
    lines = [f"lacks {name}" for name in sorted(whole.keys() - now.keys())]
    lines += [f"has {name} besides" for name in sorted(now.keys() - whole.keys())]
    return lines + [f"{name} differs" for name in sorted(whole.keys() & now.keys()) if whole[name] != now[name]]


def undisturbed(name: str, inputs: Path, folder: Path) -> tuple[dict[str, str], float, int]:
    """What the verb writes without a kill, its seconds and its exit code."""
    world = World(inputs, folder)
    folder.mkdir(parents=True)
    start = time.monotonic()
    done = subprocess.run([*TFDFD, *world.words(VERBS[name])], **surroundings(world), capture_output=True, text=True)
    if done.returncode not in (0, 3) and name != "check-leaks":
        raise SystemExit(f"{name} fails without any disturbance ({done.returncode}):\n{done.stderr}")
    if not (written := contents(world)):
        raise SystemExit(f"{name} writes nothing, so nothing can be lost")
    return written, time.monotonic() - start, done.returncode


def kill(name: str, times: int, inputs: Path, work: Path, seed: int = 0) -> tuple[int, list[str]]:
    """Kills a verb this often; returns the number of rounds that were finished, and the faults."""
    whole, seconds, code = undisturbed(name, inputs, work / "whole")
    faults = [f"two undisturbed runs: {line}" for line in differences(whole, undisturbed(name, inputs, work / "2")[0])]
    random, rounds, kills, killed = Random(seed), 0, 0, False
    while True:
        world = World(inputs, work / f"round{rounds}")
        world.out.mkdir(exist_ok=True)
        command = [*TFDFD, *world.words(VERBS[name])]
        process = subprocess.Popen(
            command, **surroundings(world), stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        begun = time.monotonic()
        try:
            # Once all kills are done, nothing disturbs the last run.
            _, error = process.communicate(timeout=random.uniform(0, seconds) if kills < times else None)
        except subprocess.TimeoutExpired:
            faults += [f"kill {kills}: {line}" for line in _kill(process, alone=kills % 2 == 0)]
            kills, killed = kills + 1, True
            continue
        if process.returncode != code:
            faults.append(f"after {kills} kills: exit code {process.returncode}, not {code}: {error.decode()[-500:]}")
        faults += [f"after {kills} kills: {line}" for line in differences(whole, contents(world))]
        rounds += 1
        if kills >= times:
            return rounds, faults
        if not killed:  # the first run may have shared the machine with more than this one
            seconds = min(seconds, time.monotonic() - begun)
        killed = False


def _kill(process: subprocess.Popen, alone: bool) -> Iterator[str]:
    """Kills a command, alone or with its group; yields a fault for each process that it leaves."""
    children = psutil.Process(process.pid).children(recursive=True)
    if alone:
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    _, left = psutil.wait_procs(children, timeout=LITTER)
    for child in left:
        if child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            yield f"a process is left: {' '.join(child.cmdline())[:200]}"
            child.kill()


def disk(name: str, inputs: Path, work: Path) -> tuple[str, str, list[str]]:
    """Runs a verb on a disk of half the size that it needs, elsewhere again, and in a read-only folder.

    Returns:
        The errors on the full disk and in the read-only folder, and the faults.
    """
    whole, _, code = undisturbed(name, inputs, work / "whole")
    need = sum(-(-file.stat().st_size // 4096) for file in _files(work / "whole"))
    world = World(inputs, work / "disk")
    world.out.mkdir()
    kept = work / "kept"
    faults: list[str] = []
    size = f"{max(1, need // 2) * 4}k" if need > 1 else "4k"
    # A page that is taken already leaves nothing of a disk of one page.
    taken = "" if need > 1 else f'head -c 4096 /dev/zero > "{world.out}/.full"; '
    keep = f'{taken}"$@"; code=$?; rm -f "{world.out}/.full"; cp -a "{world.out}" "{kept}"; exit $code'
    full = _mounted(world, size, keep, VERBS[name])
    faults += [f"full disk: {line}" for line in _complaint(full, world.out, 1, "No space left on device")]
    shutil.rmtree(world.out)
    shutil.move(kept, world.out)
    again = subprocess.run([*TFDFD, *world.words(VERBS[name])], **surroundings(world), capture_output=True, text=True)
    if again.returncode != code:
        faults.append(f"after the full disk: exit code {again.returncode}, not {code}: {again.stderr[-500:]}")
    faults += [f"after the full disk: {line}" for line in differences(whole, contents(world))]
    shutil.rmtree(world.out)
    world.out.mkdir()
    locked = _mounted(world, "1m", f'mount -o remount,ro "{world.out}" || exit 77; "$@"', VERBS[name])
    # An output file is checked before any work, as wrong usage; a folder is made when work begins.
    code, words = (2, "is not writable") if locked.returncode == 2 else (1, "Read-only file system")
    faults += [f"read-only folder: {line}" for line in _complaint(locked, world.out, code, words)]
    return _last(full), _last(locked), faults


def can_mount() -> bool:
    """Whether this user may mount file systems of their own."""
    if shutil.which("unshare") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        mount = f'mount -t tmpfs tmpfs "{folder}"'
        return not subprocess.run([*_UNSHARE, "sh", "-c", mount], capture_output=True).returncode


_UNSHARE = ("unshare", "--map-root-user", "--mount")


def _mounted(world: World, size: str, script: str, line: str) -> subprocess.CompletedProcess:
    mount = f'mount -t tmpfs -o size={size} tmpfs "{world.out}" || exit 77; '
    command = [*_UNSHARE, "sh", "-c", mount + script, "sh", *TFDFD, *world.words(line)]
    return subprocess.run(command, **surroundings(world), capture_output=True, text=True)


def _complaint(done: subprocess.CompletedProcess, out: Path, code: int, expected: str) -> Iterator[str]:
    if done.returncode != code:
        yield f"exit code {done.returncode}, not {code}: {done.stderr[-300:]}"
    if expected not in done.stderr or str(out) not in done.stderr or "Traceback" in done.stderr:
        yield f"the error does not say {expected!r} and where, or is a traceback: {done.stderr[-500:]}"


def _last(done: subprocess.CompletedProcess) -> str:
    lines = done.stderr.strip().splitlines()
    return f"{done.returncode}: {lines[-1][:160] if lines else ''}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verbs", nargs="*", metavar="VERB", help=f"of {', '.join(VERBS)} (default: see above)")
    parser.add_argument("--times", type=int, default=TIMES, metavar="N", help="kills of each verb (default: 20)")
    parser.add_argument("--disk", action="store_true", help="full disks and read-only folders instead of kills")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    arguments = parser.parse_args(argv)
    names = tuple(arguments.verbs or (VERBS if arguments.disk else KILLED))
    if set(names) - set(VERBS):
        parser.error(f"unknown verbs {sorted(set(names) - set(VERBS))}; there are {', '.join(VERBS)}")
    if arguments.disk and not can_mount():
        parser.error("no file system may be mounted here; use Linux with user namespaces")
    print(hardware(), flush=True)
    every: list[str] = []
    rows: list[tuple] = []
    with tempfile.TemporaryDirectory(prefix="tfdfd-kills-") as folder:
        inputs = Path(folder) / "inputs"
        make_inputs(inputs, names)
        for name in names:
            work = Path(folder) / name
            if arguments.disk:
                full, locked, faults = disk(name, inputs, work)
                rows.append((name, full, locked, len(faults)))
            else:
                rounds, faults = kill(name, arguments.times, inputs, work, arguments.seed)
                rows.append((name, arguments.times, rounds, len(faults)))
            every += [f"{name}: {fault}" for fault in faults]
            print(f"{rows[-1]}", file=sys.stderr, flush=True)
            shutil.rmtree(work, ignore_errors=True)
    columns = ("full disk", "read-only folder") if arguments.disk else ("kills", "finished rounds")
    print_table(("verb", *columns, "faults"), rows)
    print("\n".join(every))
    return 1 if every else 0


if __name__ == "__main__":
    sys.exit(main())
