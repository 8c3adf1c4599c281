"""`tfdfd web`: a site that scores files in the visitor's browser."""

from __future__ import annotations

import os
from argparse import Namespace

from tfdfd.cli import Parser
from tfdfd.cli.options import add_quiet
from tfdfd.cli.output import path_text, warn, write_line
from tfdfd.weights import DEFAULT_MODEL

_DESCRIPTION = """\
Writes a folder that any web server of static files can offer: a page on which visitors drop pictures and videos, which
their browser scores as 'tfdfd detect' does. Their files are not uploaded, and the page asks no other server.

The runtime, 35 MB of npm packages, is downloaded once into the user's cache folder and checked by digest.

Exit code: 0 written; 1 it could not be written; 2 wrong usage, a model that does not run in a browser, or a runtime
that is missing or altered."""


def add_arguments(parser: Parser) -> None:
    """Adds the arguments of `tfdfd web`."""
    parser.description = _DESCRIPTION
    parser.add_argument("-o", "--output", required=True, metavar="SITE", help="folder; an earlier site is replaced")
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, metavar="RUN|HANDLE|FILE", help="a network of single faces, such as 'fast'"
    )
    parser.add_argument(
        "--runtime",
        metavar="FOLDER",
        help="holds the npm packages (NAME-VERSION.tgz), for a machine without network",
    )
    add_quiet(parser)
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    from tfdfd.web import build_site

    if not arguments.quiet:
        warn(f"tfdfd web: writing {path_text(arguments.output)} with {arguments.model}")
    settings = build_site(arguments.output, arguments.model, arguments.runtime)
    files = [os.path.join(folder, name) for folder, _, names in os.walk(arguments.output) for name in names]
    size = sum(map(os.path.getsize, files))
    model = settings["model"]
    write_line(f"site: {path_text(arguments.output)}, {len(files)} files, {size / 1e6:.1f} MB")
    write_line(f"model: {model['handle']} {model['sha256']}")
    if not arguments.quiet:
        warn("tfdfd web: 'python -m http.server -b 127.0.0.1 -d SITE' shows it on this machine; other hosts need https")
    return 0
