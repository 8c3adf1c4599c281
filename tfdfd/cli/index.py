"""`tfdfd index`: one row for each video or image of a data set, checked."""

from __future__ import annotations

import os
import sys

from tfdfd.cli.outcome import NONE, check_writable, exit_code, write_json

_DESCRIPTION = """\
One row for each video or image of a data set: label, method, sources, identities, official split; and a checked
summary: counts, files missing or empty, duplicates by content, share of the official set. Only names and sizes are
looked at, and the bytes of files of equal size for duplicates.

ffpp     FaceForensics++: ROOT has original_sequences/ and manipulated_sequences/; any part of it will do
celebdf  Celeb-DF v2: ROOT has Celeb-real/, YouTube-real/, Celeb-synthesis/, List_of_testing_videos.txt
dfdc     DFDC: folders of ROOT with videos and their metadata.json (training, test) or labels.csv (validation), and the
         preview with its dataset.json
folder   folders of ROOT, at any depth, with one of these words in their names (0_real, training_fake):
           real, reals, original, originals, genuine, pristine,
           fake, fakes, deepfake, deepfakes, manipulated, synthesis;
         --label says it of other names. Frames in one folder are of one video; a number below real or fake is one,
         and 0 and 1 alone need --label. Folders called train, val (valid, validation) and test are splits; with --all
         real or --all fake, any names

Files that are no images or videos by name, and hidden ones, are passed over and counted.

Exit code: 0 every file is in the index and has content; 1 nothing to index; 3 some files are missing, empty or had to
be left out; 2 wrong usage."""

_LABELS = {"real": 0, "fake": 1}


def add_parser(verbs) -> None:
    parser = verbs.add_parser("index", help="list and check a data set's files", description=_DESCRIPTION)
    parser.add_argument("dataset", choices=("ffpp", "celebdf", "dfdc", "folder"), help="how ROOT is laid out")
    parser.add_argument("root", metavar="ROOT", help="the data set's folder")
    parser.add_argument("-o", "--output", required=True, metavar="FILE.csv", help="write the index")
    parser.add_argument("--json", metavar="FILE|-", help="write the summary as JSON; - for standard output")
    parser.add_argument("--no-duplicates", action="store_true", help="do not look for duplicates: reads no file")
    parser.add_argument(
        "--source-pattern",
        metavar="REGEX",
        help="folder: searched in each path; its groups are the sources, which a split keeps together "
        "(default: images: the name without frame and face number; videos: the name)",
    )
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="NAME=real|fake",
        dest="labels",
        help="folder: a folder called NAME, or with that path from ROOT, is that: --label ai=fake; repeat it",
    )
    parser.add_argument(
        "--all", choices=("real", "fake"), help="folder: every file is that, whatever the folders are called"
    )
    parser.add_argument(
        "--label-files", metavar="DIR", help="also write a file for each folder, with lines 'VALUE PATH', 1 = fake"
    )
    parser.add_argument("--real-is-one", action="store_true", help="with --label-files: 1 = real, as Celeb-DF has it")
    parser.set_defaults(run=run)


def run(arguments) -> int:
    from tfdfd.cli.index_lines import index_lines
    from tfdfd.data.index import INDEXERS
    from tfdfd.data.index.summary import label_files, summarize, write_label_files
    from tfdfd.data.tables import IndexRow, write_table

    options = _options(arguments)
    check_writable(arguments.output)
    if arguments.json not in (None, "-"):
        check_writable(arguments.json)
    if folder := arguments.label_files:
        check_writable(os.path.join(folder, "labels.txt") if os.path.exists(folder) else folder)
    found = INDEXERS[arguments.dataset](arguments.root, **options)
    texts = label_files(found.rows, arguments.real_is_one) if arguments.label_files else {}
    checked = summarize(found, arguments.root, hashing=not arguments.no_duplicates)
    if found.rows:
        write_table(arguments.output, found.rows, IndexRow)
        sys.stderr.write(f"index: {os.path.abspath(arguments.output)}\n")
    else:
        sys.stderr.write(f"tfdfd: nothing to index in {arguments.root}; {arguments.output} is not written\n")
    if texts:
        files = write_label_files(arguments.label_files, texts)
        sys.stderr.write(f"label files: {len(files)} in {os.path.abspath(arguments.label_files)}\n")
    if arguments.json:
        write_json({"schema": 1, "dataset": arguments.dataset} | _printable(checked), arguments.json)
    if arguments.json != "-":
        sys.stdout.write("".join(f"{line}\n" for line in index_lines(checked)))
    left_out = sum(map(len, checked["left_out"].values()))
    return exit_code(checked["ok"], checked["rows"] + left_out) if checked["rows"] else NONE


def _options(arguments):
    if arguments.real_is_one and not arguments.label_files:
        raise ValueError("--real-is-one is for --label-files: in the index 1 is fake.")
    given = {"source_pattern": arguments.source_pattern, "label": _LABELS.get(arguments.all)}
    given["labels"] = _labels(arguments.labels) or None
    given = {name: value for name, value in given.items() if value is not None}
    if given and arguments.dataset != "folder":
        raise ValueError(
            f"--source-pattern, --label and --all are for folder; sources and labels of {arguments.dataset} are known."
        )
    if arguments.all and arguments.labels:
        raise ValueError(f"--all {arguments.all} says what every file is; leave --label out.")
    return given


def _labels(assignments):
    labels = {}
    for text in assignments:
        name, _, word = text.rpartition("=")
        name, value = name.strip("/").lower(), _LABELS.get(word.lower())
        if not name or value is None:
            raise ValueError(f"--label is NAME=real or NAME=fake, such as ai=fake; received {text!r}.")
        if labels.setdefault(name, value) != value:
            raise ValueError(f"--label {text}: the folder {name!r} is called both real and fake; give one of them.")
    return labels


def _printable(value):
    from tfdfd.detect.results import printable_path

    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return printable_path(value) if isinstance(value, str) else value
