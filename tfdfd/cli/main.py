"""The command `tfdfd`: parses, then calls one function. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import os
import sys

from tfdfd.cli import (
    benchmark,
    check_leaks,
    data,
    detect,
    evaluate,
    explain,
    export,
    extract,
    index,
    merge,
    models,
    pack,
    prune,
    publish,
    recipes,
    serve,
    split,
    srm,
    train,
    tune,
)
from tfdfd.cli.parser import USAGE_ERROR, Parser
from tfdfd.version import __version__

VERBS = (
    detect,
    index,
    extract,
    split,
    check_leaks,
    merge,
    srm,
    pack,
    data,
    recipes,
    train,
    tune,
    prune,
    evaluate,
    explain,
    export,
    publish,
    serve,
    models,
    benchmark,
)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not know every letter of a name
    parser = Parser(prog="tfdfd", description="Deepfake detection: P(fake) for faces in images and videos.")
    parser.add_argument("--version", action="version", version=f"tfdfd {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in VERBS:
        verb.add_parser(verbs)
    try:
        try:
            arguments = parser.parse_args(argv)
            return arguments.run(arguments)
        finally:
            sys.stdout.flush()  # here, where a reader that has gone is no traceback
    except ValueError as error:
        sys.stderr.write(f"tfdfd: {error}\n")
        return USAGE_ERROR
    except (OSError, RuntimeError) as error:
        if isinstance(error, BrokenPipeError):
            # The reader of our answer has gone; Python must not complain about it once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        else:
            sys.stderr.write(f"tfdfd: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("tfdfd: interrupted\n")
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
