"""What one input may cost, as options: one for each field of `Limits`."""

from __future__ import annotations

from dataclasses import fields

from tfdfd.cli.parser import size


def add_limits(parser) -> None:
    """Adds the options to a verb's parser."""
    from tfdfd.media.limits import Limits

    group = parser.add_argument_group("limits of one input (a number, or such as 50M or 2GiB)")
    for field in fields(Limits):
        kind = float if field.name == "max_seconds" else size
        option = f"--{field.name.replace('_', '-')}"
        group.add_argument(option, type=kind, default=field.default, metavar="N", help=f"default: {field.default:,}")


def limits_of(arguments):
    """The `Limits` that the options give."""
    from tfdfd.media.limits import Limits

    return Limits(**{field.name: getattr(arguments, field.name) for field in fields(Limits)})
