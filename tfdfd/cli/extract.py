"""`tfdfd extract`: face crops of the videos and images of an index."""

from __future__ import annotations

import os
from argparse import Namespace
from typing import TYPE_CHECKING

from tfdfd.cli.options import (
    add_detector_files,
    add_engine,
    add_limits,
    add_quiet,
    detector_options,
    engine_of,
    from_options,
    limits_of,
)
from tfdfd.cli.parser import Parser, exit_code
from tfdfd.cli.text import warn, write_line

if TYPE_CHECKING:
    from tfdfd.data.options import FaceOptions
    from tfdfd.extract.engines import Engine

_DESCRIPTION = """\
Cuts the faces out of the videos and images of an index: crops, boxes, faces.csv, status.csv and run.json in FACES.

A run that was stopped in any way resumes with the same command, and ends in the same bytes as one that was not stopped.
Other arguments for the same folder are refused.

Exit code: 0 every video gave crops or was left out by --multiple-faces drop; 1 none did; 3 some did not (see
status.csv); 2 wrong usage."""


def add_arguments(parser: Parser) -> None:
    """Adds the arguments of `tfdfd extract`."""
    from tfdfd.data.options import DROP, FAILED, FORMATS, KEEP, ORIGINAL, OWN, FaceOptions
    from tfdfd.faces import DETECTORS, NO_DETECTOR

    parser.description = _DESCRIPTION
    parser.add_argument("index", metavar="INDEX.csv", help="the videos and images, as 'tfdfd index' writes them")
    parser.add_argument("--root", required=True, metavar="ROOT", help="folder that the paths of the index start from")
    parser.add_argument("-o", "--output", required=True, metavar="FACES", help="a new folder, or one to resume")
    frames = parser.add_argument_group("frames of a video").add_mutually_exclusive_group()
    frames.add_argument(
        "--frames", type=int, metavar="N", help=f"N equally spaced ones (default: {FaceOptions.frames})"
    )
    frames.add_argument("--every", type=float, dest="every_s", metavar="S", help="the first one of every S seconds")
    frames.add_argument("--first", action="store_true", help="the first one")
    frames.add_argument("--all", action="store_true", help="all")
    faces = parser.add_argument_group("faces")
    faces.add_argument(
        "--detector",
        choices=(*DETECTORS, NO_DETECTOR),
        help=f"default: {FaceOptions.detector}; {NO_DETECTOR}: whole frames",
    )
    add_detector_files(faces)
    faces.add_argument(
        "--min-score",
        type=float,
        default=FaceOptions.min_score,
        metavar="P",
        help="lowest score of a face; the best face of a frame is always kept",
    )
    faces.add_argument("--max-faces", type=int, metavar="N", help="most faces of a frame (default: all)")
    faces.add_argument("--drop-frames-above", type=int, metavar="N", help="leave out frames with more than N faces")
    faces.add_argument(
        "--multiple-faces",
        default=KEEP,
        choices=(KEEP, DROP),
        help="videos with a second face in more than 10 %% of the frames",
    )
    faces.add_argument(
        "--boxes-from",
        choices=(OWN, ORIGINAL),
        help=f"{ORIGINAL}: cut a fake by the boxes of its original if the index has it (default: {OWN})",
    )
    faces.add_argument(
        "--boxes", metavar="FACES", help="cut by the boxes of this face set of the same index; nothing is detected"
    )
    crops = parser.add_argument_group("crops")
    crops.add_argument("--size", type=int, default=FaceOptions.size, metavar="PX", help="side")
    crops.add_argument("--margin", type=float, default=FaceOptions.margin, metavar="F", help="times the box")
    crops.add_argument("--format", default=FORMATS[0], choices=FORMATS, help="default: %(default)s")
    crops.add_argument("--quality", type=int, metavar="Q", help=f"of jpg (default: {FaceOptions.quality})")
    crops.add_argument(
        "--mirror", action="store_true", help="one crop per video, with its name; needs --first --max-faces 1"
    )
    work = parser.add_argument_group("execution (the bytes are the same)")
    work.add_argument("--workers", type=int, metavar="N", help="decoding processes (default: one per core)")
    add_engine(work, "ROOT and FACES")
    parser.add_argument(
        "--retry",
        nargs="+",
        default=(),
        choices=FAILED,
        metavar="STATUS",
        help=f"process videos that ended in this status again: {', '.join(FAILED)}",
    )
    add_quiet(parser)
    add_limits(parser)
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    from tfdfd.cli.progress import tracked
    from tfdfd.data.face_set import MULTIPLE, FaceSet

    label = lambda record: f"{record.video}: {record.status}, crops: {len(record.crops)}"  # noqa: E731
    source = arguments.index, arguments.root, arguments.output, _options(arguments), arguments.boxes
    with FaceSet(*source, _engine(arguments), arguments.retry) as faces:
        done_before = len(faces.rows) - len(faces.pending)
        if done_before and not arguments.quiet:
            warn(f"{done_before} of {len(faces.rows)} were done before")
        try:
            for _ in tracked(faces.extract(), len(faces.pending), label, arguments.quiet):
                pass
            counts = faces.finish()
        except OSError as error:
            raise OSError(
                f"{arguments.output}: {error}. Finished work is kept; the same command resumes it."
            ) from error
    if faces.sandbox_note:
        warn(faces.sandbox_note)
    statuses = ", ".join(f"{count} {status}" for status, count in counts["statuses"].items())
    write_line(f"{counts['videos']} videos and images: {statuses or 'none'}")
    write_line(f"{counts[MULTIPLE]} with a second face in more than 10 % of the frames")
    write_line(f"{counts['crops']} crops: {os.path.join(arguments.output, 'faces.csv')}")
    good = counts["statuses"].get("ok", 0) + counts["statuses"].get(MULTIPLE, 0)
    return exit_code(good, counts["videos"])


def _engine(arguments: Namespace) -> Engine:
    from tfdfd.extract.engines import LocalEngine

    return engine_of(arguments) or LocalEngine(arguments.workers)


def _options(arguments: Namespace) -> FaceOptions:
    from tfdfd.data.options import FaceOptions

    of_boxes = {"frames", "every_s", "first", "all", "detector", "boxes_from"}
    given = {name for name in of_boxes if getattr(arguments, name) not in (None, False)}
    options = detector_options(arguments)
    if arguments.boxes and options:
        raise ValueError("--boxes determines the faces; omit --min-face and --ssd.")
    # A mirrored tree needs --first even though the boxes imply it.
    if arguments.boxes and given - ({"first"} if arguments.mirror else set()):
        raise ValueError(
            "--boxes determines frames and faces; omit --frames, --every, --first, --all, --detector and --boxes-from."
        )
    if arguments.quality is not None and arguments.format != "jpg":
        raise ValueError("--quality is for --format jpg; png is lossless.")
    return from_options(FaceOptions, arguments, detector_options=options, limits=limits_of(arguments))
