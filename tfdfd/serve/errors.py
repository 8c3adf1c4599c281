"""Answers that are no predictions: a status of gRPC's by name, its number in HTTP, and a message."""

from __future__ import annotations

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


def _cut(text):
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…"
