"""Answers that are no predictions: a status of gRPC's by name, its number in HTTP, and a message."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable

INVALID_ARGUMENT = "INVALID_ARGUMENT"
DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
NOT_FOUND = "NOT_FOUND"
PERMISSION_DENIED = "PERMISSION_DENIED"
RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
FAILED_PRECONDITION = "FAILED_PRECONDITION"
UNIMPLEMENTED = "UNIMPLEMENTED"
INTERNAL = "INTERNAL"
UNAVAILABLE = "UNAVAILABLE"

# As TensorFlow Serving maps them; what is not listed is 500.
_HTTP = {
    "CANCELLED": 499,
    INVALID_ARGUMENT: 400,
    DEADLINE_EXCEEDED: 504,
    NOT_FOUND: 404,
    "ALREADY_EXISTS": 409,
    PERMISSION_DENIED: 403,
    "UNAUTHENTICATED": 401,
    RESOURCE_EXHAUSTED: 429,
    FAILED_PRECONDITION: 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    UNIMPLEMENTED: 501,
    UNAVAILABLE: 503,
}
# A status travels in the headers of an answer, of which gRPC allows 8 kB.
_MOST_LETTERS = 1000


class ServingError(Exception):
    """What a client is told instead of an answer.

    Args:
        code: name of a `grpc.StatusCode`.
        message: for the client; cut to 1000 letters.
    """

    def __init__(self, code: str, message: str):
        self.code, self.message = code, _cut(message)
        super().__init__(f"{code}: {self.message}")

    @property
    def http_status(self) -> int:
        return _HTTP.get(self.code, 500)


def quoted(name: str) -> str:
    """A name that a client sent, for the answer: whole where it may be a slip, else only its length."""
    return name if re.fullmatch(r"[\w./-]{0,32}", name, re.ASCII) else f"a name of {len(name)} letters"


def unforeseen(error: BaseException) -> str:
    """An error of the server itself in one line: its type and where it arose. Its message may hold request content."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = ""
    if trace is not None:
        place = f" in {os.path.basename(trace.tb_frame.f_code.co_filename)}, line {trace.tb_lineno}"
    return f"internal error: {type(error).__name__}{place}"


class Journal:
    """One line for each refused request, without its content.

    A client that repeats its mistake is told of once a minute.

    Args:
        note: takes a line.
    """

    SECONDS, MOST = 60.0, 1000

    def __init__(self, note: Callable[[str], None]):
        self._note, self._last = note, {}

    def refused(self, side: str, client: str | None, reason: str) -> None:
        """Notes a refusal, unless the same was noted a moment ago.

        Args:
            side: `REST` or `gRPC`.
            client: its address; its port is no part of it.
            reason: in words of this server.
        """
        key, now = (side, client, reason), time.monotonic()
        last, more = self._last.get(key, (-self.SECONDS, 0))
        if now - last < self.SECONDS:
            self._last[key] = last, more + 1
            return
        if len(self._last) >= self.MOST:
            self._last.clear()
        self._last[key] = now, 0
        again = f" ({more} more like it in the last minutes)" if more else ""
        self._note(f"{side}: refused a request of {client or 'an unknown client'}: {reason}{again}")


class OneLine(logging.Handler):
    """What libraries log, as one line without a traceback and without the message of an exception."""

    LIBRARIES = ("aiohttp", "asyncio", "grpc")

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if type(error).__name__ == "DecodeError":  # of protobuf
            message = "refused a request: it is no message of its method"
        elif error is not None:
            message = unforeseen(error)
        else:
            # Without its arguments, which may be the client's.
            message = str(record.msg).partition("\n")[0][:_MOST_LETTERS]
        sys.stderr.write(f"{record.name.partition('.')[0]}: {message}\n")
        sys.stderr.flush()

    @classmethod
    def install(cls) -> None:
        """Takes over the loggers of the libraries that a server runs on."""
        handler = cls()
        for name in cls.LIBRARIES:
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = [handler], False


def _cut(text):
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…"
