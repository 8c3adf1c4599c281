"""`tfdfd merge`: the tables of several data sets as one, as in document S1."""

from __future__ import annotations

import os
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tfdfd.cli.options import OutputFile
from tfdfd.cli.output import warn, write_line
from tfdfd.cli.parser import Parser

if TYPE_CHECKING:
    from tfdfd.data.tables import MergedTable

_DESCRIPTION = """\
Merges several tables of one kind. The column `dataset` stays, and no file is copied: paths are rewritten relative to
the folder of the new table. The paths of a faces.csv are relative to its own folder, those of an index.csv to the root
of the data set, which --roots gives.

Standard error lists crops with the same bytes, and names that two tables share. A name within one data set is the same
video or person in both tables; if it is not, rename the data sets with --as.

Exit code: 0 merged; 1 could not be written; 2 wrong usage, or tables that do not fit together."""

_EXAMPLES = 3


def add_arguments(parser: Parser) -> None:
    """Adds the arguments of `tfdfd merge`."""
    parser.description = _DESCRIPTION
    parser.add_argument("tables", nargs="+", metavar="CSV", help="per data set: faces.csv, its folder, or index.csv")
    parser.add_argument("-o", "--output", type=OutputFile, required=True, metavar="ALL.csv", help="merged table")
    parser.add_argument(
        "--roots", nargs="+", metavar="FOLDER", help="root of each table's paths (index.csv: needed to move them)"
    )
    parser.add_argument("--as", nargs="+", dest="names", metavar="NAME", help="data set name for each table")
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    from tfdfd.data.crops import table_file
    from tfdfd.data.tables import (
        FaceRow,
        merge_tables,
        read_either,
        relocate,
        remember_folders,
        rename_dataset,
        write_table,
    )

    for option, given in (("--roots", arguments.roots), ("--as", arguments.names)):
        if given and len(given) != len(arguments.tables):
            raise ValueError(f"{option} has {len(given)} values for {len(arguments.tables)} tables; give one for each.")
    here = os.path.dirname(os.path.abspath(arguments.output))
    kinds: dict[Any, Any]
    tables, kinds = [], {}
    folders: list[str] = []
    for number, path in enumerate(map(table_file, arguments.tables)):
        rows, kind = read_either(path)
        kinds.setdefault(kind, path)
        if len(kinds) > 1:
            raise ValueError(
                f"{kinds[FaceRow]} is a table of crops, but {next(p for k, p in kinds.items() if k is not FaceRow)} "
                "one of videos; merge tables of one kind."
            )
        own_root = os.path.dirname(os.path.abspath(path)) if kind is FaceRow else None
        root = arguments.roots[number] if arguments.roots else own_root
        if root is not None:
            if not os.path.isdir(root):
                raise ValueError(f"{root} is not a folder; --roots gives the root of each table's paths.")
            rows = relocate(rows, root, here)
            folders.append(root)
        tables.append(rename_dataset(rows, arguments.names[number]) if arguments.names else rows)
    answer = merge_tables(tables, arguments.tables)
    write_table(arguments.output, answer.rows, kind)
    for path, rows in zip(arguments.tables, tables, strict=True):
        sets = ", ".join(f"{count:,} of {name}" for name, count in Counter(row.dataset for row in rows).items())
        write_line(f"{path}: {len(rows):,} rows ({sets})")
    fake = sum(row.label for row in answer.rows)
    total = f"{len(answer.rows):,} rows, {len(answer.rows) - fake:,} real and {fake:,} fake"
    write_line(f"{arguments.output}: {total}")
    unknown = remember_folders(arguments.output, answer.rows, folders) if kind is FaceRow else None
    for note in (*_notes(answer), *filter(None, [unknown])):
        warn(f"tfdfd merge: {note}")
    return 0


def _notes(answer: MergedTable) -> Iterator[str]:
    from tfdfd.data.tables import name_of

    if answer.repeated:
        yield f"rows in more than one table, written once: {answer.repeated:,}"
    for text, groups in (
        ("same crop", answer.same_content),
        ("same crop labeled real here and fake there", answer.contradictions),
    ):
        if groups:
            yield f"{text}: {len(groups):,}{_such_as([' = '.join(map(name_of, rows)) for rows in groups])}"
    names = [" ".join(key) for key in answer.shared_names]
    if names:
        yield (
            f"names in several tables, which count as the same: {len(names):,}{_such_as(names)}. If they are "
            "different, rename the data sets with --as"
        )


def _such_as(items: Sequence[str]) -> str:
    return f", such as {'; '.join(items[:_EXAMPLES])}{'; …' * (len(items) > _EXAMPLES)}"
