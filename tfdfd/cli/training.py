"""`tfdfd train`, `recipes`, `finetune`, `tune` and `prune`: networks that are trained, by a recipe or a search."""

from __future__ import annotations

import functools
import json
import os
import shlex
import shutil
import sys
import textwrap
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfdfd.cli import ALL, SOME, Parser, exit_code
from tfdfd.cli.options import add_backend, add_seed, add_training, check_at_least, select_backend, values_of
from tfdfd.cli.output import warn, write_line, write_text
from tfdfd.faces import DETECTORS, NO_DETECTOR
from tfdfd.text import table_lines
from tfdfd.weights import DEFAULT_MODEL

if TYPE_CHECKING:
    from tfdfd.training.recipe import Recipe

_TRAIN = """\
Trains a network by a recipe ('tfdfd recipes' lists them) on a face set with splits ('extract', then 'split').

The run folder holds the weights of the best epoch on validation with their model card, the log, the curves and the
settings. A run that was stopped in any way resumes with the same command and ends in the same weights. Thresholds and
calibration are chosen on validation; test data are never opened.

Exit code: 0 trained; 1 it could not go on, and says where; 2 wrong usage, or an invalid set."""

_RECIPES = """\
Lists the recipes of 'tfdfd train', with the table that each one reproduces and the result that the document reports.
With NAME, lists all settings of one recipe, as --set takes them, with what each means and its choices."""


def add_train_arguments(parser: Parser) -> None:
    parser.description = _TRAIN
    parser.add_argument("recipe", metavar="RECIPE", help="its name, such as s1-meso-inception4")
    parser.add_argument("--data", required=True, metavar="SET", help="faces.csv, or its folder")
    parser.add_argument("-o", "--output", required=True, metavar="RUN", help="folder of the run")
    add_training(parser, "changes a setting of the recipe; repeatable")
    parser.add_argument(
        "--config",
        metavar="FILE.json|NETWORK",
        help="settings that 'tfdfd tune' found best: a file, or those that tfdfd includes for a network",
    )
    parser.add_argument("--quick", action="store_true", help="smoke test: one epoch of few small crops")
    add_backend(parser)
    parser.add_argument(
        "--device", choices=("cpu", "gpu"), help="fail unless it is there (default: what the backend finds)"
    )
    parser.add_argument("--devices", type=int, default=1, metavar="N", help="share each batch among N (jax only)")
    parser.set_defaults(run=run_train)


def add_recipes_arguments(parser: Parser) -> None:
    parser.description = _RECIPES
    parser.add_argument("name", nargs="?", metavar="NAME", help="show all settings of this recipe")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run_recipes)


def run_train(arguments: Namespace) -> int:
    check_at_least(arguments, "devices", 1)
    select_backend(arguments)
    from tfdfd.cli.output import TrainingProgress
    from tfdfd.recipes import find_recipe

    recipe = find_recipe(arguments.recipe)
    if arguments.config:
        from tfdfd.training.recipe import read_config

        recipe = read_config(arguments.config, recipe)
    # --set overrides --quick.
    recipe = (recipe.quick() if arguments.quick else recipe).changed(arguments.settings)
    with TrainingProgress(arguments.quiet) as report:
        from tfdfd.training.procedures import distributed, train

        with distributed(arguments.device, arguments.devices):
            result = train(recipe, arguments.data, arguments.output, report, arguments.allow_leaks)
    for name, value in result.items():
        if not isinstance(value, dict | list):
            write_line(f"{name}: {value}")
    write_line(f"weights: {os.path.join(arguments.output, 'weights.safetensors')}")
    for warning in result.get("warnings", ()):
        warn(f"tfdfd train: {warning}")
    return 0


def run_recipes(arguments: Namespace) -> int:
    from tfdfd.recipes import find_recipe, list_recipes

    recipes = [find_recipe(arguments.name)] if arguments.name else list(list_recipes().values())
    if arguments.json:
        settings = [recipe.settings() for recipe in recipes]
        write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", "-")
    elif arguments.name:
        meanings, width = recipes[0].meanings(), shutil.get_terminal_size((120, 24)).columns
        for key, value in recipes[0].settings().items():
            write_line(f"{key:16}{'none' if value is None else value}")
            for line in textwrap.wrap(meanings.get(key, ""), width - 18, break_on_hyphens=False):
                write_line(f"{'':18}{line}")
    else:
        width = max(len(recipe.name) for recipe in recipes)
        for recipe in recipes:
            write_line(f"{recipe.name:{width}}  {recipe.source}")
            write_line(f"{'':{width}}  {recipe.expected}")
    return 0


_FINETUNE = """\
Fine-tunes a model on a folder of real and a folder of fake images and videos, and evaluates it on a part of them that
it was not trained on. RUN holds the index, the face crops, the splits, model/ (the weights with their model card, which
'detect', 'evaluate' and 'export' take) and report/.

The steps 'extract', 'split' and 'evaluate' are printed before they run. A run that was stopped in any way resumes with
the same command.

Files of one name count as the same source, which stays in one split, and so do similar pictures. If the names of fakes
contain those of their originals, --source-pattern extracts them, so that a fake stays with its original.

Exit code: 0 fine-tuned and evaluated; 1 a step could not go on; 2 wrong usage, or invalid data; 3 fine-tuned and
evaluated, but some files gave no face crops."""


def add_finetune_arguments(parser: Parser) -> None:
    parser.description = _FINETUNE
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
    parser.set_defaults(run=run_finetune)


def run_finetune(arguments: Namespace) -> int:
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
    from tfdfd.cli.output import TrainingProgress

    warn(f"training {recipe.network} from {recipe.weights} in {folder}")
    with TrainingProgress(arguments.quiet) as report:
        from tfdfd.training.procedures import train

        result = train(recipe, data, folder, report, arguments.allow_leaks)
    for warning in result.get("warnings", ()):
        warn(f"tfdfd finetune: {warning}")


_TUNE = """\
Searches hyperparameters of a network with KerasTuner: builder, optimizer, augmentation, as defined by the search space
of the network or by a file. Each trial is a training in a run folder of its own. The objective is the AUC on
validation, over videos if any video has several crops. Test data are never opened.

SEARCH holds trials.csv, TensorBoard's HParams log, and at the end best.json for 'tfdfd train --config'. A search that
was stopped in any way resumes with the same command: finished trials are kept, running ones continue. A larger
--max-trials extends a search. A failed trial is listed as failed and does not end the search.

--workers N starts N processes on this machine; a killed process is replaced and its trial resumes. Workers on other
machines, where SEARCH and SET have the same paths, join with the same command without --workers and with KerasTuner's
variables KERASTUNER_TUNER_ID, KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT; the chief is the process whose id
contains "chief". The chief does not authenticate workers: use it only on a network that you trust.

The first trial of random and bayesian has the recipe's own settings, as far as the space holds them, so that a search
with few trials does not end below them.

hyperband trains from scratch in each round, with the epochs of that round, at most those of the recipe.

Exit code: 0 every trial has a score; 1 none has, or the search could not go on; 3 some failed; 2 wrong usage."""


def add_tune_arguments(parser: Parser) -> None:
    from tfdfd.tuning import TUNERS

    parser.description = _TUNE
    parser.add_argument("space", metavar="SPACE", help="name of a network, such as meso4, or a space: FILE.json")
    parser.add_argument("--data", required=True, metavar="SET", help="faces.csv with splits, or its folder")
    parser.add_argument("-o", "--output", required=True, metavar="SEARCH", help="folder of the search")
    parser.add_argument("--tuner", choices=TUNERS, default="random", help="search algorithm")
    parser.add_argument("--max-trials", type=int, default=20, metavar="N", help="default: 20")
    parser.add_argument("--workers", type=int, metavar="N", help="processes on this machine (default: only this one)")
    add_training(parser, "fixes a setting for all trials, so that it is not searched; repeatable")
    parser.add_argument("--quick", action="store_true", help="smoke test: trials of one epoch of few small crops")
    add_seed(parser, "search and training")
    add_backend(parser)
    parser.set_defaults(run=run_tune)


def run_tune(arguments: Namespace) -> int:
    check_at_least(arguments, "workers", 0)
    check_at_least(arguments, "seed", 0)
    select_backend(arguments)
    from tfdfd.cli.output import Progress, TrainingProgress
    from tfdfd.tuning.search import CHIEF, WORKER, make_search, role, run_alone, run_chief, run_worker
    from tfdfd.tuning.search_space import read_space

    space = read_space(arguments.space)
    own_role = role(arguments.workers)
    options = values_of(arguments, "tuner", "max_trials", "seed", "quick", "allow_leaks")
    search = make_search(space, arguments.data, arguments.output, settings=tuple(arguments.settings), **options)
    words = _worker_command(arguments)
    command = shlex.join(["tfdfd", *words, *(["--workers", str(arguments.workers)] if arguments.workers else [])])
    note = Progress(arguments.quiet).line
    reports = functools.partial(TrainingProgress, arguments.quiet)
    if own_role == WORKER:
        run_worker(search, reports, note)
        return 0
    if own_role == CHIEF:
        worker = [sys.executable, "-m", "tfdfd", *words]
        rows, best = run_chief(search, command, worker, arguments.workers or 0, note)
    else:
        rows, best = run_alone(search, command, reports, note)
    for line in trial_lines(rows, search.objective):
        write_line(line)
    if best is None:
        table = os.path.join(arguments.output, "trials.csv")
        warn(f"tfdfd tune: no trial has a score; see the messages in {table}")
    else:
        low, high = best["score"]["interval"] or (None, None)
        interval = f" (95 % interval {low:.4f} to {high:.4f}, not corrected for the choice)" if low is not None else ""
        write_line(f"best {search.objective} {best['score']['value']:.4f}{interval}")
        write_line(_train_command(space.recipe, arguments))
    return exit_code(sum(row["status"] == "COMPLETED" for row in rows), len(rows))


def _train_command(recipe: str, arguments: Namespace) -> str:
    """The command that trains the network with the best settings."""
    run = f"{os.path.normpath(arguments.output)}-best"
    words: list[str] = ["tfdfd", "train", recipe, "--config", os.path.join(arguments.output, "best.json")]
    words += ["--data", arguments.data, "-o", run]
    words += ["--allow-leaks"] if arguments.allow_leaks else []
    return shlex.join([*words, *(["--backend", arguments.backend] if arguments.backend else [])])


def _worker_command(arguments: Namespace) -> list[str]:
    """The command without --workers, with which the workers on this machine are started."""
    words = ["tune", arguments.space, "--data", arguments.data, "-o", arguments.output]
    words += ["--tuner", arguments.tuner, "--max-trials", str(arguments.max_trials), "--seed", str(arguments.seed)]
    for setting in arguments.settings:
        words += ["--set", setting]
    words += [f"--{name.replace('_', '-')}" for name in ("quick", "allow_leaks", "quiet") if getattr(arguments, name)]
    return [*words, *(["--backend", arguments.backend] if arguments.backend else [])]


def trial_lines(rows: list[dict], objective: str) -> list[str]:
    """A table of the trials, the best first, the failed last."""
    rows = sorted(rows, key=lambda row: (row[objective] is None, -(row[objective] or 0)))
    names = list(dict.fromkeys(name for row in rows for name in row if name not in ("status", "message")))
    head, *lines = table_lines([names, *([_cell(row.get(name)) for name in names] for row in rows)], left=0)
    return [head, *(f"{line}  {row.get('message', '')}".rstrip() for line, row in zip(lines, rows, strict=True))]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


_PRUNE = """\
Sets the smallest values of a network's kernels to zero while it is fine-tuned on a face set with splits. The result is
a run folder, which 'detect', 'evaluate' and 'export' take like that of 'train', with pruning.json: the zeros of each
kernel, plain and compressed sizes, and the AUC before and after on validation with the interval of the difference.

Zeros make a file smaller only when it is compressed, and make a network faster only in a runtime for sparse networks.
A run that was stopped in any way resumes with the same command.

Exit code: 0 pruned; 1 it could not go on, and says where; 2 wrong usage, or an invalid model or set."""


def add_prune_arguments(parser: Parser) -> None:
    parser.description = _PRUNE
    parser.add_argument("model", metavar="RUN|HANDLE", help="folder of 'train', weights file, or handle")
    parser.add_argument("--data", required=True, metavar="SET", help="faces.csv, or its folder")
    parser.add_argument("-o", "--output", required=True, metavar="RUN2", help="folder of the pruned run")
    parser.add_argument("--sparsity", type=float, metavar="S", help="share of zeros in each kernel (default: 0.8)")
    parser.add_argument(
        "--schedule",
        choices=("polynomial", "constant"),
        help="the share rises over half of the steps, or is constant (default: polynomial)",
    )
    parser.add_argument(
        "--2-4", action="store_true", dest="two_of_four", help="instead, two zeros in every four values of a kernel"
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="epochs of fine-tuning (default: 10)")
    parser.add_argument("--steps", type=int, metavar="N", help="steps of fine-tuning, instead of epochs")
    add_training(
        parser,
        "changes a setting of fine-tuning, such as data=self-blended, limit=1000 or learning_rate=0.0003; repeatable",
    )
    parser.add_argument(
        "--int8", action="store_true", help="also write the pruned network for LiteRT, in 8-bit integers"
    )
    parser.set_defaults(run=run_prune)


def run_prune(arguments: Namespace) -> int:
    from tfdfd.cli.output import TrainingProgress
    from tfdfd.pruning import CONSTANT, PruneOptions

    given = values_of(arguments, "sparsity", "schedule")
    if arguments.two_of_four:
        given = {"sparsity": 0.5, "schedule": CONSTANT} | given | {"two_of_four": True}
    options = PruneOptions(**given)
    numbers = values_of(arguments, "epochs", "steps")
    settings = [*arguments.settings, *(f"{name}={value}" for name, value in numbers.items())]
    with TrainingProgress(arguments.quiet) as report:
        from tfdfd.pruning.prune import prune

        result = prune(
            arguments.model, arguments.data, arguments.output, report, options, settings, arguments.allow_leaks
        )
        if arguments.int8:
            from tfdfd.pruning.int8 import quantize_run

            result["int8"] = quantize_run(arguments.output, arguments.data)
    for line in summary(result, arguments.output):
        write_line(line)
    for warning in result["warnings"]:
        warn(f"tfdfd prune: {warning}")
    return 0


def summary(result: dict, folder: str) -> list[str]:
    """The result of a pruning as lines of text."""
    zeros, sizes, equality = result["zeros"], result["sizes"], result["proof"]
    lines = [
        f"zeros: {zeros['share']:.4f} of {zeros['values']:,} values in {len(zeros['kernels'])} prunable kernels",
        f"size: {sizes['dense']['bytes']:,} bytes, gzip {sizes['dense']['gzip_bytes']:,}; pruned gzip "
        f"{sizes['pruned']['gzip_bytes']:,} ({sizes['gzip_to_dense']:.3f} of the dense file, "
        f"{sizes['gzip_to_gzip']:.3f} of it compressed)",
        *_auc_lines(result["auc"]),
        f"twin: equal to {equality['before']['fake_probability']:.1e} before, "
        f"{equality['after']['fake_probability']:.1e} after, on {equality['after']['crops']} crops",
    ]
    if int8 := result.get("int8"):
        lines += [
            f"int8: {int8['bytes']:,} bytes, gzip {int8['gzip_bytes']:,}; P(fake) at most {int8['apart']:.3f} apart, "
            f"{int8['apart_mean']:.4f} on average, on {int8['crops']:,} crops",
            *(f"int8: {line}" for line in _auc_lines(int8["auc"])),
            f"int8: {int8['file']}",
        ]
    return [*lines, f"weights: {os.path.join(folder, 'weights.safetensors')}"]


def _auc_lines(auc: dict[str, Any]) -> Iterator[str]:
    for name in ("delong", "auc"):
        if auc[name] is None:
            yield f"AUC on validation: no {name}: {auc[f'{name}_reason']}"
            continue
        before, after = auc[name]["auc" if name == "delong" else "values"]
        low, high = auc[name]["interval"]
        method = "DeLong" if name == "delong" else "paired bootstrap"
        yield (
            f"AUC on validation: {before:.4f} before, {after:.4f} after; loss {before - after:+.4f} "
            f"[{low:+.4f}, {high:+.4f}] ({method}, 95 %)"
        )
