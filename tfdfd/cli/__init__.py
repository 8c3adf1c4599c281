"""Argument parser that suggests near matches, builds only the verb that was asked for, and never guesses."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from tfdfd.cli.output import warn
from tfdfd.text import did_you_mean

# Exit codes.
ALL, NONE, USAGE_ERROR, SOME = 0, 1, 2, 3


class Parser(argparse.ArgumentParser):
    """An argument parser without abbreviations; its errors end in the near matches.

    Args:
        add_arguments: adds the arguments. It is called when the parser parses for the first time, so that a verb that
            was not asked for costs nothing.
    """

    def __init__(self, *args: Any, add_arguments: Callable[[Parser], None] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, formatter_class=_Formatter, **kwargs)  # type: ignore[misc]
        self._add_arguments = add_arguments

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        self._given = sys.argv[1:] if args is None else list(args)
        return super().parse_args(args, namespace)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        self.complete()
        return super().parse_known_args(args, namespace)

    def complete(self) -> None:
        """Adds the arguments, if they are not there yet."""
        add_arguments, self._add_arguments = self._add_arguments, None
        if add_arguments:
            add_arguments(self)

    def error(self, message: str) -> NoReturn:
        received = re.search(r"invalid choice: '([^']*)'|unrecognized arguments: (\S+)", message)
        if received:
            word = received[1] or received[2]
            hint = did_you_mean(word.split("=")[0], self._known_words(getattr(self, "_given", ())))
            message += f"; {hint}" if hint else ""
        warn(f"{self.prog}: {message}")
        warn(f"{self.prog}: see '{self.prog} --help'.")
        raise SystemExit(USAGE_ERROR)

    def _known_words(self, given: Sequence[str]) -> list[str]:
        words = []
        for action in self._actions:
            words += [*action.option_strings, *map(str, action.choices or ())]
            if isinstance(action, argparse._SubParsersAction):
                # Options of the verb that was given come back to this parser as unrecognized.
                verb = next((word for word in given if word in action.choices), None)
                words += action.choices[verb]._known_words(given) if verb else []
        return words


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of descriptions and appends default values to the help of options."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=110)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        value = action.default
        hidden = "default" in action.help or value in (argparse.SUPPRESS, "") or isinstance(value, bool)  # type: ignore[operator]
        if hidden or not action.option_strings or not isinstance(value, str | int | float):
            return action.help
        return f"{action.help} (default: %(default)s)"


def exit_code(done: int, total: int) -> int:
    """The exit code of a verb over many inputs: 0 for all, 1 for none, 3 for some."""
    return ALL if done == total else SOME if done else NONE
