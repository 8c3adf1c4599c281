"""`tfdfd split`: training, validation and test sets in which no video and no person meets again."""

from __future__ import annotations

import os
import sys
from collections import Counter, defaultdict

from tfdfd.cli.crops import add_crops, crossing, looks_of, tell_unread
from tfdfd.cli.outcome import check_writable
from tfdfd.cli.shown import shown

_DESCRIPTION = """\
Sets the column `split` of a table and tells what is in each split.

Rows that share a source or a person go to one split together, and so do rows connected over others (a fake joins its
two originals), or by pictures that are the same but for encoding, size, blur, brightness, a little shift, or mirrored:
what check-leaks would find in two splits. Pictures are compared where the crops can be read: a faces.csv has them
beside it.

Each method is spread over the splits as evenly as that allows. The same table and seed give the same splits. Crops stay
where they are: if the new table lies elsewhere, their paths are written as seen from there.

Exit code: 0 split; 1 could not be written; 2 wrong usage, or a table that cannot be split so."""


def add_parser(verbs) -> None:
    from tfdfd.data.splits import BY, PRESETS, SHARES

    parser = verbs.add_parser("split", help="train, val and test without leaks", description=_DESCRIPTION)
    parser.add_argument("table", metavar="CSV", help="faces.csv of 'extract' or its folder, or index.csv of 'index'")
    parser.add_argument("-o", "--output", required=True, metavar="OUT.csv", help="the table with its splits")
    for name, share in SHARES.items():
        parser.add_argument(
            f"--{name}",
            type=float,
            metavar="SHARE",
            help=f"share of the rows (default: {share}; 0 if another is given)",
        )
    about = "; ".join(f"{name}: {preset.about}" for name, preset in PRESETS.items())
    parser.add_argument("--preset", choices=tuple(PRESETS), help=about.replace("%", "%%"))
    parser.add_argument(
        "--by",
        nargs="+",
        choices=BY,
        help="what stays together: videos with their fakes (source), people (identity) (default: both; s2, s4: source)",
    )
    add_crops(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another one, other splits (default: 0)")
    parser.add_argument(
        "--balance", action="store_true", help="as many real as fake rows in each split; what is too many is left out"
    )
    parser.set_defaults(run=run)


def run(arguments) -> int:
    from tfdfd.data.crops import table_file
    from tfdfd.data.splits import BY, PRESETS, SHARES, balance_classes, deviations, split, split_as
    from tfdfd.data.tables import FaceRow, read_either, relocate, write_table

    check_writable(arguments.output)
    given = {name: share for name in SHARES if (share := getattr(arguments, name)) is not None}
    if given and arguments.preset:
        raise ValueError(f"--preset {arguments.preset} has shares of its own; give it or --train, --val and --test.")
    by = tuple(dict.fromkeys(arguments.by)) if arguments.by else None
    arguments.table = table_file(arguments.table)
    rows, kind = read_either(arguments.table)
    rule = PRESETS[arguments.preset] if arguments.preset else None
    by = by or (rule.by if rule else BY)
    numbers, looks = ([], None) if rule and rule.shares is None else looks_of(arguments, rows, kind)
    joined = _joined(rows, numbers if looks else range(len(rows)), looks, by)
    if rule:
        rows = split_as(rows, arguments.preset, arguments.seed, by if arguments.by else None, joined)
        shares = None if rule.keeps else rule.shares
    else:
        shares = given or SHARES
        rows = split(rows, shares, arguments.seed, by, joined)
    notes = deviations(rows, shares, by, joined) if shares else []
    leaks = crossing(rows, numbers, looks)
    dropped = []
    if arguments.balance:
        rows, dropped = balance_classes(rows, arguments.seed)
    for line in table_of(rows):
        print(line)
    if dropped:
        told = ", ".join(f"{count:,} {name}" for name, count in Counter(row.method for row in dropped).most_common())
        print(f"balanced: {len(dropped):,} rows left out ({told})")
    gone = sum(getattr(row, "status", "ok") != "ok" for row in rows)
    if gone:
        notes.append(f"{gone:,} of {len(rows):,} rows are of missing or empty files; they count in the shares")
    if leaks:
        kinds = ", ".join(f"{count:,} of kind {kind}" for kind, count in Counter(leak.kind for leak in leaks).items())
        notes.append(f"in several splits, so that check-leaks fails: {kinds}, such as {leaks[0]}")
    for note in notes:
        sys.stderr.write(f"tfdfd split: {shown(note)}\n")
    tell_unread("split", looks)
    if kind is FaceRow:
        folders = (os.path.dirname(os.path.abspath(path)) for path in (arguments.table, arguments.output))
        rows = relocate(rows, *folders)
    write_table(arguments.output, rows, kind)
    return 0


def _joined(rows, numbers, looks, by):
    """Pairs of rows of different groups whose pictures are the same; `looks` are of the rows `numbers`."""
    from tfdfd.data.leaks import same_pictures
    from tfdfd.data.splits import groups

    names = groups(rows, by)
    pairs = same_pictures([rows[number] for number in numbers], [names[number] for number in numbers], looks)
    return [(numbers[one], numbers[other]) for one, other in pairs]


def table_of(rows) -> list[str]:
    """The lines that tell what each split holds, in all and by method."""
    from tfdfd.data.tables import SPLITS

    parts, sizes = defaultdict(list), Counter()
    for row in rows:
        method = row.dataset, row.method
        parts[row.split, None].append(row)
        parts[row.split, method].append(row)
        sizes[method] += 1
    width = max([18, *(len(shown(f"  {dataset} {method}")) for dataset, method in sizes)])
    lines = [f"{'split':{width}}{'rows':>10}{'videos':>9}{'sources':>9}{'real':>10}{'fake':>10}  majority    share"]
    for name in SPLITS:
        if (name, None) in parts:
            here = parts[name, None]
            lines.append(f"{name:{width}}{_cells(here)}{_majority(here)}{len(here) / len(rows):9.1%}")
            for dataset, method in sorted(sizes):
                some = parts.get((name, (dataset, method)), [])
                label = shown(f"  {dataset} {method}")
                share = len(some) / sizes[dataset, method]
                lines.append(f"{label:{width}}{_cells(some)}{'':10}{share:9.1%}")
    return lines


def _cells(rows):
    from tfdfd.data.tables import video_of

    videos = {(row.dataset, video_of(row)) for row in rows}
    sources = {(row.dataset, source) for row in rows for source in row.source_id}
    fake = sum(row.label for row in rows)
    return f"{len(rows):10,}{len(videos):9,}{len(sources):9,}{len(rows) - fake:10,}{fake:10,}"


def _majority(rows):
    fake = sum(row.label for row in rows)
    return f"{max(fake, len(rows) - fake) / len(rows):10.1%}"
