"""`tfdfd pack`: face crops into a few large files, for file systems of clusters."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

_DESCRIPTION = """\
Packs face crops into TFRecord shards, which training and evaluation read like the folder itself.

FACES: faces.csv or the folder that holds it, or a folder with real/ and fake/. The crops' files are kept byte for
byte, each split has shards of its own, and shards.json says what they hold, with digests. The same crops give the same
bytes. A run that was stopped goes on when the same command is given again: whole shards are not written twice.

Exit code: 0 all is packed; 1 a file could not be read or written; 2 wrong usage or input."""


def add_parser(verbs) -> None:
    parser = verbs.add_parser("pack", help="face crops into TFRecord shards", description=_DESCRIPTION)
    parser.add_argument("faces", metavar="FACES", help="faces.csv, its folder, or a folder with real/ and fake/")
    parser.add_argument("-o", "--output", required=True, metavar="SHARDS", help="folder of the shards")
    parser.add_argument(
        "--shards", type=int, metavar="N", help="shards for each split (default: as many as keep them near 128 MiB)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    parser.set_defaults(run=_pack)


def _pack(arguments) -> int:
    from tfdfd.cli.progress import tracked
    from tfdfd.data.crops import faces_of
    from tfdfd.pipelines.shards import plan_shards

    faces = faces_of(arguments.faces)
    planned = plan_shards(faces, arguments.shards)
    done, kept = [], 0
    label = lambda item: Path(item[0].path).name + ("" if item[1] else ": there already")  # noqa: E731
    for shard, written in tracked(_written(faces, planned, arguments.output), len(planned), label, arguments.quiet):
        done.append(shard)
        kept += not written
    for line in summary(done):
        print(line)
    if kept and not arguments.quiet:
        sys.stderr.write(f"{kept} of {len(done)} were there already\n")
    return 0


def _written(*arguments):
    from tfdfd.pipelines.shards import write_shards  # here, where TensorFlow's chatter is kept off the screen

    yield from write_shards(*arguments)


def summary(shards) -> list[str]:
    """One line a split: crops, how many of them are real and of each method, shards and bytes."""
    lines = []
    for split in sorted({shard.split for shard in shards}, key=lambda split: split or ""):
        of_split = [shard for shard in shards if shard.split == split]
        methods = sum((Counter(shard.methods) for shard in of_split), Counter())
        crops, size = sum(shard.examples for shard in of_split), sum(shard.bytes for shard in of_split)
        told = ", ".join(f"{count:,} {method}" for method, count in sorted(methods.items()))
        files = f"{len(of_split)} shard{'' if len(of_split) == 1 else 's'}"
        lines.append(f"{split or 'no split'}: {crops:,} crops ({told}), {files}, {size / 1e6:,.1f} MB")
    return lines
