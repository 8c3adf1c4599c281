"""Pictures that the rows of a table are of, for verbs that compare them: where they are, and what they look like."""

from __future__ import annotations

import os
import sys

from tfdfd.cli.shown import shown

UNREAD_TOLD = 10


def add_crops(parser) -> None:
    """Adds the options to a verb's parser."""
    parser.add_argument(
        "--crops", metavar="FOLDER", help="where the files of the table are (default: faces.csv: its own folder)"
    )
    parser.add_argument("--no-crops", action="store_true", help="names and digests only, no file is read")


def looks_of(arguments, rows, kind):
    """The numbers of the rows that are of pictures, and their `Fingerprints`; `([], None)` where none are to be read.

    Raises:
        ValueError: the options contradict each other or name no folder, or not one picture can be read.
    """
    from tfdfd.data.leaks import fingerprint_files
    from tfdfd.data.tables import FaceRow

    if arguments.crops and arguments.no_crops:
        raise ValueError("--crops and --no-crops exclude each other.")
    if arguments.crops and not os.path.isdir(arguments.crops):
        raise ValueError(f"--crops {arguments.crops} is no folder.")
    beside = os.path.dirname(os.path.abspath(arguments.table)) if kind is FaceRow else None
    folder = None if arguments.no_crops else arguments.crops or beside
    if folder is None or not rows:
        return [], None
    numbers = [number for number, row in enumerate(rows) if getattr(row, "kind", "image") == "image"]
    looks = fingerprint_files([rows[number] for number in numbers], folder)
    if len(looks.unread) == len(numbers):
        raise ValueError(
            f"none of the {len(numbers):,} files of {arguments.table} can be read in {folder} "
            f"({'; '.join(looks.unread[:1]) or 'it has no pictures'}). Say where they are with --crops, or compare "
            "names and digests only with --no-crops."
        )
    return numbers, looks


def crossing(rows, numbers, looks, near=None):
    """`find_leaks` of all rows by name, and by the files as they are now where there are `looks` of some of them."""
    from tfdfd.data.leaks import FILE, NEAR, PICTURE, find_leaks

    found = find_leaks(rows)
    if looks:
        of_files = find_leaks([rows[number] for number in numbers], looks, NEAR if near is None else near)
        found = [leak for leak in found if leak.kind != FILE]
        found += [leak for leak in of_files if leak.kind in (FILE, PICTURE)]
    return found


def tell_unread(verb: str, looks, most: int = UNREAD_TOLD) -> None:
    """Names pictures that could not be read, on standard error."""
    for line in looks.unread[:most] if looks else ():
        sys.stderr.write(f"tfdfd {verb}: not compared: {shown(line)}\n")
    if looks and len(looks.unread) > most:
        sys.stderr.write(f"tfdfd {verb}: not compared: {len(looks.unread) - most:,} more\n")
