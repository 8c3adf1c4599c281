"""Progress on standard error: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator


def tracked(items: Iterable, total: int, label, quiet: bool = False) -> Iterator:
    """Passes items on and reports each; `label(item)` is the line for it.

    Items are taken to their end, however many `total` says: a generator's work after its last item belongs to it.
    """
    bar = bar_on(sys.stderr) if not quiet and sys.stderr.isatty() else None
    with bar or contextlib.nullcontext():
        task = bar.add_task("detect", total=total) if bar else None
        for number, item in enumerate(items, 1):
            if bar:
                bar.update(task, advance=1, description=label(item))
            elif not quiet:
                sys.stderr.write(f"[{number}/{total}] {label(item)}\n")
                sys.stderr.flush()
            yield item


def bar_on(screen):
    """A bar for `screen`, not yet shown."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False)
    return Progress(*columns, console=Console(file=screen), transient=True)
