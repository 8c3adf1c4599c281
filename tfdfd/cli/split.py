"""`tfdfd merge`, `split` and `check-leaks`: tables merged, split without shared videos and people, and checked."""

from __future__ import annotations

import os
from argparse import Namespace
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tfdfd.cli import SOME, Parser
from tfdfd.cli.options import OutputFile, add_json, add_seed
from tfdfd.cli.output import warn, write_json, write_line
from tfdfd.text import escape_control_chars, table_lines

if TYPE_CHECKING:
    from tfdfd.data.leaks import Fingerprints, Leak
    from tfdfd.data.tables import MergedTable

_MERGE = """\
Merges several tables of one kind. The column `dataset` stays, and no file is copied: paths are rewritten relative to
the folder of the new table. The paths of a faces.csv are relative to its own folder, those of an index.csv to the root
of the data set, which --roots gives.

Standard error lists crops with the same bytes, and names that two tables share. A name within one data set is the same
video or person in both tables; if it is not, rename the data sets with --as.

Exit code: 0 merged; 1 could not be written; 2 wrong usage, or tables that do not fit together."""

_EXAMPLES = 3


def add_merge_arguments(parser: Parser) -> None:
    parser.description = _MERGE
    parser.add_argument("tables", nargs="+", metavar="CSV", help="per data set: faces.csv, its folder, or index.csv")
    parser.add_argument("-o", "--output", type=OutputFile, required=True, metavar="ALL.csv", help="merged table")
    parser.add_argument(
        "--roots", nargs="+", metavar="FOLDER", help="root of each table's paths (index.csv: needed to move them)"
    )
    parser.add_argument("--as", nargs="+", dest="names", metavar="NAME", help="data set name for each table")
    parser.set_defaults(run=run_merge)


def run_merge(arguments: Namespace) -> int:
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
    tables = []
    kinds: dict[Any, Any] = {}
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


_SPLIT = """\
Sets the column `split` of a table and prints the content of each split.

Rows that share a source or a person go to the same split. So do rows that are connected through others (a fake connects
its two originals), and rows whose pictures are the same but for encoding, size, blur, brightness, a small shift or
mirroring: everything that check-leaks would find in two splits. Pictures are compared where the crops can be read; a
faces.csv has them beside it.

Each method is spread over the splits as evenly as these groups allow. The same table and seed give the same splits. The
crops are not moved: if the new table is in another folder, their paths are rewritten relative to it.

Exit code: 0 split; 1 could not be written; 2 wrong usage, or a table that cannot be split like this."""

_CHECK_LEAKS = """\
Looks for what is in more than one split: a source, a person, a file with the same bytes, or a picture that is the same
but for encoding, size, blur, brightness, a small shift or mirroring.

Names and digests come from the table. Pictures are compared when the crops can be read; a faces.csv has them beside it.

Exit code: 0 no leak; 1 a leak; 3 no leak found, but some crops could not be read; 2 wrong usage."""

_LEAKS = 1
_MOST_UNREAD = 10  # files that are named on standard error


def add_split_arguments(parser: Parser) -> None:
    from tfdfd.data.splits import BY, PRESETS, SHARES

    parser.description = _SPLIT
    parser.add_argument("table", metavar="CSV", help="faces.csv of 'extract' or its folder, or index.csv of 'index'")
    parser.add_argument(
        "-o", "--output", type=OutputFile, required=True, metavar="OUT.csv", help="the table with its splits"
    )
    for name, share in SHARES.items():
        parser.add_argument(
            f"--{name}",
            type=float,
            metavar="SHARE",
            help=f"share of the rows (default: {share}; 0 if another share is given)",
        )
    about = "; ".join(f"{name}: {preset.about}" for name, preset in PRESETS.items())
    parser.add_argument("--preset", choices=tuple(PRESETS), help=about.replace("%", "%%"))
    parser.add_argument(
        "--by",
        nargs="+",
        choices=BY,
        help="what stays together: videos with their fakes (source), people (identity) (default: both; s2, s4: source)",
    )
    _add_crops(parser)
    add_seed(parser, "the choice")
    parser.add_argument(
        "--balance", action="store_true", help="as many real as fake rows in each split; surplus rows are dropped"
    )
    parser.set_defaults(run=run_split)


def add_check_leaks_arguments(parser: Parser) -> None:
    from tfdfd.data import NEAR

    parser.description = _CHECK_LEAKS
    parser.add_argument("table", metavar="CSV", help="faces.csv with splits or its folder, or index.csv")
    _add_crops(parser)
    parser.add_argument(
        "--near",
        type=int,
        default=NEAR,
        metavar="N",
        help="bits of 64 in which near-duplicates may differ (default: %(default)s; 0 to 15)",
    )
    parser.add_argument("--list", type=int, default=10, metavar="N", help="leaks per kind to print")
    add_json(parser, "all leaks")
    parser.set_defaults(run=run_check_leaks)


def _add_crops(parser: Parser) -> None:
    parser.add_argument(
        "--crops", metavar="FOLDER", help="folder that the table's paths are relative to (default: that of faces.csv)"
    )
    parser.add_argument("--no-crops", action="store_true", help="compare names and digests only; no file is read")


def run_split(arguments: Namespace) -> int:
    from tfdfd.data.crops import table_file
    from tfdfd.data.splits import BY, PRESETS, SHARES, balance_classes, deviations, split, split_as
    from tfdfd.data.tables import FaceRow, read_either, relocate, remember_folders, write_table

    given = {name: share for name in SHARES if (share := getattr(arguments, name)) is not None}
    if given and arguments.preset:
        raise ValueError(f"--preset {arguments.preset} has shares of its own; give it or --train, --val and --test.")
    by = tuple(dict.fromkeys(arguments.by)) if arguments.by else None
    arguments.table = table_file(arguments.table)
    rows, kind = read_either(arguments.table)
    rule = PRESETS[arguments.preset] if arguments.preset else None
    by = by or (rule.by if rule else BY)
    numbers, looks = ([], None) if rule and rule.shares is None else _looks_of(arguments, rows, kind)
    joined = _joined(rows, numbers if looks else range(len(rows)), looks, by)
    if rule:
        rows = split_as(rows, arguments.preset, arguments.seed, by if arguments.by else None, joined)
        shares = None if rule.keeps else rule.shares
    else:
        shares = given or SHARES
        rows = split(rows, shares, arguments.seed, by, joined)
    notes = deviations(rows, shares, by, joined) if shares else []
    leaks = _leaks(rows, numbers, looks)
    dropped: list[Any] = []
    if arguments.balance:
        rows, dropped = balance_classes(rows, arguments.seed)
    for line in split_lines(rows):
        write_line(line)
    if dropped:
        counts = ", ".join(f"{count:,} {name}" for name, count in Counter(row.method for row in dropped).most_common())
        write_line(f"balanced: {len(dropped):,} rows dropped ({counts})")
    absent = sum(getattr(row, "status", "ok") != "ok" for row in rows)
    if absent:
        notes.append(f"{absent:,} of {len(rows):,} rows are of missing or empty files; they count in the shares")
    if leaks:
        kinds = ", ".join(f"{count:,} of kind {kind}" for kind, count in Counter(leak.kind for leak in leaks).items())
        notes.append(f"in several splits, so that check-leaks fails: {kinds}, such as {leaks[0]}")
    for note in notes:
        warn(f"tfdfd split: {note}")
    _print_unread("split", looks)
    if kind is FaceRow:
        folders = [os.path.dirname(os.path.abspath(path)) for path in (arguments.table, arguments.output)]
        rows = relocate(rows, *folders)
    write_table(arguments.output, rows, kind)
    if kind is FaceRow and (unknown := remember_folders(arguments.output, rows, folders)):
        warn(f"tfdfd split: {unknown}")
    return 0


def run_check_leaks(arguments: Namespace) -> int:
    from tfdfd.data.crops import table_file
    from tfdfd.data.tables import read_either

    if not 0 <= arguments.near <= 15 or arguments.list < 0:
        raise ValueError(f"--near is {arguments.near}, --list {arguments.list}; expected 0 to 15, and at least 0.")
    arguments.table = table_file(arguments.table)
    rows, kind = read_either(arguments.table)
    with_split = [row for row in rows if row.split is not None]
    if not with_split:
        raise ValueError(f"no row of {arguments.table} has a split. Set them with 'tfdfd split'.")
    numbers, looks = _looks_of(arguments, with_split, kind)
    leaks = _leaks(with_split, numbers, looks, arguments.near)
    answer = {
        "schema": 1,
        "rows": len(rows),
        "without_split": len(rows) - len(with_split),
        "pictures_compared": len(looks.numbers) if looks else 0,
        "unread": looks.unread if looks else [],
        "totals": dict(Counter(leak.kind for leak in leaks)),
        "leaks": [
            asdict(leak)
            | {"where": [{"split": split, "rows": count, "file": file} for split, count, file in leak.where]}
            for leak in leaks
        ],
    }
    if arguments.json:
        write_json(answer, arguments.json)
    if arguments.json != "-":
        _print_leaks(leaks, answer, arguments.list)
    _print_unread("check-leaks", looks, arguments.list)
    return _LEAKS if leaks else SOME if looks and looks.unread else 0


def _looks_of(arguments: Namespace, rows: Sequence[Any], kind: type) -> tuple[Sequence[int], Fingerprints | None]:
    """The numbers of the rows that are pictures, and their `Fingerprints`; `([], None)` if none are to be read.

    Raises:
        ValueError: the options contradict each other or name no folder, or no picture can be read.
    """
    from tfdfd.data.leaks import fingerprint_files
    from tfdfd.data.tables import FaceRow

    if arguments.crops and arguments.no_crops:
        raise ValueError("--crops and --no-crops exclude each other.")
    if arguments.crops and not os.path.isdir(arguments.crops):
        raise ValueError(f"--crops {arguments.crops} is not a folder.")
    own_folder = os.path.dirname(os.path.abspath(arguments.table)) if kind is FaceRow else None
    folder = None if arguments.no_crops else arguments.crops or own_folder
    if folder is None or not rows:
        return [], None
    numbers = [number for number, row in enumerate(rows) if getattr(row, "kind", "image") == "image"]
    looks = fingerprint_files([rows[number] for number in numbers], folder)
    if len(looks.unread) == len(numbers):
        raise ValueError(
            f"none of the {len(numbers):,} files of {arguments.table} can be read in {folder} "
            f"({'; '.join(looks.unread[:1]) or 'it has no pictures'}). Give their folder with --crops, or compare "
            "names and digests only with --no-crops."
        )
    return numbers, looks


def _leaks(
    rows: Sequence[Any], numbers: Sequence[int], looks: Fingerprints | None, near: int | None = None
) -> list[Leak]:
    """Leaks of all rows by name; by the bytes and pictures of the files where `looks` has them, else by digest."""
    from tfdfd.data.leaks import FILE, NEAR, PICTURE, find_leaks

    found = find_leaks(rows)
    if looks:
        of_files = find_leaks([rows[number] for number in numbers], looks, NEAR if near is None else near)
        found = [leak for leak in found if leak.kind != FILE]
        found += [leak for leak in of_files if leak.kind in (FILE, PICTURE)]
    return found


def _joined(
    rows: Sequence[Any], numbers: Sequence[int], looks: Fingerprints | None, by: tuple[str, ...]
) -> list[tuple[int, int]]:
    """Pairs of rows of different groups whose pictures are the same; `looks` describes the rows `numbers`."""
    from tfdfd.data.leaks import same_pictures
    from tfdfd.data.splits import groups

    names = groups(rows, by)
    pairs = same_pictures([rows[number] for number in numbers], [names[number] for number in numbers], looks)
    return [(numbers[one], numbers[other]) for one, other in pairs]


def _print_unread(verb: str, looks: Fingerprints | None, most: int = _MOST_UNREAD) -> None:
    unread = looks.unread if looks else []
    for line in unread[:most]:
        warn(f"tfdfd {verb}: not compared: {line}")
    if len(unread) > most:
        warn(f"tfdfd {verb}: not compared: {len(unread) - most:,} more")


def _print_leaks(leaks: Sequence[Leak], answer: dict[str, Any], most: int) -> None:
    by_kind = defaultdict(list)
    for leak in leaks:
        by_kind[leak.kind].append(leak)
    for kind, of_kind in by_kind.items():
        for leak in of_kind[:most]:
            write_line(str(leak))
        if len(of_kind) > most:
            write_line(f"… and {len(of_kind) - most:,} more of kind {kind}")
    compared = f"{answer['rows']:,} rows"
    if answer["without_split"]:
        compared += f", {answer['without_split']:,} of them in no split"
    compared += f", {answer['pictures_compared']:,} pictures compared"
    if answer["unread"]:
        compared += f", {len(answer['unread']):,} not readable"
    totals = ", ".join(f"{count:,} of kind {kind}" for kind, count in answer["totals"].items())
    write_line(f"{'LEAKS: ' + totals if leaks else 'no leaks'} ({compared})")


def split_lines(rows: list) -> list[str]:
    """A table of the content of each split, in all and by method."""
    from tfdfd.data.tables import SPLITS, video_of

    parts: dict[tuple[str | None, Any], list]
    sizes: Counter[tuple[str, str]]
    method: Any
    parts, sizes = defaultdict(list), Counter()
    for row in rows:
        method = row.dataset, row.method
        parts[row.split, None].append(row)
        parts[row.split, method].append(row)
        sizes[method] += 1

    def cells(name: str, part: Sequence[Any], total: int, with_majority: bool = False) -> list[str]:
        fake = sum(row.label for row in part)
        counts = (
            len(part),
            len({(row.dataset, video_of(row)) for row in part}),
            len({(row.dataset, source) for row in part for source in row.source_id}),
            len(part) - fake,
            fake,
        )
        majority = f"{max(fake, len(part) - fake) / len(part):.1%}" if with_majority else ""
        return [escape_control_chars(name), *(f"{count:,}" for count in counts), majority, f"{len(part) / total:.1%}"]

    table = [["split", "rows", "videos", "sources", "real", "fake", "majority", "share"]]
    for split in SPLITS:
        if (split, None) in parts:
            table.append(cells(split, parts[split, None], len(rows), with_majority=True))
            for dataset, method in sorted(sizes):
                part = parts.get((split, (dataset, method)), [])
                table.append(cells(f"  {dataset} {method}", part, sizes[dataset, method]))
    return table_lines(table)
