"""Scoring process of the local page: one warm detector that scores files one after another.

It is a process of its own, so that the page answers before TensorFlow is imported, and goes on if scoring crashes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfdfd.child_process import Channel, PythonProcess
from tfdfd.media import Limits

if TYPE_CHECKING:
    from tfdfd.detect.detector import Detector

_CODE = "from tfdfd.app.scoring import main; main()"
_WARM_UP = Path(__file__).parents[1] / "samples" / "genuine.mp4"


class ScoringProcess:
    """The scoring process, seen from the page's event loop.

    Args:
        options: arguments of `Detector`.
        receive: called in the event loop with each message. They are `ready` with `notes`; `first` with `id`, `time_s`
            and `fake_probability`, before the result of a video; `result` with `id`, `document` (the JSON of
            `tfdfd detect`) and `page`; `failed` with `id`; `fatal` with `usage`, if the detector cannot be made; `log`
            with `level` and `text`, for each record of a logger of the package at the level of this process; and in the
            end `ended` with the reason.
    """

    def __init__(self, options: dict[str, Any], receive: Callable[[dict], None]):
        self._receive, self._loop = receive, asyncio.get_running_loop()
        limits = options["limits"].to_dict()
        level = logging.getLogger("tfdfd").getEffectiveLevel()
        self._process = PythonProcess(_CODE, json.dumps({**options, "limits": limits}), str(level))
        self._thread = threading.Thread(target=self._follow, name="scoring")
        self._thread.start()

    def score(self, number: str, path: Path, name: str) -> None:
        """Asks for the score of a file, which appears under `name` in the report."""
        self._send(score=number, path=str(path), name=name)

    def cancel(self, number: str) -> None:
        """Ends the work on a file, which then fails."""
        self._send(cancel=number)

    def kill(self) -> None:
        """Ends the process at once."""
        self._process.kill()

    async def stop(self) -> None:
        """Ends the process at once, and waits for its end."""
        self.kill()
        await asyncio.to_thread(self._thread.join)

    def _send(self, **message: object) -> None:
        with contextlib.suppress(OSError):  # the message `ended` follows
            self._process.send(**message)

    def _follow(self) -> None:
        with self._process as process:
            for message in process.messages():
                self._loop.call_soon_threadsafe(self._receive, message)
            code = process.wait()
        reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        last = process.errors.rpartition("\n")[2]
        self._loop.call_soon_threadsafe(self._receive, {"ended": f"{reason}: {last}" if last else reason})


class _Sent(logging.Handler):
    """Sends each record to the parent."""

    def __init__(self, channel: Channel):
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        self._channel.send(log=record.name, level=record.levelno, text=record.getMessage())


def main() -> None:
    """Entry point of the process: makes the detector, runs it once, and scores the files that the parent names."""
    for name in (signal.SIGINT, signal.SIGHUP):  # of the terminal; the parent decides on the end
        signal.signal(name, signal.SIG_IGN)
    options = json.loads(sys.argv[1])
    requests: queue.SimpleQueue[dict] = queue.SimpleQueue()
    cancelled: set[str] = set()
    detector: Detector | None = None

    def receive(message: dict) -> None:
        if "cancel" not in message:
            requests.put(message)
        elif detector is not None:
            cancelled.add(message["cancel"])
            detector.close()  # ends the decoding, and with it the work on the file

    channel = Channel(receive)
    logger = logging.getLogger("tfdfd")
    logger.setLevel(int(sys.argv[2]))
    logger.addHandler(_Sent(channel))
    try:
        from tfdfd.detect.detector import Detector
        from tfdfd.report.pictures import VIEWS, sizes_for

        views = {"views": VIEWS, "view_side": sizes_for(1).frame_side}
        detector = Detector(**options | {"limits": Limits(**options["limits"])} | views)
        detector.detect(_WARM_UP)
    except (ValueError, OSError, RuntimeError) as error:
        channel.send(fatal=str(error), usage=isinstance(error, ValueError))
        os._exit(1)
    channel.send(ready=True, notes=[note for note in (detector.runtime_note, detector.sandbox_note) if note])
    while True:
        request = requests.get()
        number = request["score"]
        try:
            _score(detector, channel, number, request["path"], request["name"])
        except Exception as error:
            # Reported, not raised: the detector can go on with the next file.
            channel.send(failed="deleted" if number in cancelled else f"{type(error).__name__}: {error}", id=number)
        cancelled.discard(number)


def _score(detector: Detector, channel: Channel, number: str, path: str, name: str) -> None:
    from tfdfd.detect.record import make_record
    from tfdfd.detect.result_folder import fingerprint, now
    from tfdfd.media.formats import HEAD_BYTES, kind_of_content
    from tfdfd.media.inputs import Input
    from tfdfd.report.page import render_report

    with open(path, "rb") as file:
        kind = kind_of_content(file.read(HEAD_BYTES))
    if kind == "video" and (first := detector.first_score(path)):
        channel.send(first=True, id=number, time_s=first.time_s, fake_probability=first.fake_probability)
    detection = replace(detector.detect(path), path=name)
    record = make_record(detector, [detection.to_dict() | fingerprint(Input(path), detection)], now())
    page = render_report([detection], detector.report_info(), record=record)
    channel.send(result=True, id=number, document=detector.to_json([detection]), page=page)
