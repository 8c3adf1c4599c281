"""`tfdfd detect`: verdicts for images, videos and folders."""

from __future__ import annotations

import os
import sys

from tfdfd.cli.options import add_detector, add_limits, add_model, detector_options, limits_of
from tfdfd.cli.outcome import check_writable, exit_code, write_json
from tfdfd.cli.shown import shown
from tfdfd.version import __version__

_DESCRIPTION = """\
P(fake) and a verdict for each image, video and folder (walked in sorted order).

Exit code: 0 every input scored; 1 none could be; 3 some could not; 2 wrong usage."""


def add_parser(verbs) -> None:
    from tfdfd.extract.sandbox import SANDBOXES
    from tfdfd.media import FRAMES
    from tfdfd.runtime import AUTO, RUNTIMES

    parser = verbs.add_parser("detect", help="verdicts for images, videos and folders", description=_DESCRIPTION)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="local image, video or folder")
    add_model(parser)
    add_detector(parser)
    parser.add_argument(
        "--frames",
        type=int,
        default=FRAMES,
        metavar="N",
        help="equally spaced frames of a video (default: %(default)s)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="T",
        help="P(fake) from which the verdict is fake, a face (default: the model's, corrected for several)",
    )
    parser.add_argument("--json", metavar="FILE|-", help="write the results as JSON; - for standard output")
    parser.add_argument("--report", metavar="FILE.html", help="write one self-contained page")
    parser.add_argument(
        "--explain", metavar="METHOD", help="heat-maps of faces in the report, by a method of 'tfdfd explain'"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="decoding processes (default: one a core, up to 4)")
    parser.add_argument(
        "--runtime",
        default=AUTO,
        choices=(AUTO, *RUNTIMES),
        help="what runs the network (default: %(default)s, the fastest installed; openvino: pip install 'tfdfd[edge]')",
    )
    remote = parser.add_argument_group(
        "scores from a model server (TensorFlow Serving or 'tfdfd serve'; faces are still found here)"
    )
    remote.add_argument(
        "--server",
        metavar="HOST:PORT",
        help="its gRPC interface; --model is then NAME, HANDLE, either with /VERSION, or the model_card.json "
        "published beside the model",
    )
    remote.add_argument(
        "--server-timeout", type=float, metavar="S", help="of a request, retries included (default: 30)"
    )
    remote.add_argument("--server-ca", metavar="PEM", help="encrypted: the authority of the server's certificate")
    remote.add_argument("--server-cert", metavar="PEM", help="this side's certificate, where one is wanted")
    remote.add_argument("--server-key", metavar="PEM", help="its private key")
    parser.add_argument(
        "--sandbox",
        default=SANDBOXES[0],
        choices=SANDBOXES,
        help="seal the decoding processes against files, network and other processes (default: %(default)s, where the "
        "kernel can; require: refuse to decode without)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    add_limits(parser)
    parser.set_defaults(run=run)


def run(arguments) -> int:
    from tfdfd.cli.progress import tracked
    from tfdfd.detect.detector import Detector
    from tfdfd.media.inputs import list_inputs

    if arguments.json not in (None, "-"):
        check_writable(arguments.json)
    if arguments.report == "-":
        raise ValueError("the report is a page, not text for standard output; give the name of a file.")
    if arguments.report is not None:
        check_writable(arguments.report)
    limits = limits_of(arguments)
    explain = _explain(arguments)
    options = detector_options(arguments)
    with Detector(
        arguments.model,
        arguments.detector,
        frames=arguments.frames,
        threshold=arguments.threshold,
        limits=limits,
        detector_options=options,
        workers=arguments.workers,
        runtime=arguments.runtime,
        server=_server(arguments),
        sandbox=arguments.sandbox,
    ) as detector:
        inputs = list_inputs(arguments.inputs)
        found = detector.iter_detect(inputs)
        label = lambda detection: f"{_in_one_line(detection.path)}: {detection.verdict or detection.status}"  # noqa: E731
        detections = []
        pictures = _pictures(arguments)
        for detection in tracked(found, len(inputs.items), label, arguments.quiet):
            detections.append(detection)
            pictures -= detection.status == "ok"
            if pictures < 0:
                detection.drop_crops()
            elif explain:
                explain(detection)
        for note in filter(None, (detector.runtime_note, detector.sandbox_note)):
            sys.stderr.write(f"{note}\n")
        if inputs.skipped and not arguments.quiet:
            sys.stderr.write(f"{inputs.skipped} files in folders are no media and were not looked at\n")
        _write(arguments, detector, detections, limits)
    scored = sum(detection.status == "ok" for detection in detections)
    return exit_code(scored, len(detections))


def _server(arguments):
    options = {name: getattr(arguments, f"server_{name}") for name in ("timeout", "ca", "cert", "key")}
    given = {name: value for name, value in options.items() if value is not None}
    if arguments.server is None:
        if given:
            raise ValueError(f"--server-{next(iter(given))} is for --server HOST:PORT, which is not given.")
        return None
    from tfdfd.remote import Server

    if "timeout" in given:
        given["timeout_s"] = given.pop("timeout")
    return Server(arguments.server, **given)


def _explain(arguments):
    """What adds heat-maps to the faces of a detection, or None."""
    if arguments.explain is None:
        return None
    if not arguments.report:
        raise ValueError("--explain puts heat-maps into the report: give --report FILE.html, too.")
    if arguments.server:
        raise ValueError("--explain needs the weights on this machine; leave --server or --explain out.")
    from tfdfd.explain.methods import OF_CROPS, Explainer, check_methods

    methods = check_methods(arguments.explain, OF_CROPS)
    if len(methods) > 1:
        raise ValueError(f"--explain takes one method; received {arguments.explain!r}.")
    explainer = Explainer(arguments.model, methods, runtime=arguments.runtime)
    from tfdfd.explain.page import explain_tracks

    def explain(detection):
        for message in explain_tracks(detection, explainer, *methods):
            sys.stderr.write(f"{_in_one_line(detection.path)}: not explained: {message}\n")

    return explain


def _pictures(arguments):
    """Of how many scored inputs the crops are kept: as many as the report shows."""
    if not arguments.report:
        return 0
    from tfdfd.report.page import DETAILED_INPUTS

    return DETAILED_INPUTS


def _write(arguments, detector, detections, limits):
    if arguments.report:
        from tfdfd.report.page import write_report

        model = detector.model_info() | {
            "inconclusive_band": detector.inconclusive_band,
            "card": detector.record.card,
        }
        settings = {"tfdfd": __version__, "detector": arguments.detector, "frames": arguments.frames}
        if arguments.server:
            settings["scored by"] = arguments.server
        settings |= limits.to_dict()
        write_report(arguments.report, detections, model, settings=settings)
        sys.stderr.write(f"report: {os.path.abspath(arguments.report)}\n")
    if arguments.json:
        write_json(detector.to_json(detections), arguments.json)
        if arguments.json == "-":
            return
    for line in summary(detections):
        sys.stdout.write(line + "\n")


def summary(detections) -> list[str]:
    """One line an input: verdict or status, P(fake), name, and what it rests on or why there is none."""
    names = [_in_one_line(detection.path) for detection in detections]
    width = min(max(map(len, names), default=0), 60)
    lines = []
    for detection, name in zip(detections, names, strict=True):
        if detection.status == "ok":
            shown_faces, judged = len(detection.faces), detection.faces_judged
            faces = f"{shown_faces} face{'' if shown_faces == 1 else 's'}"
            if judged not in (None, shown_faces):
                faces = f"{judged} of {faces}"
            basis = f"{faces}, {detection.frames_scored} of {detection.frames_requested} frames"
            basis += f"; {detection.message}" if detection.message else ""
            score = f"{detection.fake_probability:.3f}"
        else:
            basis, score = detection.message, "-"
        lines.append(f"{detection.verdict or detection.status:12}  {score:>5}  {name:{width}}  {basis}")
    return lines


def _in_one_line(path):
    from tfdfd.detect.results import printable_path

    return shown(printable_path(path))
