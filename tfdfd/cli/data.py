"""`tfdfd data`, `tfdfd srm` and `tfdfd pack`: sets that are made from a face set, and a preview of training data."""

from __future__ import annotations

import itertools
import os
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tfdfd.cli import Parser, exit_code
from tfdfd.cli.options import OutputFile, add_quiet, add_seed, check_at_least, check_writable
from tfdfd.cli.output import tracked, warn, write_line
from tfdfd.text import plural

_PREVIEW = """\
Writes a contact sheet of self-blended images as training sees them: real, blended, mask and amplified difference of
each pair.

Photographs are drawn at random. If there are fewer photographs than pairs, each is used again with other random values.
MTCNN finds the faces and their landmarks.

Exit code: 0 written; 1 no face in any of the images; 2 wrong usage."""

_LANDMARKS = """\
Finds five landmarks of each real crop with MTCNN, which training on self-blended images needs, and writes them to
landmarks.csv beside the crops.

A run that was stopped resumes with the same command. Crops whose bytes have changed are processed again; crops without
a face are listed with their status and left out of training.

Exit code: 0 all have landmarks; 1 none has; 3 some have none; 2 wrong usage or input."""

_BLEND = """\
Writes a face set of the real crops and one self-blended fake of each, for learners that read files of both classes: the
bottleneck learner, an SVM, or any recipe. Splits, sources and people are kept; give a set with splits.

A run that was stopped resumes with the same command.

Exit code: 0 written; 1 it could not be; 2 wrong usage or input."""

_SWAP = """\
Writes a face set for validation: real crops, and the same crops with the face of another person of the same split
swapped in, as frames of H.264 videos. No recipe trains on such fakes, so they measure generalization. Needs scipy:
pip install 'tfdfd[train]'.

A run that was stopped resumes with the same command.

Exit code: 0 written; 1 it could not be; 2 wrong usage or input."""

_SRM = """\
Writes the SRM noise residuals of each crop of a face set as PNG files, with the same rows in faces.csv, as in document
S4.

A residual, in gray levels and clipped to -T..T, is stored as 128 + round(127 * residual / T): no noise is mid-gray, and
nothing else is lost (S4's files, filtered in 8 bits, lost the negative half). With T = 127, a network on these files
sees what the noise networks (srm_vgg16, ...) see of the crops, to half a gray level.

A run that was stopped resumes with the same command, and ends in the same bytes.

Exit code: 0 all crops are written; 1 a file could not be written; 2 wrong usage, or a crop that cannot be read."""

_PACK = """\
Packs face crops into TFRecord shards, which training and evaluation read like the folder itself. A few large files suit
the file systems of clusters.

FACES is faces.csv, the folder that holds it, or a folder with real/ and fake/. The files of the crops are stored byte
for byte, each split has its own shards, and shards.json lists their content, with digests. The same crops give the same
bytes. A run that was stopped resumes with the same command: complete shards are not written twice.

Exit code: 0 all is packed; 1 a file could not be read or written; 2 wrong usage or input."""

_FACES = "faces.csv, its folder, or a folder with real/ and fake/"
_CROPS_PER_STEP = 100  # of the progress bar


def add_data_arguments(parser: Parser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, dest="action")
    for name, add_arguments, help_text in (
        ("preview", _add_preview, "write a contact sheet of self-blended images"),
        ("landmarks", _add_landmarks, "find the landmarks of the real crops"),
        ("blend", _add_blend, "write a face set with self-blended fakes"),
        ("swap", _add_swap, "write a face set with faces swapped between people"),
    ):
        actions.add_parser(name, help=help_text, add_arguments=add_arguments)


def _add_preview(parser: Parser) -> None:
    parser.description = _PREVIEW
    parser.add_argument("paths", nargs="+", metavar="FACES", help="photographs, or folders of them or of 'extract'")
    parser.add_argument("-o", "--output", type=OutputFile, required=True, metavar="SHEET.png", help="sheet to write")
    parser.add_argument("--count", type=int, default=16, metavar="N", help="number of pairs")
    add_seed(parser, "the random values")
    parser.add_argument("--size", type=int, default=160, metavar="PIXELS", help="side of a crop")
    parser.set_defaults(run=_preview)


def _add_landmarks(parser: Parser) -> None:
    parser.description = _LANDMARKS
    parser.add_argument("faces", metavar="FACES", help=_FACES)
    parser.add_argument("-o", "--output", metavar="FILE.csv", help="default: landmarks.csv beside the crops")
    add_quiet(parser)
    parser.set_defaults(run=_landmarks)


def _add_blend(parser: Parser) -> None:
    parser.description = _BLEND
    parser.add_argument("faces", metavar="FACES", help="faces.csv, its folder, or a folder with real/")
    _add_new_set(parser)
    parser.set_defaults(run=_blend)


def _add_swap(parser: Parser) -> None:
    parser.description = _SWAP
    parser.add_argument("faces", metavar="SPLIT", help="faces.csv with splits, or its folder")
    parser.add_argument("--splits", default="val,test", metavar="NAMES", help="splits to use")
    _add_new_set(parser)
    parser.set_defaults(run=_swap)


def _add_new_set(parser: Parser) -> None:
    parser.add_argument("-o", "--output", required=True, metavar="SET", help="folder of the new set")
    parser.add_argument("--size", type=int, default=256, metavar="PIXELS", help="side of a crop")
    add_seed(parser, "the fakes")
    add_quiet(parser)


def add_srm_arguments(parser: Parser) -> None:
    from tfdfd.data import SrmOptions

    parser.description = _SRM
    parser.add_argument("faces", metavar="FACES", help=_FACES)
    parser.add_argument("-o", "--output", required=True, metavar="NOISE", help="a new folder, or one to resume")
    parser.add_argument(
        "--kernels",
        nargs="+",
        metavar="K",
        default=SrmOptions.kernels,
        help="KB KV second: one per channel, on the sum of the colors (default); one of them: on each color, as in S4",
    )
    parser.add_argument("--truncate", type=float, default=SrmOptions.truncate, metavar="T", help="gray levels")
    parser.add_argument("--workers", type=int, metavar="N", help="crops at a time (default: one per core)")
    add_quiet(parser)
    parser.set_defaults(run=run_srm)


def add_pack_arguments(parser: Parser) -> None:
    parser.description = _PACK
    parser.add_argument("faces", metavar="FACES", help=_FACES)
    parser.add_argument("-o", "--output", required=True, metavar="SHARDS", help="folder of the shards")
    parser.add_argument(
        "--shards", type=int, metavar="N", help="shards per split (default: as many as keep them near 128 MiB)"
    )
    add_quiet(parser)
    parser.set_defaults(run=run_pack)


def _preview(arguments: Namespace) -> int:
    for name, most in (("count", 400), ("size", 1024)):
        if not 1 <= getattr(arguments, name) <= most:
            raise ValueError(f"--{name} must be from 1 to {most}; received {getattr(arguments, name)}.")
    check_at_least(arguments, "seed", 0)

    from tfdfd.data.contact_sheet import Refusal, as_png, contact_sheet, genuine_images, preview_pairs
    from tfdfd.faces import build_detector
    from tfdfd.files import write_atomically

    images = genuine_images(arguments.paths)
    made = []
    for outcome in preview_pairs(images, arguments.count, arguments.seed, arguments.size, build_detector("mtcnn")):  # type: ignore[arg-type]
        if isinstance(outcome, Refusal):
            warn(f"left out {outcome.path}: {outcome.message}")
        else:
            made.append(outcome)
    if not made:
        raise RuntimeError(f"no face in any of the {len(images)} images; no sheet was written.")
    write_atomically(arguments.output, as_png(contact_sheet(made)))
    photographs = len({pair.path for pair in made})
    write_line(f"{arguments.output}: {len(made)} pairs from {photographs} of {len(images)} images")
    return 0


def _landmarks(arguments: Namespace) -> int:
    from tfdfd.data.crops import faces_of
    from tfdfd.data.landmarks import OK, TABLE, find_landmarks
    from tfdfd.data.tables import REAL

    faces = faces_of(arguments.faces)
    table = arguments.output or os.path.join(faces.root, TABLE)
    check_writable(table)
    real = sum(row.label == REAL for row in faces.rows)
    if not real:
        raise ValueError(f"{arguments.faces} has no real crop among {len(faces.rows)}; fakes need no landmarks.")
    counts: Counter[str] = Counter()
    for part in _tracked_parts(find_landmarks(faces, table), real, arguments.quiet):
        counts.update(found.status for found in part)
        for found in part:
            if found.status != OK and not arguments.quiet:
                warn(f"{found.file}: {found.status}")
    statuses = ", ".join(f"{count:,} {status}" for status, count in sorted(counts.items()))
    write_line(f"{table}: {real:,} real crops: {statuses}")
    return exit_code(counts[OK], real)


def _tracked_parts(items: Iterable, total: int, quiet: bool) -> Iterable[list]:
    """The items in lists, each of which is a step of the progress bar."""
    items = iter(items)
    parts = iter(lambda: list(itertools.islice(items, _CROPS_PER_STEP)), [])
    label = lambda part: f"up to {part[-1].file}"  # noqa: E731
    return tracked(parts, -(-total // _CROPS_PER_STEP), label, quiet)


def _blend(arguments: Namespace) -> int:
    from tfdfd.data.pair_sets import BlendedPairs, write_blended_set

    pairs = BlendedPairs(arguments.faces, arguments.size, split=None, seed=arguments.seed)
    return _write(pairs, write_blended_set, arguments)


def _swap(arguments: Namespace) -> int:
    from tfdfd.data.pair_sets import SwappedPairs, write_swapped_set
    from tfdfd.data.tables import SPLITS

    splits = arguments.splits.split(",")
    if len(set(splits)) < len(splits) or not set(splits) <= set(SPLITS):
        raise ValueError(f"--splits must be some of {','.join(SPLITS)}; received {arguments.splits!r}.")
    pairs = SwappedPairs(arguments.faces, arguments.size, splits=splits, seed=arguments.seed)
    return _write(pairs, write_swapped_set, arguments)


def _write(pairs: Any, write: Callable[..., Iterator], arguments: Namespace) -> int:
    count = sum(map(len, _tracked_parts(write(pairs, arguments.output), len(pairs), arguments.quiet)))
    left_out = ", ".join(f"{number:,} {status}" for status, number in sorted(pairs.left_out.items())) or "none"
    table = os.path.join(arguments.output, "faces.csv")
    write_line(f"{table}: {count:,} real crops and as many fakes; left out: {left_out}")
    return 0


def run_srm(arguments: Namespace) -> int:
    from tfdfd.data import SrmOptions
    from tfdfd.data.srm_set import SrmSet

    check_at_least(arguments, "workers", 1)
    options = SrmOptions(tuple(arguments.kernels), arguments.truncate)
    with SrmSet(arguments.faces, arguments.output, options, arguments.workers) as noise:
        label = lambda done: f"{done:,} of {len(noise.faces.rows):,} crops"  # noqa: E731
        try:
            for _ in tracked(noise.clone(), noise.blocks, label, arguments.quiet):
                pass
            counts = noise.finish()
        except OSError as error:
            raise OSError(
                f"{arguments.output}: {error}. Finished work is kept; the same command resumes it."
            ) from error
    write_line(f"{counts['crops']:,} crops: {os.path.join(arguments.output, 'faces.csv')}")
    if counts["clipped"]:
        write_line(f"{counts['clipped']:.2%} of the residuals reach {arguments.truncate:g} gray levels")
    return 0


def run_pack(arguments: Namespace) -> int:
    from tfdfd.data.crops import faces_of
    from tfdfd.pipelines import plan_shards

    def write() -> Iterator:
        from tfdfd.pipelines import write_shards

        yield from write_shards(faces, planned, arguments.output)

    faces = faces_of(arguments.faces)
    planned = plan_shards(faces, arguments.shards)
    done, kept = [], 0
    label = lambda item: Path(item[0].path).name + ("" if item[1] else ": exists")  # noqa: E731
    for shard, is_new in tracked(write(), len(planned), label, arguments.quiet):
        done.append(shard)
        kept += not is_new
    for line in shard_lines(done):
        write_line(line)
    if kept and not arguments.quiet:
        warn(f"{kept} of {len(done)} existed")
    return 0


def shard_lines(shards: list) -> list[str]:
    """One line per split: number of crops, by method, number of shards, and bytes."""
    lines = []
    for split in sorted({shard.split for shard in shards}, key=lambda split: split or ""):
        of_split = [shard for shard in shards if shard.split == split]
        methods = sum((Counter(shard.methods) for shard in of_split), Counter())
        crops, size = sum(shard.examples for shard in of_split), sum(shard.bytes for shard in of_split)
        counts = ", ".join(f"{count:,} {method}" for method, count in sorted(methods.items()))
        files = plural(len(of_split), "shard")
        lines.append(f"{split or 'no split'}: {crops:,} crops ({counts}), {files}, {size / 1e6:,.1f} MB")
    return lines
