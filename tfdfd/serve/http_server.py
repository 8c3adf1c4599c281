"""HTTP server over aiohttp that trusts no client: bounded connections, checked senders, and reasons without content.

The model server's REST interface and the local page are handlers of it. It needs aiohttp alone.
"""

from __future__ import annotations

import sys
from typing import Any

from aiohttp import http_exceptions, web

from tfdfd.serve import PERMISSION_DENIED, Journal, ServingError, unforeseen

# Reasons for refusing a request by aiohttp's errors, whose own messages quote the request.
_REASONS = {
    http_exceptions.TransferEncodingError: "a chunk of its body is malformed",
    http_exceptions.ContentEncodingError: "its body is not encoded as its head says",
    http_exceptions.ContentLengthError: "its body is shorter than its head says",
    http_exceptions.PayloadEncodingError: "its body is malformed",
    http_exceptions.LineTooLong: "a line of its head is too long",
    http_exceptions.InvalidHeader: "a header is malformed",
    http_exceptions.BadStatusLine: "its first line is malformed",
    http_exceptions.InvalidURLError: "its address is malformed",
}
_WORDS = {
    "chunk": http_exceptions.TransferEncodingError,
    "header": http_exceptions.InvalidHeader,
    "content-length": http_exceptions.InvalidHeader,
    "transfer-encoding": http_exceptions.InvalidHeader,
    "url": http_exceptions.InvalidURLError,
}
_NO_HTTP = "it is no HTTP/1.1"
# First bytes of clients of other protocols.
_HTTP2, _TLS = b"PRI * HTTP/2.0", b"\x16\x03"
_OTHER_CLIENTS = {
    _HTTP2: "it is of a gRPC (HTTP/2) client, and this is the REST port; gRPC has a port of its own",
    _TLS: "it is encrypted (TLS), and this server was started without --tls-cert",
}


class _Connection(web.RequestHandler):
    """Connection that answers and logs malformed requests with a reason, never with their content."""

    __slots__ = ("_http", "_other")

    def __init__(self, server: HttpServer, **options: Any) -> None:
        super().__init__(server, **options)
        self._other: str | None
        self._http, self._other = server, None

    def data_received(self, data: bytes) -> None:
        if self._request_count == 0 and self._other is None and self.ssl_context is None:
            self._other = next((words for start, words in _OTHER_CLIENTS.items() if data.startswith(start)), None)
        super().data_received(data)

    def handle_error(
        self, request: Any, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> Any:
        reason = self._other or refusal_reason(exc)
        peer = self.transport.get_extra_info("peername") if self.transport else None
        self._http.log_refused(peer[0] if isinstance(peer, tuple) else request.remote, reason)
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer is sent already")
        answer = web.json_response({"error": f"the request cannot be read: {reason}."}, status=status)
        answer.force_close()
        return answer

    def log_exception(self, *words: Any, exc_info: Any = None, **_: Any) -> None:
        if isinstance(exc_info, (web.RequestPayloadError, http_exceptions.HttpProcessingError)):
            return  # of a request that was already refused
        reason = unforeseen(exc_info) if isinstance(exc_info, BaseException) else "no answer"
        sys.stderr.write(f"{self._http.entry}: {reason}\n")


class HttpServer(web.Server):
    """Server with a limited number of connections; a handler is cancelled when its client is gone.

    Args:
        handler: a coroutine function that answers a request.
        entry: name of this server in the log.
        max_connections: at a time; more are closed at once.
        journal: logs malformed and refused requests.
        hosts: names in the headers Host and Origin that are served; None: every Host, and no Origin.
        host_hint: appended to the reason of a refusal for one of these headers.
        **options: of aiohttp's `RequestHandler`.
    """

    def __init__(
        self,
        handler: Any,
        entry: str,
        max_connections: int,
        journal: Journal,
        hosts: frozenset[str] | None,
        host_hint: str = "; start the server with --allow-host NAME",
        **options: Any,
    ) -> None:
        super().__init__(handler, handler_cancellation=True)  # a client that is gone needs no answer
        self.entry, self._most, self._journal = entry, max_connections, journal
        self._hosts, self._host_hint, self._options = hosts, host_hint, options

    def __call__(self) -> _Connection:
        return _Connection(self, loop=self._loop, **self._options)

    def connection_made(self, handler: Any, transport: Any) -> None:
        super().connection_made(handler, transport)
        if len(self.connections) > self._most:
            transport.abort()

    def log_refused(self, client: str | None, reason: str) -> None:
        """Logs a refusal; see `Journal.refused`."""
        self._journal.refused(self.entry, client, reason)

    def check_sender(self, request: Any) -> None:
        """Refuses requests that a web page has a browser send, by another site's Origin or by a rebound host name.

        Raises:
            ServingError: PERMISSION_DENIED.
        """
        host, origin = _host_name(request.headers.get("Host", "")), request.headers.get("Origin")
        if self._hosts is not None and host not in self._hosts:
            why = f"its Host is not served here{self._host_hint}"
        elif origin is not None and _host_name(origin.rpartition("//")[2]) not in (self._hosts or ()):
            why = f"it comes from a web page of another site{self._host_hint}"
        else:
            return
        self.log_refused(request.remote, why)
        raise ServingError(PERMISSION_DENIED, f"the request was refused: {why}.")


def refusal_reason(error: BaseException | None) -> str:
    """Why a request cannot be read, in words of this module, without its content."""
    # The first match, since the errors are ordered from special to general.
    cause = error.__cause__ if isinstance(error, web.RequestPayloadError) and error.__cause__ else error
    if type(cause) is http_exceptions.BadHttpMessage:
        # The parser in C raises only this. The first line of its message names the part; the next ones quote it.
        first = cause.message.partition("\n")[0].lower()
        kind = next((kind for word, kind in _WORDS.items() if word in first), None)
        return _REASONS.get(kind, _NO_HTTP)  # type: ignore[arg-type]
    return next((words for kind, words in _REASONS.items() if isinstance(cause, kind)), _NO_HTTP)


def _host_name(text: str) -> str:
    """The host of `HOST[:PORT]`, in lower case."""
    name = text.rpartition("]")[0].lstrip("[") if text.startswith("[") else text.partition(":")[0]
    return name.lower()
