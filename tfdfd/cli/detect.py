"""`tfdfd detect` and `verify`: verdicts for images, videos and folders, and the repetition of a recorded detection."""

from __future__ import annotations

import functools
import os
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tfdfd.cli import ALL, NONE, SOME, Parser, exit_code
from tfdfd.cli.options import (
    OutputFile,
    add_detection,
    add_engine,
    add_json,
    add_quiet,
    engine_of,
    open_detector,
    output_or_stdout,
    values_of,
)
from tfdfd.cli.output import (
    detection_text,
    path_text,
    tracked,
    tracked_detections,
    warn,
    write_json,
    write_line,
    write_text,
)
from tfdfd.text import plural

if TYPE_CHECKING:
    from tfdfd.detect.detector import Detector
    from tfdfd.detect.results import Detection
    from tfdfd.extract.engines import Engine
    from tfdfd.media.inputs import Inputs
    from tfdfd.remote import Server
    from tfdfd.report.pictures import Gallery

_DESCRIPTION = """\
Prints P(fake) and a verdict for each image, video and folder (walked in sorted order).

With -o DIR, each result is written to DIR/results.jsonl as soon as it is done: one JSON object per line, in the order
of the inputs. A run that was stopped in any way resumes with the same command, and ends in the same bytes as one that
was not stopped. Other inputs or settings for the same folder are refused. At the end, DIR/report.html is the report
page and DIR/record.json the record for 'tfdfd verify'. --report PAGE.html writes PAGE.record.json, too.

Exit code: 0 every input scored; 1 none could be; 3 some could not; 2 wrong usage."""


def add_arguments(parser: Parser) -> None:
    parser.description = _DESCRIPTION
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="local image, video or folder")
    add_detection(parser, "equally spaced frames of a video")
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="T",
        help="P(fake) from which a face is fake (default: the model's, corrected for several faces)",
    )
    add_json(parser, "the results")
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="write results as they are done; a new folder, or one to resume"
    )
    add_engine(parser.add_argument_group("execution with -o (the results are the same)"), "the inputs")
    parser.add_argument(
        "--csv",
        type=output_or_stdout,
        metavar="FILE|-",
        help="write a table for spreadsheets, one row per input; - for standard output",
    )
    parser.add_argument(
        "--report",
        type=OutputFile,
        metavar="FILE.html",
        help="write one self-contained page, and beside it the record that 'tfdfd verify' repeats, FILE.record.json",
    )
    parser.add_argument(
        "--annotate",
        type=OutputFile,
        metavar="FILE.mp4",
        help="write the first 1,500 frames of the one video that is given, with boxes and scores drawn into them",
    )
    parser.add_argument(
        "--explain", metavar="METHOD", help="add heat maps of faces to the report, by a method of 'tfdfd explain'"
    )
    remote = parser.add_argument_group(
        "scoring by a model server (TensorFlow Serving or 'tfdfd serve'; faces are still found on this machine)"
    )
    remote.add_argument(
        "--server",
        metavar="HOST:PORT",
        help="its gRPC interface; --model is then NAME, HANDLE, either with /VERSION, or the model_card.json "
        "published beside the model",
    )
    remote.add_argument(
        "--server-timeout",
        dest="timeout_s",
        type=float,
        metavar="S",
        help="time for a request, retries included (default: 30)",
    )
    remote.add_argument("--server-ca", dest="ca", metavar="PEM", help="use TLS; authority of the server's certificate")
    remote.add_argument(
        "--server-cert", dest="cert", metavar="PEM", help="certificate of this client, if the server asks for one"
    )
    remote.add_argument("--server-key", dest="key", metavar="PEM", help="its private key")
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    from tfdfd.media.inputs import list_inputs

    if arguments.report == "-":
        raise ValueError("--report writes a page, not text for standard output; give the name of a file.")
    if arguments.json == arguments.csv == "-":
        raise ValueError("--json and --csv cannot both go to standard output; give the name of a file.")
    if arguments.report and os.path.splitext(arguments.report)[0] + ".record.json" in (arguments.json, arguments.csv):
        raise ValueError("--report writes its record to a file of that name; give another one to --json or --csv.")
    engine = engine_of(arguments)
    if arguments.output is not None:
        return _run_to_folder(arguments, engine)
    if engine:
        raise ValueError(f"--engine {arguments.engine} writes into a folder that can be resumed: give -o DIR, too.")
    explain = _explain(arguments)
    inputs = list_inputs(arguments.inputs)
    if arguments.annotate and len(inputs.items) != 1:
        raise ValueError(f"--annotate is for one video; received {len(inputs.items):,} inputs.")
    gallery = _gallery(len(inputs.items)) if arguments.report else None
    with _open(arguments, gallery) as detector:
        detections: list[Detection] = []
        for detection in tracked_detections(detector, inputs, arguments.quiet):
            if gallery:
                if explain and gallery.sizes.explained:
                    explain(detection)
                gallery.add(len(detections), detection)
            detection.drop_crops()
            detections.append(detection)
        _print_notes(detector, inputs, arguments.quiet)
        _write(arguments, detector, inputs, detections, gallery)
    scored = sum(detection.status == "ok" for detection in detections)
    return exit_code(scored, len(detections))


def _run_to_folder(arguments: Namespace, engine: Engine | None) -> int:
    for option in ("json", "explain", "annotate"):
        if getattr(arguments, option) is not None:
            raise ValueError(
                f"--{option} cannot be combined with -o; results.jsonl has all results, and report.html is the page."
            )
    if engine and arguments.server:
        raise ValueError("--server has one detector ask a model server; omit it, or --engine.")
    from tfdfd.detect.result_folder import PICTURES, RECORD, REPORT, ResultFolder, results_csv
    from tfdfd.detect.results import VERDICTS
    from tfdfd.media.inputs import list_inputs
    from tfdfd.report.page import record_path
    from tfdfd.report.pictures import encode

    inputs = list_inputs(arguments.inputs)
    with (
        _open(arguments, _gallery(len(inputs.items))) as detector,
        ResultFolder(arguments.output, detector, inputs) as folder,
    ):
        gallery = _gallery(folder.total, folder.path / PICTURES)
        places = [(folder.path / REPORT, folder.path / RECORD)]
        if arguments.report:
            places.append((Path(arguments.report), record_path(arguments.report)))
        if folder.done and not arguments.quiet:
            warn(f"{folder.done} of {folder.total} were done before")
        try:
            outcomes = folder.detect(gallery.add, engine, functools.partial(encode, sizes=gallery.sizes))
            for _ in tracked(outcomes, folder.total, detection_text, arguments.quiet, folder.done):
                pass
            _print_notes(detector, inputs, arguments.quiet)
            results = folder.results()
            for report, record_file in places:
                _write_page(
                    report, record_file, detector, folder.detections(), results, folder.date, gallery, arguments.server
                )
        except OSError as error:
            raise OSError(
                f"{arguments.output}: {error}. Finished results are kept; the same command resumes."
            ) from error
    if arguments.csv:
        write_text(results_csv(results), arguments.csv)
    counts = Counter(result["verdict"] or result["status"] for result in results)
    scored = sum(counts[verdict] for verdict in VERDICTS)
    if arguments.csv != "-":
        listed = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(counts.items()))
        write_line(f"{plural(folder.total, 'input')}: {listed}: {folder.file}")
    return exit_code(scored, folder.total)


def _print_notes(detector: Detector, inputs: Inputs, quiet: bool) -> None:
    for note in filter(None, (detector.runtime_note, detector.sandbox_note)):
        warn(note)
    if inputs.skipped and not quiet:
        warn(f"{inputs.skipped} files in folders are not media and were skipped")


def _server(arguments: Namespace) -> Server | None:
    given = values_of(arguments, "timeout_s", "ca", "cert", "key")
    if arguments.server is None:
        if given:
            raise ValueError(
                f"--server-{next(iter(given)).removesuffix('_s')} is for --server HOST:PORT, which is missing."
            )
        return None
    from tfdfd.remote import Server

    return Server(arguments.server, **given)


def _explain(arguments: Namespace) -> Callable[[Detection], None] | None:
    """A function that adds heat maps to the faces of a detection, or None."""
    if arguments.explain is None:
        return None
    if not arguments.report:
        raise ValueError("--explain adds heat maps to the report: give --report FILE.html, too.")
    if arguments.server:
        raise ValueError("--explain needs the weights on this machine; omit --server or --explain.")
    from tfdfd.explain import OF_CROPS, Explainer, check_methods

    methods = check_methods(arguments.explain, OF_CROPS)
    if len(methods) > 1:
        raise ValueError(f"--explain takes one method; received {arguments.explain!r}.")
    explainer = Explainer(arguments.model, methods, runtime=arguments.runtime)
    from tfdfd.explain.page import explain_tracks

    def explain(detection: Detection) -> None:
        for message in explain_tracks(detection, explainer, *methods):
            warn(f"{path_text(detection.path)}: not explained: {message}")

    return explain


def _open(arguments: Namespace, gallery: Gallery | None) -> Detector:
    views = {}
    if gallery or arguments.annotate:
        from tfdfd.report.pictures import VIEWS

        views = {"views": VIEWS, "view_side": gallery.sizes.frame_side} if gallery else {"views": 1}
    return open_detector(arguments, threshold=arguments.threshold, server=_server(arguments), **views)


def _gallery(inputs: int, folder: Path | None = None) -> Gallery:
    from tfdfd.report.pictures import Gallery

    return Gallery(inputs, folder)


def _write(
    arguments: Namespace,
    detector: Detector,
    inputs: Inputs,
    detections: Sequence[Detection],
    gallery: Gallery | None,
) -> None:
    if arguments.report or arguments.csv:
        from tfdfd.detect.result_folder import fingerprint, now, results_csv

        pairs = zip(inputs.items, detections, strict=True)
        results = [detection.to_dict() | fingerprint(item, detection) for item, detection in pairs]
    if arguments.report:
        from tfdfd.report.page import record_path

        places = arguments.report, record_path(arguments.report)
        _write_page(*places, detector, detections, results, now(), gallery, arguments.server)
        warn(f"report: {os.path.abspath(arguments.report)}")
    if arguments.json:
        write_json(detector.to_json(detections), arguments.json)
    if arguments.csv:
        write_text(results_csv(results), arguments.csv)
    if arguments.annotate:
        from tfdfd.report.annotate import write_annotated

        frames = write_annotated(arguments.annotate, inputs.items[0], detections[0], detector)
        warn(f"annotated: {os.path.abspath(arguments.annotate)}: {plural(frames, 'frame')}")
    if "-" not in (arguments.json, arguments.csv):
        for line in summary(detections):
            write_line(line)


def _write_page(
    report: str | os.PathLike,
    record_file: Path,
    detector: Detector,
    detections: Sequence[Detection],
    results: Sequence[dict],
    date: str,
    gallery: Gallery | None,
    server: str | None,
) -> None:
    """Writes a record, then the report page that names it."""
    from tfdfd.detect.record import write_record
    from tfdfd.report.page import write_report

    record = write_record(record_file, detector, results, date)
    settings = {"scored by": server} if server else None
    options = {"settings": settings, "record": record, "gallery": gallery, "name": record_file.stem}
    write_report(report, detections, detector.report_info(), **options)


def summary(detections: Iterable[Detection]) -> list[str]:
    """One line per input: verdict or status, P(fake), name, and the evidence or the reason why there is none."""
    names = [path_text(detection.path) for detection in detections]
    width = min(max(map(len, names), default=0), 60)
    lines = []
    for detection, name in zip(detections, names, strict=True):
        if detection.status == "ok":
            faces = plural(len(detection.faces), "face")
            if detection.faces_judged not in (None, len(detection.faces)):
                faces = f"{detection.faces_judged} of {faces}"
            basis = f"{faces}, {detection.frames_scored} of {detection.frames_requested} frames"
            basis += f"; {detection.message}" if detection.message else ""
            score = f"{detection.fake_probability:.3f}"
        else:
            basis, score = detection.message, "-"  # type: ignore[assignment]
        lines.append(f"{detection.verdict or detection.status:12}  {score:>5}  {name:{width}}  {basis}")
    return lines


_ALTERED = 4
_VERIFY = """\
Repeats the detection that a record describes, with the same model (by digest) and settings, and compares the outcomes.

Records are written by 'tfdfd detect --report PAGE.html' (PAGE.record.json) and 'tfdfd detect -o DIR' (record.json).
Outcomes agree if status, verdict, frames and faces are the same, and P(fake) differs by at most 0.005 (for single
frames: 0.02). The digest in a record shows that it was changed, but it is not a signature.

Exit code: 0 every input agrees; 1 one differs; 2 wrong usage; 3 an input is not in the record, or the detection
cannot be repeated here; 4 the record was changed."""


def add_verify_arguments(parser: Parser) -> None:
    parser.description = _VERIFY
    parser.add_argument("record", metavar="RECORD.json", help="record of a detection")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="local image, video or folder")
    parser.add_argument("--model", metavar="HANDLE|FILE", help="the recorded weights (default: the recorded handle)")
    parser.add_argument("--ssd", metavar="GRAPH", help="network of a recorded --detector ssd")
    parser.add_argument("--ssd-config", metavar="FILE", help="its .pbtxt or .prototxt")
    parser.add_argument(
        "--trust-limits", action="store_true", help="accept limits in the record that are above the default ones"
    )
    add_json(parser, "the comparison")
    add_quiet(parser)
    parser.set_defaults(run=run_verify)


def run_verify(arguments: Namespace) -> int:
    from tfdfd.detect.record import AGREES, DIFFERS, AlteredRecord, NotRepeatable, read_record, recorded_options, verify
    from tfdfd.media.inputs import list_inputs

    try:
        record = read_record(arguments.record)
        files = {"graph": arguments.ssd, "config": arguments.ssd_config}
        options, notes = recorded_options(record, arguments.model, files, arguments.trust_limits)
    except AlteredRecord as error:
        warn(f"tfdfd verify: {path_text(str(error))}")
        return _ALTERED
    except NotRepeatable as error:
        warn(f"tfdfd verify: {path_text(str(error))}")
        return SOME
    from tfdfd.detect.detector import Detector

    inputs = list_inputs(arguments.inputs)
    with Detector(**options) as detector:
        comparisons = list(
            tracked(
                verify(record, detector, inputs),
                len(inputs.items),
                lambda one: f"{path_text(one.path)}: {one.outcome}",
                arguments.quiet,
            )
        )
        notes += filter(None, (detector.runtime_note, detector.sandbox_note))
    for note in notes:
        warn(path_text(note))
    counts = Counter(comparison.outcome for comparison in comparisons)
    if arguments.json:
        answer = {"schema": 1, "date": record["date"], "notes": notes}
        write_json(answer | {"results": [comparison.to_dict() for comparison in comparisons]}, arguments.json)
    if arguments.json != "-":
        for comparison in comparisons:
            scores = ""
            if comparison.largest is not None:
                scores = (
                    f"{comparison.recorded:.3f} and {comparison.repeated:.3f}, at most {comparison.largest:.2g} apart"
                )
            details = "; ".join(filter(None, [scores, *comparison.differences[:3]]))
            more = len(comparison.differences) - 3
            details += f"; {plural(more, 'more difference')}" if more > 0 else ""
            write_line(f"{comparison.outcome:12}  {path_text(comparison.path)}  {path_text(details)}")
        sys.stdout.flush()
    if counts[DIFFERS]:
        return NONE
    return ALL if counts[AGREES] == len(comparisons) else SOME
