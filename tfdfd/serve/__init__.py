"""Model server for one machine with TensorFlow Serving's protocol over gRPC and REST: its errors, and their logging.

An error has a gRPC status, an HTTP status and a message. The log quotes no content of a request.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import types
from collections.abc import Callable, Iterable

INVALID_ARGUMENT = "INVALID_ARGUMENT"
DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
NOT_FOUND = "NOT_FOUND"
PERMISSION_DENIED = "PERMISSION_DENIED"
RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
FAILED_PRECONDITION = "FAILED_PRECONDITION"
UNIMPLEMENTED = "UNIMPLEMENTED"
INTERNAL = "INTERNAL"
UNAVAILABLE = "UNAVAILABLE"

# HTTP statuses as in TensorFlow Serving; others are 500.
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
# gRPC sends a status in headers, of which it allows 8 kB.
_MAX_LENGTH = 1000


class ServingError(Exception):
    """Error that is reported to the client.

    Args:
        code: name of a `grpc.StatusCode`.
        message: for the client; cut to 1000 characters.
    """

    def __init__(self, code: str, message: str):
        self.code = code
        self.message = message if len(message) <= _MAX_LENGTH else f"{message[: _MAX_LENGTH - 1]}…"
        super().__init__(f"{code}: {self.message}")

    @property
    def http_status(self) -> int:
        return _HTTP.get(self.code, 500)


def quoted(name: str) -> str:
    """A client's name for messages: quoted if it may be a typing error, else only its length."""
    return name if re.fullmatch(r"[\w./-]{0,32}", name, re.ASCII) else f"a name of {len(name)} letters"


def unforeseen(error: BaseException) -> str:
    """An internal error in one line: type and location, without its message, which may contain request content."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    location = ""
    if trace is not None:
        location = f" in {os.path.basename(trace.tb_frame.f_code.co_filename)}, line {trace.tb_lineno}"
    return f"internal error: {type(error).__name__}{location}"


def unknown_signature(name: str, known: Iterable[str]) -> ServingError:
    """The error for a signature that the model does not have."""
    return ServingError(
        FAILED_PRECONDITION,
        f'Serving signature key "{quoted(name)}" not found; the model has ' + ", ".join(sorted(known)) + ".",
    )


class Journal:
    """Log of refused requests, one line each, without their content.

    Repeated refusals of a client are logged once a minute.

    Args:
        note: receives log lines.
    """

    SECONDS, MOST = 60.0, 1000

    def __init__(self, note: Callable[[str], None]):
        self._last: dict[str, tuple[float, int]]
        self._note, self._last = note, {}

    def refused(self, side: str, client: str | None, reason: str) -> None:
        """Logs a refusal, unless the same was logged within the last minute.

        Args:
            side: `REST` or `gRPC`.
            client: its address without port.
            reason: worded by this server.
        """
        self.once_a_minute(f"{side}: refused a request of {client or 'an unknown client'}: {reason}")

    def once_a_minute(self, line: str) -> None:
        """Logs a line with the number of its repetitions, unless it was logged within the last minute."""
        now = time.monotonic()
        last, more = self._last.get(line, (-self.SECONDS, 0))
        if now - last < self.SECONDS:
            self._last[line] = last, more + 1
            return
        if len(self._last) >= self.MOST:
            self._last.clear()
        self._last[line] = now, 0
        again = f" ({more} more like it in the last minutes)" if more else ""
        self._note(f"{line}{again}")


def _write_line(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


class OneLine(logging.Handler):
    """Log handler for libraries: one line, without traceback and without messages of exceptions, once a minute."""

    LIBRARIES = ("aiohttp", "asyncio", "grpc")
    # Of gRPC and protobuf; what a client does, not what the server fails at.
    REFUSALS = {"DecodeError": "it is no message of its method", "StopAsyncIteration": "it ended without its message"}
    LEFT = "ExecuteBatchError"  # nobody was there to read the answer

    def __init__(self) -> None:
        super().__init__()
        self._journal = Journal(_write_line)

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        name = type(error).__name__
        if name == self.LEFT:
            return
        if name in self.REFUSALS:
            message = f"refused a request: {self.REFUSALS[name]}"
        elif error is not None:
            message = unforeseen(error)
        else:
            # Without its arguments, which may contain request content.
            message = str(record.msg).partition("\n")[0][:_MAX_LENGTH]
        self._journal.once_a_minute(f"{record.name.partition('.')[0]}: {message}")

    @classmethod
    def install(cls) -> None:
        """Replaces the handlers of the libraries' loggers, and silences the traceback that gRPC also prints itself."""
        handler = cls()
        for name in cls.LIBRARIES:
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = [handler], False
        from grpc._cython import cygrpc

        # A client that leaves before its error is sent: gRPC logs that, and prints it past the log.
        if hasattr(cygrpc, "traceback"):
            cygrpc.traceback = types.SimpleNamespace(print_exc=lambda *_, **__: None)
