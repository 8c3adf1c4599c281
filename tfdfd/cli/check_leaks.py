"""`tfdfd check-leaks`: fails when something is in several splits, and says what."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict

from tfdfd.cli.crops import add_crops, crossing, looks_of, tell_unread
from tfdfd.cli.outcome import check_writable, write_json
from tfdfd.cli.shown import shown

_DESCRIPTION = """\
Looks for what is in more than one split: a source, a person, a file with the same bytes, and a picture that is the same
but for encoding, size, blur, brightness, a little shift, or mirrored.

Names and digests come from the table. Pictures are compared when the crops can be read: a faces.csv has them beside it.

Exit code: 0 nothing crosses; 1 something does; 3 nothing found, but some crops could not be read; 2 wrong usage."""

_LEAKS, _UNREAD = 1, 3


def add_parser(verbs) -> None:
    from tfdfd.data.options import NEAR

    parser = verbs.add_parser("check-leaks", help="does anything cross splits?", description=_DESCRIPTION)
    parser.add_argument("table", metavar="CSV", help="faces.csv with splits or its folder, or index.csv")
    add_crops(parser)
    parser.add_argument(
        "--near",
        type=int,
        default=NEAR,
        metavar="N",
        help="bits of 64 in which near-duplicates may differ (default: %(default)s; 0 to 15)",
    )
    parser.add_argument("--list", type=int, default=10, metavar="N", help="told of each kind (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE|-", help="write all of them as JSON; - for standard output")
    parser.set_defaults(run=run)


def run(arguments) -> int:
    from tfdfd.data.crops import table_file
    from tfdfd.data.tables import read_either

    if arguments.json not in (None, "-"):
        check_writable(arguments.json)
    if not 0 <= arguments.near <= 15 or arguments.list < 0:
        raise ValueError(f"--near is {arguments.near}, --list {arguments.list}; expected 0 to 15, and at least 0.")
    arguments.table = table_file(arguments.table)
    rows, kind = read_either(arguments.table)
    without = sum(row.split is None for row in rows)
    if without == len(rows):
        raise ValueError(f"no row of {arguments.table} has a split. Set them with 'tfdfd split'.")
    placed = [row for row in rows if row.split is not None]
    numbers, looks = looks_of(arguments, placed, kind)
    found = crossing(placed, numbers, looks, arguments.near)
    answer = _answer(found, rows, without, looks)
    if arguments.json:
        write_json(answer, arguments.json)
    if arguments.json != "-":
        _tell(found, answer, arguments.list)
    tell_unread("check-leaks", looks, arguments.list)
    return _LEAKS if found else _UNREAD if looks and looks.unread else 0


def _answer(found, rows, without, looks):
    return {
        "schema": 1,
        "rows": len(rows),
        "without_split": without,
        "pictures_compared": len(looks.numbers) if looks else 0,
        "unread": looks.unread if looks else [],
        "totals": dict(Counter(leak.kind for leak in found)),
        "leaks": [
            asdict(leak)
            | {"where": [{"split": split, "rows": count, "file": file} for split, count, file in leak.where]}
            for leak in found
        ],
    }


def _tell(found, answer, most):
    by_kind = defaultdict(list)
    for leak in found:
        by_kind[leak.kind].append(leak)
    for kind, some in by_kind.items():
        for leak in some[:most]:
            print(shown(str(leak)))
        if len(some) > most:
            print(f"… and {len(some) - most:,} more of kind {kind}")
    compared = f"{answer['rows']:,} rows"
    if answer["without_split"]:
        compared += f", {answer['without_split']:,} of them in no split"
    compared += f", {answer['pictures_compared']:,} pictures compared"
    if answer["unread"]:
        compared += f", {len(answer['unread']):,} not readable"
    totals = ", ".join(f"{count:,} of kind {kind}" for kind, count in answer["totals"].items())
    print(f"{'LEAKS: ' + totals if found else 'no leaks'} ({compared})")
