"""HTTP side of the local page, and its queue.

It is written for aiohttp, which `tfdfd serve` has already, and shares that server's checks of connections and senders.
It starts in a second, where Gradio brings some forty packages; Starlette with uvicorn would be one more HTTP server.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import secrets
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from aiohttp import http_exceptions, web

from tfdfd.app import DONE, FAILED, PENDING, SCORING, WAITING, SessionFile, session_folder
from tfdfd.app.scoring import ScoringProcess
from tfdfd.serve import (
    DEADLINE_EXCEEDED,
    INVALID_ARGUMENT,
    NOT_FOUND,
    PERMISSION_DENIED,
    RESOURCE_EXHAUSTED,
    UNIMPLEMENTED,
    Journal,
    OneLine,
    ServingError,
    unforeseen,
)
from tfdfd.serve.http_server import HttpServer, refusal_reason
from tfdfd.text import escape_control_chars

_log = logging.getLogger(__name__)

HOST = "127.0.0.1"
_HOSTS = frozenset({HOST, "localhost", "::1"})
_ASSETS = {
    "": ("page.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    "page.js": ("page.js", "text/javascript"),
    "words.js": ("words.js", "text/javascript"),
}
_FILE = re.compile(r"files/(?P<number>[0-9a-f]{16})(?:/(?P<part>report|result\.json))?")
_MAX_CONNECTIONS = 64
_IDLE_SECONDS = 30.0
_START_SECONDS = 300.0
_CANCEL_SECONDS = 5.0
_MAX_NAME = 255
# Nothing of the page is stored by the browser, framed by another page or sent along as a referrer.
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# A report shows text of strangers: an origin of its own keeps it away from the page, whatever it contains.
_REPORT_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; sandbox allow-scripts allow-downloads"
)


@dataclass(frozen=True)
class Settings:
    """Settings of the local page.

    Attributes:
        detector: arguments of `tfdfd.Detector`; the limits of one input are the limits of an upload, too.
        port: 0 for any.
        max_queue: files that are uploaded, wait or are scored, in all.
        max_upload_bytes: their largest total size.
        max_history: results that are kept; the oldest goes first.
        upload_seconds: time limit of an upload.
    """

    detector: dict[str, Any]
    port: int = 0
    max_queue: int = 20
    max_upload_bytes: int = 8 * 1024**3
    max_history: int = 200
    upload_seconds: float = 600.0

    def __post_init__(self) -> None:
        for name in ("max_queue", "max_upload_bytes", "max_history", "upload_seconds"):
            if not getattr(self, name) > 0:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} must be greater than 0; received {getattr(self, name)!r}.")


async def serve(settings: Settings, ready: Callable[[str], None], note: Callable[[str], None]) -> None:
    """Serves the page until SIGTERM, SIGINT or SIGHUP, and then deletes everything.

    Args:
        settings: settings of the page.
        ready: called with the address of the page, which contains its token.
        note: receives log lines.

    Raises:
        ValueError: the detector cannot be made as asked.
        RuntimeError: the scoring process does not start.
        OSError: the port or the temporary folder is not available.
    """
    OneLine.install()
    loop = asyncio.get_running_loop()
    end: asyncio.Future[None] = loop.create_future()

    def stop() -> None:
        if not end.done():
            end.set_result(None)

    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(name, stop)
    with session_folder() as folder:
        app = App(settings, folder, end, note)
        try:
            ready(await app.start())
            await end
        finally:
            await app.stop()


class App:
    """One session: its files, their queue and the HTTP handler.

    Args:
        settings: settings of the page.
        folder: for uploads and reports.
        end: set by the app if it cannot go on.
        note: receives log lines.
    """

    def __init__(self, settings: Settings, folder: Path, end: asyncio.Future[None], note: Callable[[str], None]):
        self._settings, self._folder, self._end, self._note = settings, folder, end, note
        self._limits = settings.detector["limits"]
        self._token = secrets.token_urlsafe(32)
        self._files: dict[str, SessionFile] = {}
        self._uploads: dict[str, asyncio.Task] = {}
        self._queue: asyncio.Queue[SessionFile] = asyncio.Queue()
        self._scoring: ScoringProcess | None = None
        self._ready = asyncio.Event()
        self._notes: list[str] = []
        self._current: SessionFile | None = None
        self._answer: asyncio.Future[dict] | None = None
        self._http = HttpServer(
            self._handle,
            "app",
            _MAX_CONNECTIONS,
            Journal(note),
            _HOSTS,
            "",
            keepalive_timeout=_IDLE_SECONDS,
            lingering_time=2.0,
            access_log=None,
        )

    async def start(self) -> str:
        """Starts listening and the scoring process, without waiting for the model; returns the address."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._http, HOST, self._settings.port)
        self._worker = loop.create_task(self._score_all())
        return f"http://{HOST}:{self._server.sockets[0].getsockname()[1]}/{self._token}/"

    async def stop(self) -> None:
        """Cuts off uploads and scoring."""
        if not hasattr(self, "_server"):
            return
        self._server.close()
        self._worker.cancel()
        await asyncio.gather(self._worker, return_exceptions=True)
        await self._http.shutdown(0.1)
        if self._scoring is not None:
            await self._scoring.stop()

    async def _score_all(self) -> None:
        try:
            self._start_scoring()
            await asyncio.wait_for(self._ready.wait(), _START_SECONDS)
            while True:
                file = await self._queue.get()
                if file.number in self._files:
                    await self._score(file)
        except asyncio.TimeoutError:
            self._fail(RuntimeError(f"the scoring process did not start within {_START_SECONDS:g} s."))
        except Exception as error:
            self._fail(error)

    async def _score(self, file: SessionFile) -> None:
        await asyncio.wait_for(self._ready.wait(), _START_SECONDS)
        file.state, self._current = SCORING, file
        self._answer = asyncio.get_running_loop().create_future()
        # The input's own limit holds for decoding, of the first frames and of all; scoring a file takes less.
        seconds = 3 * self._limits.max_seconds
        self._scoring.score(file.number, file.media, file.name)  # type: ignore[union-attr]
        try:
            message = await asyncio.wait_for(self._answer, seconds)
        except asyncio.TimeoutError:
            message = {"failed": f"not done after {seconds:g} s"}
            await self._scoring.stop()  # type: ignore[union-attr]
        self._current = self._answer = None
        file.media.unlink(missing_ok=True)
        if file.number not in self._files:
            return  # deleted meanwhile
        if "document" not in message:
            file.state, file.message = FAILED, message.get("failed") or "scoring stopped; please add the file again"
            return
        try:
            file.document.write_text(json.dumps(message["document"], indent=1) + "\n", "utf-8")
            file.page.write_text(message["page"], "utf-8")
        except OSError as error:  # a full disk
            file.remove()
            file.state, file.message = FAILED, f"the report cannot be stored: {error.strerror}"
            return
        (result,) = message["document"]["results"]
        faces = result.pop("faces", [])
        file.result, file.state = result | {"faces_found": len(faces)}, DONE
        finished = [old for old in self._files.values() if old.state not in PENDING]
        for old in finished[: -self._settings.max_history]:
            self._delete(old)

    def _start_scoring(self) -> None:
        self._ready.clear()
        self._scoring = ScoringProcess(self._settings.detector, self._receive)

    def _end_scoring(self, file: SessionFile) -> None:
        """Ends the scoring process if it is still at work on a file that was cancelled; a new one follows."""
        if file is self._current and self._scoring is not None:
            self._scoring.kill()

    def _receive(self, message: dict) -> None:
        if "log" in message:
            text = message["text"]
            if self._current is not None:  # scoring knows the file by its random name alone
                text = text.replace(str(self._current.media), self._current.name)
            logging.getLogger(message["log"]).log(message["level"], "%s", text)
        elif "ready" in message:
            self._notes = message["notes"]
            self._ready.set()
        elif "fatal" in message:
            self._fail((ValueError if message["usage"] else RuntimeError)(message["fatal"]))
        elif "ended" in message:
            if not self._ready.is_set():
                self._fail(RuntimeError(f"the scoring process did not start: {message['ended']}."))
            elif not self._end.done():
                self._note(f"tfdfd app: the scoring process ended ({message['ended']}) and is started again")
                self._settle({"failed": "scoring stopped on this file"})
                self._start_scoring()
        elif self._current is not None and message["id"] == self._current.number:
            if "first" in message:
                self._current.first = {name: message[name] for name in ("time_s", "fake_probability")}
            else:
                self._settle(message)

    def _settle(self, message: dict) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(message)

    def _fail(self, error: Exception) -> None:
        if not self._end.done():
            self._end.set_exception(error)

    def _delete(self, file: SessionFile) -> None:
        """Deletes a file in any state, at once."""
        self._files.pop(file.number, None)
        file.remove()
        _log.info("%s: deleted", file.name)
        if file.number in self._uploads:
            self._uploads[file.number].cancel()
        if file is self._current and self._scoring is not None:
            self._scoring.cancel(file.number)
            asyncio.get_running_loop().call_later(_CANCEL_SECONDS, self._end_scoring, file)

    async def _upload(self, request: Any) -> SessionFile:
        name = escape_control_chars(request.query.get("name", ""))[:_MAX_NAME].strip()
        if not name:
            raise ServingError(INVALID_ARGUMENT, "the upload has no name: expected POST files?name=NAME.")
        # Neither a form of another page nor a request without the browser's asking first can have this type.
        if request.content_type != "application/octet-stream":
            raise ServingError(INVALID_ARGUMENT, "the type of an upload must be application/octet-stream.")
        size = request.content_length
        pending = [file for file in self._files.values() if file.state in PENDING]
        if len(pending) >= self._settings.max_queue:
            raise ServingError(
                RESOURCE_EXHAUSTED, f"{len(pending)} files wait already, the most allowed; add this one later."
            )
        file = SessionFile(self._folder, name, size)
        self._check_size(file, size or 0)
        self._files[file.number] = file
        self._uploads[file.number] = asyncio.current_task()  # type: ignore[assignment]
        try:
            await asyncio.wait_for(self._receive_body(request, file), self._settings.upload_seconds)
        except BaseException as error:
            self._files.pop(file.number, None)
            file.remove()
            if isinstance(error, asyncio.TimeoutError):
                raise ServingError(DEADLINE_EXCEEDED, "the upload took too long or stood still.") from error
            raise
        finally:
            del self._uploads[file.number]
        file.size, file.state = file.received, WAITING
        _log.info("%s: %d bytes uploaded; files before it: %d", file.name, file.size, len(pending))
        self._queue.put_nowait(file)
        return file

    async def _receive_body(self, request: Any, file: SessionFile) -> None:
        with open(file.media, "xb") as disk:
            while part := await asyncio.wait_for(request.content.readany(), _IDLE_SECONDS):
                file.received += len(part)
                self._check_size(file, file.received)
                await asyncio.to_thread(disk.write, part)

    def _check_size(self, file: SessionFile, size: int) -> None:
        """Raises `HTTPRequestEntityTooLarge` if a file of `size` bytes is over a limit."""
        most = self._limits.max_bytes
        if size > most:
            raise web.HTTPRequestEntityTooLarge(
                most, size, text=f"the file is larger than {most:,} bytes (--max-bytes)"
            )
        others = [other for other in self._files.values() if other.state in PENDING and other is not file]
        held = sum(max(other.size or 0, other.received) for other in others)
        most = self._settings.max_upload_bytes
        if held + size > most:
            text = f"all waiting files together would be larger than {most:,} bytes (--max-upload-bytes); add it later"
            raise web.HTTPRequestEntityTooLarge(most, held + size, text=text)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            response = await self._route(request)
        except ServingError as error:
            response = web.json_response({"error": error.message}, status=error.http_status)
        except web.HTTPException as error:
            response = web.json_response({"error": error.text}, status=error.status)
        except (http_exceptions.HttpProcessingError, web.RequestPayloadError) as error:
            reason = refusal_reason(error)
            self._http.log_refused(request.remote, reason)
            response = web.json_response({"error": f"the request cannot be read: {reason}."}, status=400)
        except OSError as error:  # a full disk
            sys.stderr.write(f"app: {error.strerror}\n")
            response = web.json_response({"error": f"the file cannot be stored: {error.strerror}."}, status=507)
        except Exception as error:
            sys.stderr.write(f"app: {unforeseen(error)}\n")
            response = web.json_response({"error": f"internal error: {type(error).__name__}"}, status=500)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    async def _route(self, request: Any) -> web.StreamResponse:
        self._http.check_sender(request)
        _, token, path = (*request.rel_url.raw_path.split("/", 2), "", "")[:3]
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            raise ServingError(
                PERMISSION_DENIED, "open the whole address that 'tfdfd app' printed; it has a secret part."
            )
        method = request.method
        if method not in ("GET", "HEAD") and request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            raise ServingError(PERMISSION_DENIED, "the request was refused: it comes from another web page.")
        if method == "GET" and path in _ASSETS:
            name, kind = _ASSETS[path]
            body = (Path(__file__).parent / name).read_text("utf-8")
            if not path:
                # The blocks of the template are those that the page of `tfdfd web` replaces.
                body = jinja2.Environment(autoescape=True).from_string(body).render()
            return web.Response(text=body, content_type=kind, charset="utf-8")
        if path == "files" and method == "GET":
            return web.json_response(self._state())
        if path == "files" and method == "POST":
            return web.json_response((await self._upload(request)).to_dict(), status=201)
        if path == "files" and method == "DELETE":
            for file in list(self._files.values()):
                self._delete(file)
            return web.json_response(self._state())
        match = _FILE.fullmatch(path)
        if match is None or match["number"] not in self._files:
            raise ServingError(NOT_FOUND, "there is no such file; it may have been deleted.")
        file = self._files[match["number"]]
        if method == "DELETE" and not match["part"]:
            self._delete(file)
            return web.json_response(self._state())
        if method == "GET" and match["part"] and file.state == DONE:
            return self._result(file, match["part"])
        raise ServingError(UNIMPLEMENTED, "there is nothing to get or change there.")

    def _state(self) -> dict[str, Any]:
        limits = {"max_bytes": self._limits.max_bytes, "max_queue": self._settings.max_queue}
        files = [file.to_dict() for file in self._files.values()]
        return {"ready": self._ready.is_set(), "notes": self._notes, "limits": limits, "files": files}

    def _result(self, file: SessionFile, part: str) -> web.Response:
        if part == "report":
            response = web.Response(body=file.page.read_bytes(), content_type="text/html", charset="utf-8")
            response.headers["Content-Security-Policy"] = _REPORT_POLICY
            return response
        response = web.Response(body=file.document.read_bytes(), content_type="application/json")
        response.headers["Content-Disposition"] = 'attachment; filename="result.json"'
        return response
