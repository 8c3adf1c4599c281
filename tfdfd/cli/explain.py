"""`tfdfd explain`: heat maps of a network's scores on a page, and measurements of how faithful they are."""

from __future__ import annotations

import contextlib
import os
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tfdfd.cli import Parser, exit_code
from tfdfd.cli.options import OutputFile, add_detection, add_json, add_seed, open_detector, values_of
from tfdfd.cli.output import Progress, tracked_detections, warn, write_json, write_line
from tfdfd.text import printable_path, table_lines
from tfdfd.version import __version__

if TYPE_CHECKING:
    from tfdfd.detect.results import Detection
    from tfdfd.explain import Explainer
    from tfdfd.explain.page import Subject

_DESCRIPTION = """\
Writes heat maps of faces on one page: red means fake, green means real. For each face, the frame with the strongest
evidence for its side of the threshold is explained. Several methods, separated by commas, are shown side by side.

lime                  segments that change P(fake) (2,000 samples, ten features); any network
occlusion             how far the score falls when a square is painted over; any network
gradcam               the last spatial maps, weighted by their gradients; networks with such maps
integrated-gradients  contributions of the pixels relative to a black picture; any network
mask                  the mask head's own estimate of what was altered; models that have such a head
activation            pictures that maximize neurons of the last hidden layer; without INPUT
kernels               the kernels of the first layer; without INPUT

With --measure FACES, no page is written. Fakes with known masks are made from the real crops of a face set, and the
maps of each method are measured on them, with an ellipse in the middle of the crop as a baseline.

lime needs scikit-image and scikit-learn: pip install 'tfdfd[explain]'.

Exit code: 0 every input explained, or measured; 1 none could be; 3 some could not; 2 wrong usage."""

_MOST_FACES = 4  # of one input, the highest P(fake) first


def add_arguments(parser: Parser) -> None:
    parser.description = _DESCRIPTION
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="local image, video or folder")
    add_detection(parser, "frames of a video to choose from")
    parser.add_argument(
        "--method", metavar="METHOD[,METHOD]", help="see above (default: lime; --measure: the first four)"
    )
    parser.add_argument("-o", "--output", type=OutputFile, metavar="PAGE.html", help="self-contained page to write")
    add_seed(parser, "all random choices")
    parser.add_argument("--samples", type=int, metavar="N", help="samples of LIME (default: 2000)")
    parser.add_argument("--features", type=int, metavar="N", help="segments of LIME to show (default: 10)")
    parser.add_argument("--neurons", type=int, default=4, metavar="N", help="neurons of 'activation', for each sign")
    measure = parser.add_argument_group("measurements on fakes with known masks")
    measure.add_argument("--measure", metavar="FACES", help="faces.csv, its folder, or a folder with real/")
    measure.add_argument("--fakes", default="blended", choices=("blended", "swapped"), help="default: %(default)s")
    measure.add_argument("--count", type=int, default=200, metavar="N", help="number of fakes")
    measure.add_argument("--split", default="test", choices=("train", "val", "test", "none"), help="split to use")
    measure.add_argument("--landmarks", metavar="FILE.csv", help="file of the landmarks (default: beside the crops)")
    measure.add_argument("--work", metavar="FOLDER", help="keep the values of each fake here, to go on after a stop")
    add_json(measure, "the measurements")
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    return _measure(arguments) if arguments.measure else _explain(arguments)


def _explain(arguments: Namespace) -> int:
    from tfdfd.explain import LIME, OF_CROPS, OF_NETWORKS, check_methods

    methods = check_methods(arguments.method or LIME)
    of_crops = [method for method in methods if method in OF_CROPS]
    if arguments.output is None:
        raise ValueError("-o PAGE.html is missing: the page to write.")
    if arguments.json:
        raise ValueError("--json is for --measure FACES, which is not given.")
    if of_crops and not arguments.inputs:
        raise ValueError(f"{', '.join(of_crops)} explains faces: give an image, a video or a folder.")
    if arguments.inputs and not of_crops:
        raise ValueError(
            f"{', '.join(methods)} shows the network and takes no INPUT; received {arguments.inputs[0]!r}."
        )
    if not 1 <= arguments.neurons <= 64:
        raise ValueError(f"--neurons must be from 1 to 64; received {arguments.neurons}.")

    from tfdfd.explain.page import Subject, write_page

    explainer = _explainer(arguments, methods)
    subjects, failed = _subjects(arguments, explainer, of_crops) if of_crops else ([], [])
    pictures = [_network_pictures(explainer, method, arguments) for method in methods if method in OF_NETWORKS]
    for path, message in failed:
        warn(f"{path}: {message}")
    if of_crops and not any(isinstance(subject, Subject) for subject in subjects):
        warn("tfdfd: no face could be explained; no page was written.")
        return exit_code(0, len(failed))
    settings = {"tfdfd": __version__, "methods": ", ".join(methods), "seed": arguments.seed}
    if of_crops:
        settings |= {"detector": arguments.detector, "frames": arguments.frames}
    write_page(arguments.output, subjects, pictures, explainer.record, methods, failed=failed, settings=settings)
    warn(f"page: {os.path.abspath(arguments.output)}")
    for subject in subjects:
        times = ", ".join(f"{one.method} {one.seconds:.1f} s" for one in subject.explanations)
        write_line(f"{subject.fake_probability:.3f}  {subject.path}  {subject.where}: {times}")
    explained = len({subject.path for subject in subjects})
    return exit_code(explained, explained + len(failed)) if of_crops else 0


def _explainer(arguments: Namespace, methods: tuple[str, ...]) -> Explainer:
    from tfdfd.explain import Explainer

    return Explainer(arguments.model, methods, **values_of(arguments, "runtime", "seed", "samples", "features"))


def _subjects(
    arguments: Namespace, explainer: Explainer, methods: Sequence[str]
) -> tuple[list[Subject], list[tuple[str, str]]]:
    """The explained faces, and `(path, message)` of inputs without one."""
    from tfdfd.media.inputs import list_inputs

    subjects, failed = [], []
    with open_detector(arguments) as detector:
        for detection in tracked_detections(detector, list_inputs(arguments.inputs), arguments.quiet):
            if detection.status != "ok":
                failed.append((printable_path(detection.path), detection.message or detection.status))
                continue
            try:
                subjects += _of_detection(detection, explainer, methods)
            except ValueError as error:
                failed.append((printable_path(detection.path), str(error)))
        if detector.sandbox_note:
            warn(detector.sandbox_note)
    return subjects, failed


def _of_detection(detection: Detection, explainer: Explainer, methods: Sequence[str]) -> list[Subject]:
    """A list of the explained faces of an input."""
    from tfdfd.explain import telling_frame
    from tfdfd.explain.page import Subject

    subjects = []
    worst_first = sorted(detection.faces, key=lambda track: -track.fake_probability)[:_MOST_FACES]
    for track in worst_first:
        frame: Any = telling_frame(track, explainer.record.threshold)
        where = "face" if len(detection.faces) == 1 else f"face {track.track + 1}"
        if detection.kind == "video":
            where += f" at {frame.time_s:.2f} s"
        explanations = [explainer.explain(frame.crop, method) for method in methods]
        subjects.append(Subject(printable_path(detection.path), where, frame.fake_probability, explanations))
    return subjects


def _network_pictures(explainer: Explainer, method: str, arguments: Namespace) -> tuple[str, Any]:
    from tfdfd.explain import ACTIVATION

    if method == ACTIVATION:
        from tfdfd.explain.gradients import choose_neurons, maximize

        neurons = choose_neurons(explainer.model, arguments.neurons)
        return method, maximize(explainer.model, neurons, seed=arguments.seed)
    from tfdfd.explain.gradients import first_kernels

    return method, first_kernels(explainer.model)


def _measure(arguments: Namespace) -> int:
    from tfdfd.explain import MASK, OF_CROPS, check_methods

    methods = check_methods(arguments.method or ",".join(name for name in OF_CROPS if name != MASK), OF_CROPS)
    if arguments.inputs:
        raise ValueError(f"--measure makes fakes from FACES and takes no INPUT; received {arguments.inputs[0]!r}.")
    if arguments.output:
        raise ValueError("--measure writes no page: give --json FILE in place of -o.")

    from tfdfd.explain.measure import ELLIPSE, choose_faces, masked_pairs, measure, work_folder, write_figures

    split = None if arguments.split == "none" else arguments.split
    faces = choose_faces(arguments.measure, arguments.fakes, arguments.count, split=split, seed=arguments.seed)
    explainer = _explainer(arguments, methods)
    pairs = masked_pairs(
        faces,
        arguments.fakes,
        arguments.count,
        explainer.size,
        seed=arguments.seed,
        landmarks=arguments.landmarks,
    )
    settings = {
        "schema": 1,
        "tfdfd": __version__,
        "model": {"handle": explainer.record.handle, "sha256": explainer.record.sha256},
        "fakes": arguments.fakes,
        "split": arguments.split,
        "seed": arguments.seed,
        "samples": explainer.samples,
    }
    work: Any = contextlib.nullcontext()
    if arguments.work:
        request = settings | {"count": arguments.count, "runtime": arguments.runtime}
        work = work_folder(arguments.work, request)
    with work as folder, Progress(arguments.quiet) as progress:

        def report(number: int, method: str) -> None:
            if method == ELLIPSE:  # the last one of a pair
                progress.update(number + 1, arguments.count, "measured")

        figures = settings | measure(explainer, pairs, methods, report, folder and folder.path)
    if arguments.json == "-":
        write_json(figures, "-")
        return 0
    if arguments.json:
        write_figures(figures, arguments.json)
    for line in measurement_lines(figures):
        write_line(line)
    return 0


def measurement_lines(figures: dict) -> list[str]:
    """The measurements as a table, with intervals of the differences to the ellipse; * marks better values."""
    names = ("pointing", "iou", "insertion", "deletion")
    rows = [["method", *(f"{name} " for name in (*names, "stability", "seconds", "CPU s"))]]
    for method, row in figures["methods"].items():
        cells = []
        for name in names:
            cell, against = f"{row[name]:.3f}", row.get("against_ellipse", {}).get(name)
            if against:
                cell += "{} ({:+.2f} to {:+.2f})".format("*" if against["better"] else " ", *against["ci95"])
            cells.append(cell)
        cells += [f"{row['stability']:.3f} ", f"{row['seconds']:.2f} ", f"{row['cpu_seconds']:.2f} "]
        rows.append([method, *cells])
    return [
        f"{figures['crops']} {figures['fakes']} faces, {figures['called_fake']} called fake by "
        f"{figures['model']['handle']}; in brackets the difference to the ellipse (95 %); * better than it",
        *table_lines(rows),
    ]
