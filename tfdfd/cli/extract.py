"""`tfdfd index` and `extract`: a checked list of a data set's files, and the face crops of its videos and images."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tfdfd.cli import NONE, Parser, exit_code
from tfdfd.cli.options import (
    OutputFile,
    add_detector_files,
    add_engine,
    add_json,
    add_limits,
    add_quiet,
    check_writable,
    detector_options,
    engine_of,
    from_options,
    limits_of,
    values_of,
)
from tfdfd.cli.output import path_text, warn, write_json, write_line
from tfdfd.data.tables import SPLITS
from tfdfd.text import plural, printable_path, table_lines

if TYPE_CHECKING:
    from tfdfd.data import FaceOptions
    from tfdfd.extract.engines import Engine

_INDEX = """\
Writes one row per video or image of a data set: label, method, sources, identities, official split. Prints a checked
summary: counts, missing and empty files, duplicates by content, and the share of the official set. Only names and sizes
are read, and the bytes of files of equal size to find duplicates.

ffpp     FaceForensics++: ROOT has original_sequences/ and manipulated_sequences/; any part of it will do
celebdf  Celeb-DF v2: ROOT has Celeb-real/, YouTube-real/, Celeb-synthesis/, List_of_testing_videos.txt
dfdc     DFDC: folders of ROOT with videos and their metadata.json (training, test) or labels.csv (validation), and the
         preview with its dataset.json
folder   folders of ROOT, at any depth, with one of these words in their names (0_real, training_fake):
           real, reals, original, originals, genuine, pristine,
           fake, fakes, deepfake, deepfakes, manipulated, synthesis;
         --label assigns other names. The frames in one folder belong to one video. A numbered folder below real or
         fake is a video; folders named 0 and 1 alone need --label. Folders named train, val (valid, validation) and
         test are splits. With --all real or --all fake, folders may have any names.

Files whose names are not those of images or videos, and hidden files, are skipped and counted.

Exit code: 0 every file is in the index and has content; 1 nothing to index; 3 some files are missing, empty or had to
be left out; 2 wrong usage."""

_LABELS = {"real": 0, "fake": 1}
_EXAMPLES = 3


def add_index_arguments(parser: Parser) -> None:
    parser.description = _INDEX
    parser.add_argument("dataset", choices=("ffpp", "celebdf", "dfdc", "folder"), help="layout of ROOT")
    parser.add_argument("root", metavar="ROOT", help="folder of the data set")
    parser.add_argument("-o", "--output", type=OutputFile, required=True, metavar="FILE.csv", help="index to write")
    add_json(parser, "the summary")
    parser.add_argument("--no-duplicates", action="store_true", help="do not look for duplicates; no file is read")
    parser.add_argument(
        "--source-pattern",
        metavar="REGEX",
        help="folder: searched in each path; its groups are the sources, which a split keeps together "
        "(default: for images, the name without frame and face number; for videos, the name)",
    )
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="NAME=real|fake",
        dest="labels",
        help="folder: label of the folders named NAME, or with this path from ROOT: --label ai=fake; repeatable",
    )
    parser.add_argument(
        "--all", choices=("real", "fake"), help="folder: label of every file, whatever the folders are named"
    )
    parser.add_argument(
        "--label-files", metavar="DIR", help="also write a file per folder, with lines 'VALUE PATH', 1 = fake"
    )
    parser.add_argument("--real-is-one", action="store_true", help="with --label-files: 1 = real, as in Celeb-DF")
    parser.set_defaults(run=run_index)


def run_index(arguments: Namespace) -> int:
    from tfdfd.data.index import INDEXERS
    from tfdfd.data.index.layout import label_files, summarize, write_label_files
    from tfdfd.data.tables import IndexRow, write_table

    options = _index_options(arguments)
    if folder := arguments.label_files:
        check_writable(os.path.join(folder, "labels.txt") if os.path.exists(folder) else folder)
    found = INDEXERS[arguments.dataset](arguments.root, **options)
    texts = label_files(found.rows, arguments.real_is_one) if arguments.label_files else {}
    summary = summarize(found, arguments.root, hashing=not arguments.no_duplicates)
    if found.rows:
        write_table(arguments.output, found.rows, IndexRow)
        warn(f"index: {os.path.abspath(arguments.output)}")
    else:
        warn(f"tfdfd: nothing to index in {arguments.root}; {arguments.output} is not written")
    if texts:
        files = write_label_files(arguments.label_files, texts)
        warn(f"label files: {len(files)} in {os.path.abspath(arguments.label_files)}")
    if arguments.json:
        write_json({"schema": 1, "dataset": arguments.dataset} | _printable(summary), arguments.json)
    if arguments.json != "-":
        for line in index_lines(summary):
            write_line(line)
    left_out = sum(map(len, summary["left_out"].values()))
    return exit_code(summary["ok"], summary["rows"] + left_out) if summary["rows"] else NONE


def _index_options(arguments: Namespace) -> dict[str, Any]:
    if arguments.real_is_one and not arguments.label_files:
        raise ValueError("--real-is-one is for --label-files: in the index 1 is fake.")
    given = values_of(arguments, "source_pattern")
    if arguments.all:
        given["label"] = _LABELS[arguments.all]
    if arguments.labels:
        given["labels"] = _labels(arguments.labels)
    if given and arguments.dataset != "folder":
        raise ValueError(
            f"--source-pattern, --label and --all are for folder; sources and labels of {arguments.dataset} are known."
        )
    if arguments.all and arguments.labels:
        raise ValueError(f"--all {arguments.all} labels every file; omit --label.")
    return given


def _labels(assignments: Sequence[str]) -> dict[str, int]:
    labels: dict[str, int] = {}
    for text in assignments:
        name, _, word = text.rpartition("=")
        name, value = name.strip("/").lower(), _LABELS.get(word.lower())
        if not name or value is None:
            raise ValueError(f"--label is NAME=real or NAME=fake, such as ai=fake; received {text!r}.")
        if labels.setdefault(name, value) != value:
            raise ValueError(f"--label {text}: the folder {name!r} is called both real and fake; give one of them.")
    return labels


def _printable(value: Any) -> Any:
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return printable_path(value) if isinstance(value, str) else value


def index_lines(summary: dict) -> list[str]:
    """The summary of `tfdfd.data.index.layout.summarize` as text: a table of counts, then a line per finding."""
    size = f"{summary['bytes'] / 1e6:,.1f} MB"
    people = f", named people: {summary['identities']:,}" if summary["identities"] else ""
    lines = [
        *_count_table(summary["counts"]),
        "",
        f"{plural(summary['rows'], 'file')}, {size}, {plural(summary['sources'], 'source')}{people}",
        _with_examples(summary["missing"], "missing"),
        _with_examples(summary["empty"], "empty (0 bytes)"),
        _duplicates(summary),
    ]
    if summary["fakes_without_original"]:
        lines.append(f"{plural(summary['fakes_without_original'], 'fake')} without original")
    lines += [_with_examples(paths, f"left out: {reason}") for reason, paths in summary["left_out"].items()]
    lines += [f"{count:,} skipped: {path_text(reason)}" for reason, count in summary["passed_over"].items()]
    lines += [f"note: {note}" for note in summary["notes"]]
    if summary["official"]:
        lines += ["", "of the official set:"]
        width = max(len(share["what"]) for share in summary["official"])
        lines += [
            f"  {share['what']:{width}}  {share['present']:>7,} of {share['official']:>7,}"
            for share in summary["official"]
        ]
    return lines


def _count_table(counts: Sequence[dict[str, Any]]) -> Any:
    splits = (*SPLITS, "none")
    numbers = [[row[split] for split in splits] + [sum(row[split] for split in splits)] for row in counts]
    labels = [[row["method"], "fake" if row["label"] else "real", row["compression"] or "-"] for row in counts]
    labels.append(["total", "", ""])
    numbers.append([sum(column) for column in zip(*numbers, strict=True)] or [0] * (len(splits) + 1))
    rows = [[*label, *(f"{value:,}" for value in row)] for label, row in zip(labels, numbers, strict=True)]
    return table_lines([["method", "label", "compression", *splits, "total"], *rows], left=3)


def _with_examples(paths: Sequence[str], what: str) -> str:
    examples = ", ".join(map(path_text, paths[:_EXAMPLES])) + (", ..." if len(paths) > _EXAMPLES else "")
    return f"{len(paths):,} {path_text(what)}" + (f": {examples}" if paths else "")


def _duplicates(summary: dict[str, Any]) -> str:
    groups = summary["duplicates"]
    if groups is None:
        return "duplicates: not checked"
    if not groups:
        return "0 duplicates by content"
    line = f"{sum(map(len, groups)):,} duplicates by content in {plural(len(groups), 'group')}"
    across = [
        f"{plural(summary[f'duplicates_across_{what}'], 'group')} across {what}"
        for what in ("labels", "splits")
        if summary[f"duplicates_across_{what}"]
    ]
    details = f" ({', '.join(across)})" if across else ""
    return f"{line}{details}: {' = '.join(map(path_text, groups[0][:_EXAMPLES]))}"


_DESCRIPTION = """\
Cuts the faces out of the videos and images of an index: crops, boxes, faces.csv, status.csv and run.json in FACES.

A run that was stopped in any way resumes with the same command, and ends in the same bytes as one that was not stopped.
Other arguments for the same folder are refused.

Exit code: 0 every video gave crops or was left out by --multiple-faces drop; 1 none did; 3 some did not (see
status.csv); 2 wrong usage."""


def add_arguments(parser: Parser) -> None:
    from tfdfd.data import DROP, FAILED, FORMATS, KEEP, ORIGINAL, OWN, FaceOptions
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
    from tfdfd.cli.output import tracked
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
    from tfdfd.data import FaceOptions

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
