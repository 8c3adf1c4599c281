"""`tfdfd data`: what is made for training on self-blended images."""

from __future__ import annotations

import itertools
import os
import sys
from collections import Counter

from tfdfd.cli.outcome import check_writable, exit_code

_PREVIEW = """\
A contact sheet of self-blended images: real, blended, mask and amplified difference of each pair, as training sees
them.

Photographs are drawn at random; where there are fewer than pairs, each is taken again with other draws. Faces and
their landmarks are found by MTCNN.

Exit code: 0 written; 1 no face in any of the images; 2 wrong usage."""

_LANDMARKS = """\
Finds five landmarks of each real crop with MTCNN, which training on self-blended images needs, and keeps them in
landmarks.csv beside the crops.

A run that was stopped goes on when the same command is given again. Crops whose bytes have changed are looked at anew;
those without a face are listed with their status and left out of training.

Exit code: 0 all have landmarks; 1 none has; 3 some have none; 2 wrong usage or input."""
_BLEND = """\
Writes a face set of the real crops and one self-blended fake of each, for what trains on files of both classes: the
bottleneck learner, an SVM, or any recipe. Splits, sources and people stay; give a set with splits.

A run that was stopped goes on when the same command is given again.

Exit code: 0 written; 1 it could not be; 2 wrong usage or input."""

_SWAP = """\
Writes a face set to validate on: real crops, and the same with the face of another person of the same split swapped
in, as frames of H.264 videos. No recipe trains on such fakes, so they tell what carries over. Needs scipy:
pip install 'tfdfd[train]'.

A run that was stopped goes on when the same command is given again.

Exit code: 0 written; 1 it could not be; 2 wrong usage or input."""
_TOLD = 100  # crops at a time on the progress bar


def add_parser(verbs) -> None:
    parser = verbs.add_parser("data", help="prepare and look at training data")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, dest="action")
    preview = actions.add_parser("preview", help="a contact sheet of self-blended images", description=_PREVIEW)
    preview.add_argument("paths", nargs="+", metavar="FACES", help="photographs, folders of them, or of 'extract'")
    preview.add_argument("-o", "--output", required=True, metavar="SHEET.png", help="where the sheet goes")
    preview.add_argument("--count", type=int, default=16, metavar="N", help="how many pairs (default: %(default)s)")
    preview.add_argument("--seed", type=int, default=0, metavar="N", help="another one, another sheet (default: 0)")
    preview.add_argument("--size", type=int, default=160, metavar="PIXELS", help="of a crop (default: %(default)s)")
    preview.set_defaults(run=_preview)
    landmarks = actions.add_parser("landmarks", help="landmarks of the real crops", description=_LANDMARKS)
    landmarks.add_argument("faces", metavar="FACES", help="faces.csv, its folder, or a folder with real/ and fake/")
    landmarks.add_argument(
        "-o", "--output", metavar="FILE.csv", help="where they are kept (default: landmarks.csv beside the crops)"
    )
    landmarks.add_argument("--quiet", action="store_true", help="no progress on standard error")
    landmarks.set_defaults(run=_landmarks)
    blend = actions.add_parser("blend", help="a face set with self-blended fakes", description=_BLEND)
    blend.add_argument("faces", metavar="FACES", help="faces.csv, its folder, or a folder with real/")
    blend.add_argument("-o", "--output", required=True, metavar="SET", help="folder of the new set")
    blend.add_argument("--size", type=int, default=256, metavar="PIXELS", help="of a crop (default: %(default)s)")
    blend.add_argument("--seed", type=int, default=0, metavar="N", help="another one, other fakes (default: 0)")
    blend.add_argument("--quiet", action="store_true", help="no progress on standard error")
    blend.set_defaults(run=_blend)
    swap = actions.add_parser("swap", help="a face set with faces swapped between people", description=_SWAP)
    swap.add_argument("faces", metavar="SPLIT", help="faces.csv with splits, or its folder")
    swap.add_argument("-o", "--output", required=True, metavar="SET", help="folder of the new set")
    swap.add_argument("--splits", default="val,test", metavar="NAMES", help="which crops (default: %(default)s)")
    swap.add_argument("--size", type=int, default=256, metavar="PIXELS", help="of a crop (default: %(default)s)")
    swap.add_argument("--seed", type=int, default=0, metavar="N", help="another one, other fakes (default: 0)")
    swap.add_argument("--quiet", action="store_true", help="no progress on standard error")
    swap.set_defaults(run=_swap)


def _preview(arguments) -> int:
    for name, most in (("count", 400), ("size", 1024)):
        if not 1 <= getattr(arguments, name) <= most:
            raise ValueError(f"--{name} must be from 1 to {most}; received {getattr(arguments, name)}.")
    if arguments.seed < 0:
        raise ValueError(f"--seed must be a whole number from 0; received {arguments.seed}.")
    check_writable(arguments.output)

    from tfdfd.data.contact_sheet import Refusal, as_png, contact_sheet, genuine_images, preview_pairs
    from tfdfd.faces import build_detector
    from tfdfd.files import write_atomically

    images = genuine_images(arguments.paths)
    made = []
    for outcome in preview_pairs(images, arguments.count, arguments.seed, arguments.size, build_detector("mtcnn")):
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


def _landmarks(arguments) -> int:
    from tfdfd.cli.progress import tracked
    from tfdfd.cli.shown import shown
    from tfdfd.data.crops import faces_of
    from tfdfd.data.landmarks import OK, TABLE, find_landmarks
    from tfdfd.data.tables import REAL

    faces = faces_of(arguments.faces)
    table = arguments.output or os.path.join(faces.root, TABLE)
    check_writable(table)
    real = sum(row.label == REAL for row in faces.rows)
    if not real:
        raise ValueError(f"{arguments.faces} has no real crop among {len(faces.rows)}; fakes need no landmarks.")
    counts = Counter()
    parts = _parts(find_landmarks(faces, table))
    label = lambda part: f"up to {shown(part[-1].file)}"  # noqa: E731
    for part in tracked(parts, -(-real // _TOLD), label, arguments.quiet):
        counts.update(found.status for found in part)
        for found in part:
            if found.status != OK and not arguments.quiet:
                sys.stderr.write(f"{shown(found.file)}: {found.status}\n")
    told = ", ".join(f"{count:,} {status}" for status, count in sorted(counts.items()))
    print(f"{table}: {real:,} real crops: {told}")
    return exit_code(counts[OK], real)


def _parts(found):
    while part := list(itertools.islice(found, _TOLD)):
        yield part


def _blend(arguments) -> int:
    from tfdfd.data.pair_sets import BlendedPairs, write_blended_set

    pairs = BlendedPairs(arguments.faces, arguments.size, split=None, seed=arguments.seed)
    return _write(pairs, write_blended_set, arguments)


def _swap(arguments) -> int:
    from tfdfd.data.pair_sets import SwappedPairs, write_swapped_set
    from tfdfd.data.tables import SPLITS

    splits = arguments.splits.split(",")
    if len(set(splits)) < len(splits) or not set(splits) <= set(SPLITS):
        raise ValueError(f"--splits must be some of {','.join(SPLITS)}; received {arguments.splits!r}.")
    pairs = SwappedPairs(arguments.faces, arguments.size, splits=splits, seed=arguments.seed)
    return _write(pairs, write_swapped_set, arguments)


def _write(pairs, write, arguments):
    from tfdfd.cli.progress import tracked
    from tfdfd.cli.shown import shown

    parts = _parts(write(pairs, arguments.output))
    label = lambda part: f"up to {shown(part[-1].file)}"  # noqa: E731
    count = 0
    for part in tracked(parts, -(-len(pairs) // _TOLD), label, arguments.quiet):
        count += len(part)
    left_out = ", ".join(f"{number:,} {status}" for status, number in sorted(pairs.left_out.items())) or "none"
    print(
        f"{os.path.join(arguments.output, 'faces.csv')}: {count:,} real crops and as many fakes; left out: {left_out}"
    )
    return 0
