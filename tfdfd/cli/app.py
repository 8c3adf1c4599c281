"""`tfdfd app`: a page on this machine on which a person drops files."""

from __future__ import annotations

from argparse import Namespace

from tfdfd.cli.options import add_detection, detector_arguments, from_options, size
from tfdfd.cli.parser import Parser
from tfdfd.cli.text import warn, write_line

_DESCRIPTION = """\
Prints the address of a page for the browser on this machine. Files that are dropped there are scored as by
'tfdfd detect', with the same limits and sandbox, and never leave this machine. An uploaded file is deleted as soon as
it is scored; reports are deleted on request, and when the command ends (Ctrl-C).

The address contains a secret: who has it sees the session. Other machines cannot connect.

Exit code: 0 stopped as asked; 1 the port or the temporary folder was not available; 2 wrong usage."""


def add_arguments(parser: Parser) -> None:
    """Adds the arguments of `tfdfd app`."""
    parser.description = _DESCRIPTION
    add_detection(parser, "equally spaced frames of a video", verbose=False)
    parser.add_argument("--port", type=int, default=0, metavar="N", help="port of the page (default: any)")
    page = parser.add_argument_group("limits of the page (--max-bytes holds for each upload, too)")
    page.add_argument("--max-queue", type=int, metavar="N", help="files uploading or waiting (default: 20)")
    page.add_argument("--max-upload-bytes", type=size, metavar="N", help="of these files in all (default: 8GiB)")
    page.add_argument("--max-history", type=int, metavar="N", help="results, the oldest goes first (default: 200)")
    page.add_argument("--upload-seconds", type=float, metavar="S", help="time for an upload (default: 600)")
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    import asyncio

    from tfdfd.app.server import Settings, serve

    if not 0 <= arguments.port <= 65535:
        raise ValueError(f"--port must be between 0 and 65535; received {arguments.port}.")
    settings = from_options(Settings, arguments, detector=detector_arguments(arguments))

    def ready(address: str) -> None:
        write_line(f"page: {address}", flush=True)
        note("Open it in a browser on this machine. Ctrl-C ends it and deletes uploads and reports.")

    def note(text: str) -> None:
        if not arguments.quiet:
            warn(text)

    asyncio.run(serve(settings, ready, note))
    return 0
