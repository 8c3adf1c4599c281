"""`tfdfd prune`: a trained network with most of its kernels' values set to zero, and the effect on size and AUC."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from tfdfd.cli.options import add_training, values_of
from tfdfd.cli.parser import Parser
from tfdfd.cli.text import warn, write_line

_DESCRIPTION = """\
Sets the smallest values of a network's kernels to zero while it is fine-tuned on a face set with splits. The result is
a run folder, which 'detect', 'evaluate' and 'export' take like that of 'train', with pruning.json: the zeros of each
kernel, plain and compressed sizes, and the AUC before and after on validation with the interval of the difference.

Zeros make a file smaller only when it is compressed, and make a network faster only in a runtime for sparse networks.
A run that was stopped in any way resumes with the same command.

Exit code: 0 pruned; 1 it could not go on, and says where; 2 wrong usage, or an invalid model or set."""


def add_arguments(parser: Parser) -> None:
    """Adds the arguments of `tfdfd prune`."""
    parser.description = _DESCRIPTION
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
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    from tfdfd.cli.progress import TrainingProgress
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
