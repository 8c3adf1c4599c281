"""`tfdfd data`: looking at what is made for training."""

from __future__ import annotations

import sys

from tfdfd.cli.outcome import check_writable

_PREVIEW = """\
A contact sheet of self-blended images: real, blended, mask and amplified difference of each pair, as training sees
them.

Photographs are drawn at random; where there are fewer than pairs, each is taken again with other draws. Faces and
their landmarks are found by MTCNN.

Exit code: 0 written; 1 no face in any of the images; 2 wrong usage."""


def add_parser(verbs) -> None:
    parser = verbs.add_parser("data", help="look at training data")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    preview = actions.add_parser("preview", help="a contact sheet of self-blended images", description=_PREVIEW)
    preview.add_argument("paths", nargs="+", metavar="FACES", help="photographs, folders of them, or of 'extract'")
    preview.add_argument("-o", "--output", required=True, metavar="SHEET.png", help="where the sheet goes")
    preview.add_argument("--count", type=int, default=16, metavar="N", help="how many pairs (default: %(default)s)")
    preview.add_argument("--seed", type=int, default=0, metavar="N", help="another one, another sheet (default: 0)")
    preview.add_argument("--size", type=int, default=160, metavar="PIXELS", help="of a crop (default: %(default)s)")
    preview.set_defaults(run=_preview)


def _preview(arguments) -> int:
    for name, most in (("count", 400), ("size", 1024)):
        if not 1 <= getattr(arguments, name) <= most:
            raise ValueError(f"--{name} must be from 1 to {most}; received {getattr(arguments, name)}.")
    if arguments.seed < 0:
        raise ValueError(f"--seed must be a whole number from 0; received {arguments.seed}.")
    check_writable(arguments.output)

    from tfdfd.data.contact_sheet import Refusal, as_png, contact_sheet, genuine_images, pairs
    from tfdfd.faces.detectors import build_detector
    from tfdfd.files import write_atomically

    images = genuine_images(arguments.paths)
    made = []
    for outcome in pairs(images, arguments.count, arguments.seed, arguments.size, build_detector("mtcnn")):
        if isinstance(outcome, Refusal):
            sys.stderr.write(f"left out {outcome.path}: {outcome.message}\n")
        else:
            made.append(outcome)
    if not made:
        raise RuntimeError(f"no face in any of the {len(images)} images; no sheet was written.")
    write_atomically(arguments.output, as_png(contact_sheet(made)))
    photographs = len({pair.path for pair in made})
    print(f"{arguments.output}: {len(made)} pairs from {photographs} of {len(images)} images")
    return 0
