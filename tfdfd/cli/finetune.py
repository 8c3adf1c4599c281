"""`tfdfd finetune`: from two folders of real and fake media to a fine-tuned, evaluated model."""

from __future__ import annotations

import os
import shlex
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfdfd.cli.options import add_training
from tfdfd.cli.parser import ALL, SOME, Parser
from tfdfd.cli.text import warn
from tfdfd.faces import DETECTORS, NO_DETECTOR
from tfdfd.weights import DEFAULT_MODEL

if TYPE_CHECKING:
    from tfdfd.training.recipe import Recipe

_DESCRIPTION = """\
Fine-tunes a model on a folder of real and a folder of fake images and videos, and evaluates it on a part of them that
it was not trained on. RUN holds the index, the face crops, the splits, model/ (the weights with their model card, which
'detect', 'evaluate' and 'export' take) and report/.

The steps 'extract', 'split' and 'evaluate' are printed before they run. A run that was stopped in any way resumes with
the same command.

Files of one name count as the same source, which stays in one split, and so do similar pictures. If the names of fakes
contain those of their originals, --source-pattern extracts them, so that a fake stays with its original.

Exit code: 0 fine-tuned and evaluated; 1 a step could not go on; 2 wrong usage, or invalid data; 3 fine-tuned and
evaluated, but some files gave no face crops."""


def add_arguments(parser: Parser) -> None:
    """Adds the arguments of `tfdfd finetune`."""
    parser.description = _DESCRIPTION
    parser.add_argument("real", metavar="REAL", help="folder of real images and videos")
    parser.add_argument("fake", metavar="FAKE", help="folder of fake images and videos")
    parser.add_argument("-o", "--output", required=True, metavar="RUN", help="a new folder, or one to resume")
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="HANDLE|FILE",
        help="weights to start from, of a network of single faces: a handle, a file, the folder of a run, or fast",
    )
    parser.add_argument("--frames", type=int, default=32, metavar="N", help="frames of a video to train on")
    parser.add_argument(
        "--detector",
        default=DETECTORS[0],
        choices=(*DETECTORS, NO_DETECTOR),
        help=f"face detector; {NO_DETECTOR}: each image already is a face crop",
    )
    parser.add_argument("--source-pattern", metavar="REGEX", help="groups in each path are its sources; see 'index'")
    parser.add_argument("--quick", action="store_true", help="smoke test: one epoch of few small crops")
    add_training(parser, "changes a setting of training, such as epochs=5 or learning_rate=0.0003; repeatable")
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    real, fake = (os.path.abspath(folder) for folder in (arguments.real, arguments.fake))
    for folder in (real, fake):
        if not os.path.isdir(folder):
            raise ValueError(f"{folder} is not a folder; give a folder of real and one of fake images and videos.")
    if real == fake:
        raise ValueError(f"REAL and FAKE are the same folder: {real}.")
    recipe = _recipe(arguments)
    os.makedirs(arguments.output, exist_ok=True)
    at = lambda *names: os.path.join(arguments.output, *names)  # noqa: E731
    quiet = ["--quiet"] if arguments.quiet else []
    leaks = ["--allow-leaks"] if arguments.allow_leaks else []
    root = os.path.commonpath([real, fake])
    faces = ["--root", root, "--detector", arguments.detector, "--frames", str(arguments.frames)]
    _write_index(arguments, real, fake, root, at("index.csv"))
    extracted = _step(["extract", at("index.csv"), *faces, "-o", at("faces"), *quiet])
    if extracted not in (ALL, SOME):
        return extracted
    if code := _step(["split", at("faces"), "-o", at("split.csv")]):
        return code
    _train(recipe, arguments, at("split.csv"), at("model"))
    return _step(["evaluate", at("model"), "--data", at("split.csv"), "-o", at("report"), *leaks, *quiet]) or extracted


def _write_index(arguments: Namespace, real: Any, fake: Any, root: Path, file: Path) -> None:
    from tfdfd.data.index import INDEXERS
    from tfdfd.data.tables import FAKE, REAL, IndexRow, relocate, write_table

    rows = []
    for folder, label in ((real, REAL), (fake, FAKE)):
        found = INDEXERS["folder"](folder, label=label, source_pattern=arguments.source_pattern)
        if not found.rows:
            raise ValueError(f"{folder} contains no image or video.")
        rows += relocate(found.rows, folder, root)
    write_table(file, rows, IndexRow)
    warn(f"{file}: {len(rows):,} images and videos")


def _step(words: Sequence[Any]) -> int:
    """Prints and runs a command."""
    from tfdfd.cli.main import build_parser, check

    warn(f"tfdfd {shlex.join(words)}")
    arguments = build_parser().parse_args(words)
    check(arguments)
    return arguments.run(arguments)


def _recipe(arguments: Namespace) -> Recipe:
    from tfdfd.models import refuse_clips, spec
    from tfdfd.training.recipe import Recipe
    from tfdfd.weights.store import locate

    record = locate(arguments.model)[0]
    refuse_clips(record, "fine-tuning")
    if record.members or record.base or "svm" in record.arguments:
        raise ValueError(
            f"{arguments.model} is built on other networks and cannot be fine-tuned as a whole; give the weights of a "
            "network of single faces, such as fast."
        )
    is_file = os.path.exists(arguments.model)
    recipe = Recipe(
        name="finetuned",
        source=f"fine-tuned from {record.handle}",
        expected="",
        network=record.model,
        arguments=record.arguments,
        size=(record.input_shape or spec(record.model).input_shape)[0],
        weights=os.path.abspath(arguments.model) if is_file else record.handle,
        augment="modern",
        epochs=10,
        learning_rate=1e-4,
        schedule="cosine",
        patience=3,
    )
    return (recipe.quick() if arguments.quick else recipe).changed(arguments.settings)


def _train(recipe: Recipe, arguments: Namespace, data: Path, folder: Path) -> None:
    from tfdfd.cli.progress import TrainingProgress

    warn(f"training {recipe.network} from {recipe.weights} in {folder}")
    with TrainingProgress(arguments.quiet) as report:
        from tfdfd.training.procedures import train

        result = train(recipe, data, folder, report, arguments.allow_leaks)
    for warning in result.get("warnings", ()):
        warn(f"tfdfd finetune: {warning}")
