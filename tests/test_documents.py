"""The commands of README and docs work from an installed wheel, in an empty folder, with relative paths.

A comment before a block says what is special about it: `<!-- test: skip REASON -->`, `slow`, `checkout` (a command for
the checkout; only its options are checked), `output` (what it prints is compared, numbers to 0.02), `exit N`.
"""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import PLAIN
from tests.made_faces import make_faces
from tests.wheel import installed

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:<!-- test: (?P<note>.*?) -->\n)?```(?P<kind>console|python)\n(?P<text>.*?)```", re.DOTALL)
# What the examples in Python leave to the reader.
NAMES = """
import numpy as np
labels = np.arange(24) % 2
images = np.random.default_rng(0).random((24, 256, 256, 3), "float32") * (0.3 + 0.6 * labels[:, None, None, None])
source_ids = np.arange(24)
"""
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    kind: str
    text: str
    note: str

    @property
    def commands(self) -> list[str]:
        return [line[2:] for line in self.text.splitlines() if line.startswith("$ ")]

    @property
    def printed(self) -> list[str]:
        return [line for line in self.text.splitlines() if not line.startswith("$ ")]


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found["kind"], found["text"], found["note"] or "")
        for found in BLOCK.finditer(text)
    ]


ALL = [block for page in PAGES for block in blocks_of(page)]


def name_of(block: Block) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Variables under which `tfdfd` and `python` are those of a wheel, not of the checkout."""
    folder, site = tmp_path_factory.mktemp("caches"), installed(tmp_path_factory)
    variables = {key: value for key, value in os.environ.items() if not key.startswith("TFDFD_")}
    return variables | {
        "PATH": os.pathsep.join([str(site / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(site), str(PLAIN)]),
        "TFDFD_CACHE": str(folder / "cache"),
        "TFHUB_CACHE_DIR": str(folder / "hub"),
    }


@pytest.fixture
def scene(tmp_path, astronaut, make_video):
    """An empty folder but for the files that the documents speak of."""
    samples = tmp_path / "tfdfd/samples"
    shutil.copytree(ROOT / "tfdfd/samples", samples)
    for name in ("clip.mp4", "a.mp4", "genuine.mp4"):
        shutil.copy(samples / "genuine.mp4", tmp_path / name)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no film")
    content = (samples / "genuine.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) * 2 // 5])
    cv2.imwrite(str(tmp_path / "huge.png"), np.zeros((7200, 7200), np.uint8))
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos/astronaut.jpg"), astronaut[..., ::-1])
    for path in (
        "original_sequences/youtube/c23/videos/004.mp4",
        "original_sequences/youtube/c23/videos/519.mp4",
        "manipulated_sequences/Deepfakes/c23/videos/519_515.mp4",
        "manipulated_sequences/NeuralTextures/c23/videos/004_982.mp4",
    ):
        video = tmp_path / "FaceForensics++" / path
        video.parent.mkdir(parents=True, exist_ok=True)
        # Turned and stretched: another picture to whoever looks for leaks.
        other = "519" in video.stem
        turned = (
            cv2.warpAffine(astronaut, np.float32([[1.3, 0.4, -160], [-0.3, 1, 60]]), (512, 512)) if other else astronaut
        )
        face = np.roll(turned, (7 * len(video.stem), 0), (0, 1))[:256, 96:352]
        make_video(video, [np.roll(face, i, 1) for i in range(8)])
    make_faces(tmp_path / "blended", videos=12, frames=2)
    make_faces(tmp_path / "faces", videos=12, frames=2)
    for label in ("real", "fake"):
        make_faces(tmp_path / "pictures" / label, videos=6, frames=1)
        (tmp_path / "pictures" / label / "faces.csv").unlink()
    return tmp_path


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks_of(page) if not block.note.startswith(("skip", "slow", "checkout"))]


def run(block: Block, folder: Path, environment: dict[str, str]) -> None:
    """Runs the commands of a block one after the other; the last may end with the status that the note states."""
    expected = int(block.note.removeprefix("exit ")) if block.note.startswith("exit") else 0
    scripts = block.commands if block.kind == "console" else [shlex.join([sys.executable, "-c", NAMES + block.text])]
    printed = []
    for number, script in enumerate(scripts, 1):
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
        )
        wanted = expected if number == len(scripts) else 0
        assert done.returncode == wanted, f"{name_of(block)}: {script}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, f"{name_of(block)}: {script}\n{done.stderr}"
        printed += done.stdout.splitlines() + done.stderr.splitlines()
    if block.note == "output":
        for told in re.split(r"\n…\n", "\n".join(block.printed)):
            assert says("\n".join(printed), told), f"{name_of(block)} does not print\n{told}\nbut\n" + "\n".join(
                printed
            )


def says(printed: str, told: str) -> bool:
    """Whether a text is part of another, but for spaces, times, and numbers that differ by no more than 0.02."""
    printed, told = (re.sub(r'"elapsed_s": ?[\d.]+|\s+', "", text) for text in (printed, told))
    masked, part = NUMBER.sub("#", printed), NUMBER.sub("#", told)
    numbers, wanted = ([float(each.replace(",", "")) for each in NUMBER.findall(text)] for text in (printed, told))
    start = masked.find(part)
    while start >= 0:
        first = masked.count("#", 0, start)
        if all(abs(a - b) <= 0.02 for a, b in zip(numbers[first:], wanted, strict=False)):
            return True
        start = masked.find(part, start + 1)
    return False


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=lambda page: page.name)
def test_the_commands_of_a_page_work_from_a_wheel(page, scene, environment):
    for block in runnable(page):
        run(block, scene, environment)


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in ALL if block.note == "slow"], ids=name_of)
def test_the_slow_commands_work_from_a_wheel(block, scene, environment):
    run(block, scene, environment)


def commands_of(page: Path) -> list[str]:
    """All commands that begin with tfdfd, of blocks and within lines of text."""
    found = [command for block in blocks_of(page) for command in block.commands if command.startswith("tfdfd ")]
    prose = BLOCK.sub("", page.read_text("utf-8"))
    return found + [each for each in re.findall(r"`(tfdfd [a-z][^`\n]*)`", prose) if "…" not in each and " " in each]


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)], ids=lambda page: page.name)
def test_all_commands_are_understood(page):
    """By the parser of the command line: verbs, options and choices exist."""
    from tfdfd.cli.main import build_parser

    parser = build_parser()
    for command in commands_of(page):
        words = shlex.split(re.split(r" [|>] ", command)[0], comments=True)[1:]
        if len(words) <= 2 and all(re.fullmatch(r"[a-z-]+", word) for word in words):
            words.append("--help")
        try:
            parser.parse_args(words)
        except SystemExit as stop:
            assert stop.code == 0, command
        except ValueError as error:
            pytest.fail(f"{page.name}: {command}: {error}")


@pytest.mark.parametrize("block", [block for block in ALL if block.kind == "python"], ids=name_of)
def test_python_is_python_and_what_it_imports_is_there(block):
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("tfdfd"):
            module = __import__(node.module, fromlist=[each.name for each in node.names])
            assert not [each.name for each in node.names if not hasattr(module, each.name)]


def test_links_within_the_documents_lead_somewhere():
    def anchors(path):
        headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
        return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}

    broken = []
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
            target = target[0] or target[1]
            if target.startswith("http"):
                continue
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            if not file.exists() or anchor and anchor not in anchors(file):
                broken.append(f"{page.name}: {target}")
    assert not broken
