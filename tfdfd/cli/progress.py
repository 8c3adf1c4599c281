"""What a person sees while waiting: a bar on a terminal, plain lines elsewhere; always on standard error."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterable, Iterator

_END = object()


def tracked(items: Iterable, total: int, label, quiet: bool = False) -> Iterator:
    """Passes items on and reports each; `label(item)` is the line for it. TensorFlow's chatter is kept off the screen.

    Items are taken to their end, however many `total` says: a generator's work after its last item belongs to it.
    The first item brings TensorFlow's start with it, whose C++ side writes warnings to file descriptor 2 that no
    setting turns off; they are dropped until that item is there. Errors still come as exceptions.
    """
    with open(os.dup(2), "w", encoding="utf-8", errors="backslashreplace") as screen:
        bar = bar_on(screen) if not quiet and screen.isatty() else None
        with bar or contextlib.nullcontext():
            task = bar.add_task("detect", total=total) if bar else None
            iterator = iter(items)
            for number in itertools.count(1):
                with silenced() if number == 1 else contextlib.nullcontext():
                    item = next(iterator, _END)
                if item is _END:
                    return
                if bar:
                    bar.update(task, advance=1, description=label(item))
                elif not quiet:
                    screen.write(f"[{number}/{total}] {label(item)}\n")
                    screen.flush()
                yield item


def bar_on(screen):
    """A bar for `screen`, not yet shown."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False)
    return Progress(*columns, console=Console(file=screen), transient=True)


@contextlib.contextmanager
def silenced():
    """Within, whatever writes to standard error is not seen, C++ included."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
