"""What a person sees of a training: a bar on a terminal, a line an epoch elsewhere; always on standard error."""

from __future__ import annotations

import sys

from tfdfd.cli.progress import bar_on


class TrainingProgress:
    """A `tfdfd.training.engine.Report` on standard error. Use as a context manager."""

    def __init__(self, quiet: bool = False):
        self._quiet = quiet

    def __enter__(self):
        self._bar = bar_on(sys.stderr) if not self._quiet and sys.stderr.isatty() else None
        self._task = None
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error):
        if self._bar:
            self._bar.stop()

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float) -> None:
        if not self._bar:
            return
        if self._task is None:
            self._task = self._bar.add_task("train", total=epochs * steps)
        told = f"epoch {epoch}/{epochs}  step {step}/{steps}  loss {loss:.4f}"
        self._bar.update(self._task, completed=(epoch - 1) * steps + step, description=told)

    def epoch(self, row: dict) -> None:
        figures = "  ".join(f"{name} {_number(value)}" for name, value in row.items() if name != "epoch")
        self._line(f"epoch {row['epoch']}: {figures}")

    def note(self, text: str) -> None:
        self._line(text)

    def _line(self, text):
        if self._quiet:
            return
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()


def _number(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)
