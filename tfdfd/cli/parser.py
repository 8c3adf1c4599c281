"""argparse that names near matches for a mistyped option or verb, and guesses nothing."""

from __future__ import annotations

import argparse
import re
import sys

from tfdfd.near_matches import did_you_mean

USAGE_ERROR = 2


class Parser(argparse.ArgumentParser):
    """A parser without abbreviations whose errors end in the near matches."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, formatter_class=_Formatter, **kwargs)

    def parse_args(self, args=None, namespace=None):
        self._given = sys.argv[1:] if args is None else list(args)
        return super().parse_args(args, namespace)

    def error(self, message):
        received = re.search(r"invalid choice: '([^']*)'|unrecognized arguments: (\S+)", message)
        if received:
            word = received[1] or received[2]
            hint = did_you_mean(word.split("=")[0], self._known_words(getattr(self, "_given", ())))
            message += f"; {hint}" if hint else ""
        sys.stderr.write(f"{self.prog}: {message}\n{self.prog}: see '{self.prog} --help'.\n")
        raise SystemExit(USAGE_ERROR)

    def _known_words(self, given):
        words = []
        for action in self._actions:
            words += [*action.option_strings, *map(str, action.choices or ())]
            if isinstance(action, argparse._SubParsersAction):
                # Options of the verb that was given come back to this parser as unrecognized.
                verb = next((word for word in given if word in action.choices), None)
                words += action.choices[verb]._known_words(given) if verb else []
        return words


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog):
        super().__init__(prog, max_help_position=30, width=110)


def size(text: str) -> int:
    """An argparse type: a count such as 50000000, 50M or 2G (powers of 1000), or 2GiB (powers of 1024)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKmMgG]?)(i?B?)", text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"expected a number such as 50000000, 50M or 2GiB; received {text!r}")
    base = 1024 if match[3].startswith("i") else 1000
    return int(float(match[1]) * base ** " kmg".index(match[2].lower() or " "))
