"""Conversions kept on disk, so that a network is converted once and then starts without TensorFlow.

One file each: SHA-256 of the rest, length of the graph, graph, weights. Nothing but what this package wrote is ever
parsed: a file that is damaged, or that somebody else could have put there, counts as absent.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from tfdfd.files import write_atomically
from tfdfd.weights.records import cache_folder

_DIGEST_BYTES, _LENGTH_BYTES = 32, 8


def place_of(name: str) -> Path:
    """The file of a conversion: in `runtimes` within the cache folder of the weights. The folder may be deleted."""
    return cache_folder() / "runtimes" / name


def fetch(name: str) -> tuple[bytes, bytes] | None:
    """Graph and weights as `keep` was given them; None where they are not there whole."""
    try:
        with place_of(name).open("rb") as file:
            if not _is_ours(os.fstat(file.fileno())):
                return None
            digest, rest = file.read(_DIGEST_BYTES), file.read()
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        return None
    if hashlib.sha256(rest).digest() != digest:
        return None
    length = int.from_bytes(rest[:_LENGTH_BYTES], "little")
    body = memoryview(rest)[_LENGTH_BYTES:]
    return bytes(body[:length]), bytes(body[length:])


def keep(name: str, graph: bytes, weights: bytes) -> None:
    """Writes both for `fetch`. Where that is not possible the next start converts again, and that is all."""
    rest = len(graph).to_bytes(_LENGTH_BYTES, "little") + graph + weights
    try:
        place_of(name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(place_of(name), hashlib.sha256(rest).digest() + rest)
    except (OSError, RuntimeError):
        pass


def _is_ours(status):
    # In a folder that several people write, a file of another one's could hold a network that calls all faces real.
    if not hasattr(os, "geteuid"):
        return True
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & 0o002
