"""`tfdfd completion`: scripts with which a shell completes verbs, options, choices and file names."""

from __future__ import annotations

import argparse
from argparse import Namespace

from tfdfd.cli import Parser
from tfdfd.cli.output import write_text

SHELLS = ("bash", "zsh", "tcsh")
_COMPLETION = """\
Prints the completion script of a shell.

bash: tfdfd completion bash > ~/.local/share/bash-completion/completions/tfdfd
zsh:  tfdfd completion zsh > DIR/_tfdfd, with DIR in $fpath
tcsh: tfdfd completion tcsh > FILE, and 'source FILE' in ~/.tcshrc"""


def add_arguments(parser: Parser) -> None:
    parser.description = _COMPLETION
    parser.add_argument("shell", choices=SHELLS, help="shell that reads the script")
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    import shtab

    from tfdfd.cli.main import build_parser

    parser = build_parser()
    _complete(parser)
    write_text(shtab.complete(parser, arguments.shell) + "\n", "-")
    return 0


def _complete(parser: Parser) -> None:
    """Adds the arguments of all verbs, with file names for values that are neither choices nor numbers."""
    import shtab

    parser.complete()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                _complete(verb)
        elif action.nargs != 0 and not action.choices and action.type not in (int, float):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
