"""What a person sees of a training: a bar on a terminal, a line an epoch elsewhere; always on standard error."""

from __future__ import annotations

import contextlib
import os

from tfdfd.cli.progress import bar_on, silenced


class TrainingProgress:
    """A `tfdfd.training.engine.Report` on standard error. Use as a context manager."""

    def __init__(self, quiet: bool = False):
        self._quiet = quiet

    def __enter__(self):
        self._screen = open(os.dup(2), "w", encoding="utf-8", errors="backslashreplace")
        self._bar = bar_on(self._screen) if not self._quiet and self._screen.isatty() else None
        self._task = None
        # Until the first step is done: TensorFlow's start writes warnings that no setting turns off.
        self._silence = contextlib.ExitStack()
        self._silence.enter_context(silenced())
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error):
        self._silence.close()
        if self._bar:
            self._bar.stop()
        self._screen.close()

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float) -> None:
        self._silence.close()
        if not self._bar:
            return
        if self._task is None:
            self._task = self._bar.add_task("train", total=epochs * steps)
        told = f"epoch {epoch + 1}/{epochs}  step {step}/{steps}  loss {loss:.4f}"
        self._bar.update(self._task, completed=epoch * steps + step, description=told)

    def epoch(self, row: dict) -> None:
        figures = "  ".join(f"{name} {_number(value)}" for name, value in row.items() if name != "epoch")
        self._line(f"epoch {row['epoch'] + 1}: {figures}")

    def note(self, text: str) -> None:
        self._line(text)

    def _line(self, text):
        if self._quiet:
            return
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            self._screen.write(f"{text}\n")
            self._screen.flush()


def _number(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)
