"""`tfdfd prune`: a trained network with most of its kernels' values zero, and what that gave and took."""

from __future__ import annotations

import os
import sys

_DESCRIPTION = """\
Sets the smallest values of a network's kernels to zero while it is fine-tuned on a face set with splits, and writes it
as a run folder, which 'detect', 'evaluate' and 'export' take as that of 'train', with pruning.json: zeros of each
kernel, sizes as they are and compressed, and AUC before and after on validation with the interval of the difference.

A file gets smaller by zeros only when it is compressed, and no faster: that takes a runtime for sparse networks.
A pruning that was stopped, however, goes on with the same command.

Exit code: 0 pruned; 1 it could not go on, and says where; 2 wrong usage, or a model or set of no use."""


def add_parser(verbs) -> None:
    parser = verbs.add_parser("prune", help="set most of a network's values to zero", description=_DESCRIPTION)
    parser.add_argument("model", metavar="RUN|HANDLE", help="folder of 'train', weights file, or handle")
    parser.add_argument("--data", required=True, metavar="SET", help="faces.csv, or its folder")
    parser.add_argument("-o", "--output", required=True, metavar="RUN2", help="folder of the pruned run")
    parser.add_argument("--sparsity", type=float, metavar="S", help="share of zeros of each kernel (default: 0.8)")
    parser.add_argument(
        "--schedule",
        choices=("polynomial", "constant"),
        help="rising over half of the steps, or at once (default: polynomial)",
    )
    parser.add_argument(
        "--2-4", action="store_true", dest="two_of_four", help="two zeros in each four values of a kernel instead"
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="of fine-tuning (default: 10)")
    parser.add_argument("--steps", type=int, metavar="N", help="of fine-tuning, instead of epochs")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="of fine-tuning, such as data=self-blended, limit=1000 or learning_rate=0.0003; repeat it",
    )
    parser.add_argument(
        "--int8", action="store_true", help="write the pruned network for LiteRT besides, in whole numbers of 8 bits"
    )
    parser.add_argument("--allow-leaks", action="store_true", help="take a set whose splits share people or files")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    parser.set_defaults(run=run)


def run(arguments) -> int:
    from tfdfd.cli.training_progress import TrainingProgress
    from tfdfd.pruning.sparsity import CONSTANT, PruneOptions

    given = {name: getattr(arguments, name) for name in ("sparsity", "schedule")}
    given = {name: value for name, value in given.items() if value is not None}
    if arguments.two_of_four:
        given = {"sparsity": 0.5, "schedule": CONSTANT} | given | {"two_of_four": True}
    options = PruneOptions(**given)
    numbers = {name: getattr(arguments, name) for name in ("epochs", "steps")}
    settings = [*arguments.settings, *(f"{name}={value}" for name, value in numbers.items() if value is not None)]
    with TrainingProgress(arguments.quiet) as report:
        from tfdfd.pruning.prune import prune

        told = prune(
            arguments.model, arguments.data, arguments.output, report, options, settings, arguments.allow_leaks
        )
        if arguments.int8:
            from tfdfd.pruning.int8 import quantize_run

            told["int8"] = quantize_run(arguments.output, arguments.data)
    for line in summary(told, arguments.output):
        print(line)
    for warning in told["warnings"]:
        sys.stderr.write(f"tfdfd prune: {warning}\n")
    return 0


def summary(told: dict, folder: str) -> list[str]:
    """What a person wants to know at the end."""
    zeros, sizes = told["zeros"], told["sizes"]
    lines = [
        f"zeros: {zeros['share']:.4f} of {zeros['values']:,} values in {len(zeros['kernels'])} prunable kernels",
        f"size: {sizes['dense']['bytes']:,} bytes, gzip {sizes['dense']['gzip_bytes']:,}; pruned gzip "
        f"{sizes['pruned']['gzip_bytes']:,} ({sizes['gzip_to_dense']:.3f} of the dense file, "
        f"{sizes['gzip_to_gzip']:.3f} of it compressed)",
        *_auc(told["auc"]),
        f"twin: equal to {told['proof']['before']['fake_probability']:.1e} before, "
        f"{told['proof']['after']['fake_probability']:.1e} after, on {told['proof']['after']['crops']} crops",
    ]
    if "int8" in told:
        lines += int8_lines(told["int8"])
    return [*lines, f"weights: {os.path.join(folder, 'weights.safetensors')}"]


def int8_lines(told: dict) -> list[str]:
    """Of the network in 8 bits."""
    return [
        f"int8: {told['bytes']:,} bytes, gzip {told['gzip_bytes']:,}; P(fake) at most {told['apart']:.3f} apart, "
        f"{told['apart_mean']:.4f} on average, on {told['crops']:,} crops",
        *(f"int8: {line}" for line in _auc(told["auc"])),
        f"int8: {told['file']}",
    ]


def _auc(told):
    for name in ("delong", "auc"):
        if told[name] is None:
            yield f"AUC on validation: no {name}: {told[f'{name}_reason']}"
            continue
        before, after = told[name]["auc" if name == "delong" else "values"]
        low, high = told[name]["interval"]
        how = "DeLong" if name == "delong" else "paired bootstrap"
        yield (
            f"AUC on validation: {before:.4f} before, {after:.4f} after; loss {before - after:+.4f} "
            f"[{low:+.4f}, {high:+.4f}] ({how}, 95 %)"
        )
