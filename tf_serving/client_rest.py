"""P(fake) of face crops from TensorFlow Serving, or `tfdfd serve`, over REST. Needs Python alone.

python -m tf_serving.client_rest --server http://localhost:8501 --model meso_inception4 crop.jpg
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import random
import socket
import ssl
import sys
import threading
import time
import urllib.parse

from tf_serving.client_cli import run
from tf_serving.scoring import INPUT, OUTPUT, SIGNATURE, ServingError, checked

ATTEMPTS = 5
FIRST_WAIT_S, LONGEST_WAIT_S, GROWTH = 0.1, 5.0, 3
MAX_ANSWER_BYTES = 1 << 20
# HTTP's word for what gRPC says, as TensorFlow Serving translates it; what a proxy before it says, too.
STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    412: "FAILED_PRECONDITION",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
RETRIED = ("UNAVAILABLE", "RESOURCE_EXHAUSTED")


class RestClient:
    """A connection to one model, kept open between requests; for one thread.

    Args:
        server: `http://HOST:PORT` or `https://HOST:PORT` of the REST interface, with a path where a proxy adds one.
        model: name under which the model is served.
        version: number of the version; or
        label: its label, such as `stable`; neither: the server's choice, which is the newest.
        deadline_s: seconds for one request, retries included.
        attempts: how often a request is sent at most.
        tls, ca, cert, key: as for `GrpcClient`; `https://` says the same as `tls`.

    Raises:
        ValueError: `server` is no such address.
    """

    def __init__(
        self,
        server: str,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        deadline_s: float = 10,
        attempts: int = ATTEMPTS,
        tls: bool = False,
        ca: str | None = None,
        cert: str | None = None,
        key: str | None = None,
    ):
        address = urllib.parse.urlsplit(server if "//" in server else f"//{server}", scheme="http")
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError(f"the server must be http://HOST:PORT or https://HOST:PORT; received {server!r}.")
        if tls or ca or cert or address.scheme == "https":
            context = ssl.create_default_context(cafile=ca)
            if cert:
                context.load_cert_chain(cert, key)
            self._connection = http.client.HTTPSConnection(address.hostname, address.port, context=context)
        else:
            self._connection = http.client.HTTPConnection(address.hostname, address.port)
        which = f"/versions/{version}" if version is not None else f"/labels/{_quoted(label)}" if label else ""
        self._path = f"{address.path.rstrip('/')}/v1/models/{_quoted(model)}{which}:predict"
        self._deadline_s, self._attempts = deadline_s, attempts

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()

    def predict(self, crops: list[bytes]) -> list[float]:
        """P(fake) in [0, 1], 1 = fake, of each crop, an encoded JPEG or PNG image.

        Raises:
            ServingError: no answer, after retries where they may help, or none that is a probability.
        """
        encoded = [{"b64": base64.b64encode(crop).decode()} for crop in crops]
        body = json.dumps({"signature_name": SIGNATURE, "inputs": {INPUT: encoded}}).encode()
        answer = self._with_retries(body)
        if not isinstance(answer, dict) or "outputs" not in answer:
            raise ServingError("INTERNAL", "the answer is JSON, but none of TensorFlow Serving")
        outputs = answer["outputs"]
        if isinstance(outputs, dict):  # of a model with several outputs
            outputs = outputs.get(OUTPUT)
        return checked(outputs, len(crops))

    def _with_retries(self, body):
        end = time.monotonic() + self._deadline_s
        wait = FIRST_WAIT_S
        for attempt in range(1, self._attempts + 1):
            try:
                return self._once(body, end)
            except ServingError as error:
                # Half of the wait is left to chance, so that clients who were refused together do not return together.
                pause = max(random.uniform(wait / 2, wait), error.retry_after_s)
                if error.status not in RETRIED or attempt == self._attempts or time.monotonic() + pause >= end:
                    raise
            time.sleep(pause)
            wait = min(wait * GROWTH, LONGEST_WAIT_S)

    def _once(self, body, end):
        late = threading.Event()

        def cut():
            late.set()
            if self._connection.sock:
                with contextlib.suppress(OSError):  # it may be closed by now
                    self._connection.sock.shutdown(socket.SHUT_RDWR)

        left = max(end - time.monotonic(), 0.001)
        # A socket's timeout is for each read: a server that sends a byte now and then would never be late.
        clock = threading.Timer(left, cut)
        clock.daemon = True
        self._connection.timeout = left
        clock.start()
        try:
            self._connection.request("POST", self._path, body, {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            answer = response.read(MAX_ANSWER_BYTES + 1)
        except ssl.SSLCertVerificationError as error:
            raise ServingError("UNAUTHENTICATED", str(error)) from error
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            if late.is_set() or isinstance(error, TimeoutError):
                raise ServingError("DEADLINE_EXCEEDED", f"no answer within {self._deadline_s:g} s") from error
            raise ServingError("UNAVAILABLE", f"{type(error).__name__}: {error}") from error
        finally:
            clock.cancel()
        if response.will_close or len(answer) > MAX_ANSWER_BYTES:
            self._connection.close()
        if late.is_set():
            raise ServingError("DEADLINE_EXCEEDED", f"no answer within {self._deadline_s:g} s")
        return _decoded(response, answer)


def _decoded(response, answer):
    if len(answer) > MAX_ANSWER_BYTES:
        raise ServingError("INTERNAL", f"the answer has more than {MAX_ANSWER_BYTES:,} bytes")
    try:
        decoded = json.loads(answer)
    except ValueError as error:
        if response.status == 200:
            raise ServingError("INTERNAL", f"the answer is not JSON: {error}") from error
        decoded = None
    if response.status == 200:
        return decoded
    message = decoded.get("error") if isinstance(decoded, dict) else None
    status = STATUSES.get(response.status, "INTERNAL")
    after = response.headers.get("Retry-After", "")
    seconds = int(after) if after.isascii() and after.isdigit() else 0
    raise ServingError(status, f"HTTP {response.status}: {message or response.reason}", seconds)


def _quoted(name):
    return urllib.parse.quote(name, safe="")


if __name__ == "__main__":
    sys.exit(run(RestClient, __doc__, "http://localhost:8501"))
