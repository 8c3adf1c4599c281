"""The command line of both clients."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict

from tf_serving.scoring import MAX_BATCH, score_files

ALL, NONE, USAGE, SOME = 0, 1, 2, 3
_EXIT_CODES = "Exit code: 0 every file scored; 1 none could be; 3 some could not; 2 wrong usage."


def run(client: Callable, description: str, server: str, argv: list[str] | None = None) -> int:
    """Parses the command line, scores its files with `client(server, model, **options)` and prints one line a file.

    Args:
        client: `GrpcClient` or `RestClient`.
        description: the module's docstring, of which help shows the first line.
        server: default of `--server`.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0], epilog=_EXIT_CODES)
    parser.add_argument("files", nargs="+", metavar="CROP", help="JPEG or PNG file of a face crop")
    parser.add_argument("--server", default=server, help="default: %(default)s")
    parser.add_argument("--model", default="meso_inception4", metavar="NAME", help="default: %(default)s")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--version", type=int, metavar="N", help="default: the server's, the newest")
    which.add_argument("--label", metavar="LABEL", help="such as stable or canary")
    parser.add_argument("--deadline", type=float, default=10, metavar="S", help="of a request (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=MAX_BATCH, metavar="N", help="crops a request (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.add_argument("--tls", action="store_true", help="encrypted, the server known to the system's authorities")
    parser.add_argument("--ca", metavar="PEM", help="encrypted, the server known to this authority")
    parser.add_argument("--cert", metavar="PEM", help="the client's certificate")
    parser.add_argument("--key", metavar="PEM", help="its private key")
    arguments = parser.parse_args(argv)
    if arguments.batch < 1 or not 0 < arguments.deadline < 1e6:
        parser.error("--batch must be at least 1, and --deadline a positive number of seconds")
    if (arguments.cert is None) != (arguments.key is None):
        parser.error("--cert and --key go together")
    names = ("version", "label", "tls", "ca", "cert", "key")
    try:
        connection = client(
            arguments.server,
            arguments.model,
            deadline_s=arguments.deadline,
            **{name: getattr(arguments, name) for name in names},
        )
    except (OSError, ValueError) as error:
        parser.error(str(error))
    with connection:
        outcomes = list(_shown(score_files(arguments.files, connection.predict, arguments.batch), arguments.json))
    if arguments.json:
        print(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    scored = sum(outcome.error is None for outcome in outcomes)
    return ALL if scored == len(outcomes) else SOME if scored else NONE


def _shown(outcomes, as_json):
    for outcome in outcomes:
        if outcome.error is not None:
            print(f"{outcome.path!r}: {outcome.error}", file=sys.stderr)
        elif not as_json:
            print(f"{outcome.fake_probability:.6f}\t{outcome.path}")
        yield outcome
