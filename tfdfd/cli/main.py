"""The command `tfdfd`: parses, then calls one function. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

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
    reproduce,
    serve,
    split,
    srm,
    train,
    tune,
)
from tfdfd.cli.extras import check_extras
from tfdfd.cli.parser import USAGE_ERROR, Parser
from tfdfd.cli.streams import standard_streams
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
    reproduce,
    explain,
    export,
    publish,
    serve,
    models,
    benchmark,
)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    with standard_streams() as reader_has_gone:
        code, arguments = _run(argv)
        # What was to be read is lost, unless the verb's result is a file.
        return 1 if code == 0 and reader_has_gone() and not getattr(arguments, "output", None) else code


def _run(argv):
    """The exit code, and the parsed arguments where there are any."""
    parser = Parser(prog="tfdfd", description="Deepfake detection: P(fake) for faces in images and videos.")
    parser.add_argument("--version", action="version", version=f"tfdfd {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True, dest="verb")
    for verb in VERBS:
        verb.add_parser(verbs)
    arguments = None
    try:
        try:
            arguments = parser.parse_args(argv)
            check_extras(arguments)
            return arguments.run(arguments), arguments
        except SystemExit as stop:  # of --help, --version and wrong usage
            return stop.code, arguments
        finally:
            sys.stdout.flush()
    except ValueError as error:
        sys.stderr.write(f"tfdfd: {error}\n")
        return USAGE_ERROR, arguments
    except (OSError, RuntimeError) as error:
        sys.stderr.write(f"tfdfd: {error}\n")
        return 1, arguments
    except KeyboardInterrupt:
        sys.stderr.write("tfdfd: interrupted\n")
        return 130, arguments


if __name__ == "__main__":
    raise SystemExit(main())
