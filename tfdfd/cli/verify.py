"""`tfdfd verify`: repeats a recorded detection and compares the outcomes."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections import Counter

from tfdfd.cli import ALL, NONE, SOME, Parser
from tfdfd.cli.options import add_json, add_quiet
from tfdfd.cli.output import path_text, plural, tracked, warn, write_json, write_line

_ALTERED = 4
_DESCRIPTION = """\
Repeats the detection that a record describes, with the same model (by digest) and settings, and compares the outcomes.

Records are written by 'tfdfd detect --report PAGE.html' (PAGE.record.json) and 'tfdfd detect -o DIR' (record.json).
Outcomes agree if status, verdict, frames and faces are the same, and P(fake) differs by at most 0.005 (for single
frames: 0.02). The digest in a record shows that it was changed, but it is no signature.

Exit code: 0 every input agrees; 1 one differs; 2 wrong usage; 3 an input is not in the record, or the detection
cannot be repeated here; 4 the record was changed."""


def add_arguments(parser: Parser) -> None:
    """Adds the arguments of `tfdfd verify`."""
    parser.description = _DESCRIPTION
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
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
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
