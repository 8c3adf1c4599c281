"""`tfdfd merge`: the tables of several data sets as one, as in document S1."""

from __future__ import annotations

import os
import sys
from collections import Counter

from tfdfd.cli.outcome import check_writable
from tfdfd.cli.shown import shown

_DESCRIPTION = """\
Writes one table of several of one kind. The column `dataset` stays, and nothing is copied: paths are written as seen
from the new table's folder. Of a faces.csv they start at its own folder; of an index.csv at the data set's root, which
--roots gives.

Told on standard error: crops that are the same to the byte, and names that two tables share. Names of one data set are
the same video or person in both; where they are not, --as renames the data sets.

Exit code: 0 merged; 1 could not be written; 2 wrong usage, or tables that do not fit together."""

_SHOWN = 3


def add_parser(verbs) -> None:
    parser = verbs.add_parser("merge", help="one table of several data sets", description=_DESCRIPTION)
    parser.add_argument(
        "tables", nargs="+", metavar="CSV", help="of each data set: faces.csv or its folder, or index.csv"
    )
    parser.add_argument("-o", "--output", required=True, metavar="ALL.csv", help="the merged table")
    parser.add_argument(
        "--roots", nargs="+", metavar="FOLDER", help="where each table's paths start (index.csv: needed to move them)"
    )
    parser.add_argument("--as", nargs="+", dest="names", metavar="NAME", help="a data set's name for each table")
    parser.set_defaults(run=run)


def run(arguments) -> int:
    from tfdfd.data.crops import table_file
    from tfdfd.data.tables import FaceRow, merge_tables, read_either, relocate, rename_dataset, write_table

    check_writable(arguments.output)
    for option, given in (("--roots", arguments.roots), ("--as", arguments.names)):
        if given and len(given) != len(arguments.tables):
            raise ValueError(f"{option} has {len(given)} values for {len(arguments.tables)} tables; give one for each.")
    here = os.path.dirname(os.path.abspath(arguments.output))
    tables, kinds = [], {}
    for number, path in enumerate(map(table_file, arguments.tables)):
        rows, kind = read_either(path)
        kinds.setdefault(kind, path)
        if len(kinds) > 1:
            raise ValueError(
                f"{kinds[FaceRow]} is a table of crops, but {next(p for k, p in kinds.items() if k is not FaceRow)} "
                "one of videos; merge tables of one kind."
            )
        beside = os.path.dirname(os.path.abspath(path)) if kind is FaceRow else None
        root = arguments.roots[number] if arguments.roots else beside
        if root is not None:
            if not os.path.isdir(root):
                raise ValueError(f"{root} is no folder; --roots gives where each table's paths start.")
            rows = relocate(rows, root, here)
        tables.append(rename_dataset(rows, arguments.names[number]) if arguments.names else rows)
    answer = merge_tables(tables, arguments.tables)
    write_table(arguments.output, answer.rows, kind)
    for path, rows in zip(arguments.tables, tables, strict=True):
        sets = ", ".join(f"{count:,} of {name}" for name, count in Counter(row.dataset for row in rows).items())
        print(shown(f"{path}: {len(rows):,} rows ({sets})"))
    fake = sum(row.label for row in answer.rows)
    print(shown(f"{arguments.output}: {len(answer.rows):,} rows, {len(answer.rows) - fake:,} real and {fake:,} fake"))
    for note in _notes(answer):
        sys.stderr.write(f"tfdfd merge: {shown(note)}\n")
    return 0


def _notes(answer):
    from tfdfd.data.tables import name_of

    if answer.repeated:
        yield f"rows in more than one table, written once: {answer.repeated:,}"
    for text, some in (
        ("same crop", answer.same_content),
        ("same crop called real here and fake there", answer.contradictions),
    ):
        if some:
            yield f"{text}: {len(some):,}{_such_as([' = '.join(map(name_of, rows)) for rows in some])}"
    names = [" ".join(key) for key in answer.shared_names]
    if names:
        yield (
            f"names in several tables, which count as the same: {len(names):,}{_such_as(names)}. If they are others, "
            "rename the data sets with --as"
        )


def _such_as(items):
    return f", such as {'; '.join(items[:_SHOWN])}{'; …' * (len(items) > _SHOWN)}"
