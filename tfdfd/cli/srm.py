"""`tfdfd srm`: a face set cloned through the SRM kernels, as in document S4."""

from __future__ import annotations

import os
import sys

_DESCRIPTION = """\
Clones a face set: the noise residuals of each crop as PNG, faces.csv with the same rows, run.json.

A residual, in grey levels and clipped to -T..T, is stored as 128 + round(127 * residual / T): no noise is mid-grey, and
nothing else is lost (S4's files, filtered in 8 bits, lost the negative half). With T = 127, a network on the clone sees
what the noise networks (srm_vgg16, ...) see of the crops, to half a grey level.

A run that was stopped goes on when the same command is given again, and ends in the same bytes.

Exit code: 0 all crops are cloned; 1 a file could not be written; 2 wrong usage, or a crop that cannot be read."""


def add_parser(verbs) -> None:
    from tfdfd.data.options import SrmOptions

    parser = verbs.add_parser("srm", help="a face set as its noise", description=_DESCRIPTION)
    parser.add_argument("faces", metavar="FACES", help="faces.csv, its folder, or a folder with real/ and fake/")
    parser.add_argument("-o", "--output", required=True, metavar="NOISE", help="a new folder, or one to go on with")
    parser.add_argument(
        "--kernels",
        nargs="+",
        metavar="K",
        default=SrmOptions.kernels,
        help="KB KV second: one a channel, on the sum of the colours (default); one of them: on each colour, as S4",
    )
    parser.add_argument(
        "--truncate", type=float, default=SrmOptions.truncate, metavar="T", help="grey levels (default: %(default)g)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="crops at work at once (default: one a core)")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    parser.set_defaults(run=run)


def run(arguments) -> int:
    from tfdfd.cli.progress import tracked
    from tfdfd.data.options import SrmOptions
    from tfdfd.data.srm_set import SrmSet

    if arguments.workers is not None and arguments.workers < 1:
        raise ValueError(f"--workers must be at least 1; received {arguments.workers}.")
    options = SrmOptions(tuple(arguments.kernels), arguments.truncate)
    with SrmSet(arguments.faces, arguments.output, options, arguments.workers) as noise:
        label = lambda done: f"{done:,} of {len(noise.faces.rows):,} crops"  # noqa: E731
        try:
            for _ in tracked(noise.clone(), noise.blocks, label, arguments.quiet):
                pass
            counts = noise.finish()
        except OSError as error:
            raise OSError(
                f"{arguments.output}: {error}. What was done stays; the same command goes on with it."
            ) from error
    print(f"{counts['crops']:,} crops: {os.path.join(arguments.output, 'faces.csv')}")
    if counts["clipped"]:
        sys.stdout.write(f"{counts['clipped']:.2%} of the residuals reach {arguments.truncate:g} grey levels\n")
    return 0
