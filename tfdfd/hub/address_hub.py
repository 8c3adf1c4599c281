"""A hub behind a web server: the files of a hub folder, fetched one by one into the cache and checked there."""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from tfdfd.hub.cache import Cache
from tfdfd.hub.errors import HubError, HubUnreachable
from tfdfd.hub.manifest import FILE, MAX_BYTES, Manifest, Version
from tfdfd.hub.pinning import VARIABLE as PIN
from tfdfd.hub.pinning import check_pin

TIMEOUT_SECONDS = 60
_BLOCK = 1 << 20


def is_address(text: str) -> bool:
    """Whether this is meant for an address rather than for a folder."""
    return "://" in text


class AddressHub:
    """Published models under an http(s) base address; any web server over a hub folder will do.

    Over https, the server is believed; over http, only this machine's, or a manifest that is pinned.

    Args:
        address: of the folder that holds the manifest.
        pin: sha256 that the manifest must have, or None.

    Raises:
        HubError: the address is of no use or not to be believed.
    """

    def __init__(self, address: str, pin: str | None = None):
        self.words = address
        self._base, self._pin = base_of_address(address), pin
        _check_trust(address, pin)
        self._digest = None

    def manifest(self) -> Manifest:
        """What the server says it holds.

        Raises:
            HubUnreachable: no answer.
            HubError: another answer than a manifest, or not the pinned one.
        """
        where = self._base + FILE
        data = b"".join(blocks_of(where, MAX_BYTES))
        check_pin(data, self._pin, where)
        self._digest = hashlib.sha256(data).hexdigest()
        return Manifest.decode(data, where)

    def folder_of(self, model: str, number: int, version: Version) -> Path:
        """The checked folder, in the cache, of a version that the manifest names.

        Raises:
            HubError: it could not be fetched, or is not what the manifest says.
            OSError: the cache cannot be written.
        """
        return Cache().keep(model, number, version, self._digest, self._fetch)

    def _fetch(self, model, number, file, target):
        where = f"{self._base}{model}/{number}/{file.path}"
        value, size = hashlib.sha256(), 0
        with target.open("wb") as sink:
            for block in blocks_of(where, file.bytes):
                value.update(block)
                size += len(block)
                sink.write(block)
        if size != file.bytes or value.hexdigest() != file.sha256:
            target.unlink()
            raise HubError(
                f"{where} has {size:,} bytes with the sha256 {value.hexdigest()}, but the manifest says {file.bytes:,} "
                f"with {file.sha256}; nothing of it was loaded."
            )


def base_of_address(address: str) -> str:
    """The address with a slash at its end.

    Raises:
        HubError: it is no plain http(s) address.
    """
    try:
        parts = urlsplit(address)
        host = parts.hostname
        _ = parts.port
    except ValueError as error:
        raise HubError(f"$TFDFD_HUB or --from is no address: {error}; received {address!r}.") from error
    plain = not (parts.username or parts.password or parts.query or parts.fragment)
    if parts.scheme not in ("http", "https") or not host or not plain or not re.fullmatch(r"[!-~]+", address):
        raise HubError(
            "$TFDFD_HUB or --from must be a folder, or an http(s) address without user, query and fragment, such as "
            f"https://models.example.org/tfdfd; received {address!r}."
        )
    return address.rstrip("/") + "/"


def _check_trust(address, pin):
    parts = urlsplit(address)
    if parts.scheme == "http" and not _is_this_machine(parts.hostname) and pin is None:
        raise HubError(
            f"{address} is plain http, which anybody on the way can alter: use https, or set ${PIN} to the sha256 of "
            "its manifest, as 'tfdfd publish' printed it."
        )


def _is_this_machine(host):
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, reply, code, message, headers, address):
        if urlsplit(address).scheme not in ("https", urlsplit(request.full_url).scheme):
            raise HubError(f"{request.full_url} leads to {address}: only redirects to https are followed.")
        return super().redirect_request(request, reply, code, message, headers, address)


def blocks_of(where: str, most: int) -> Iterator[bytes]:
    """The reply of a web server in blocks, at most `most` bytes.

    Raises:
        HubUnreachable: no answer, or the server has trouble.
        HubError: it answers something else.
    """
    try:
        # http and https only, see `base_of_address` and `_Redirects`.
        with urllib.request.build_opener(_Redirects).open(where, timeout=TIMEOUT_SECONDS) as reply:
            size = 0
            while block := reply.read(_BLOCK):
                size += len(block)
                if size > most:
                    raise HubError(f"{where} is larger than the {most:,} bytes that it may have; it was not loaded.")
                yield block
            if reply.length:
                raise HubUnreachable(f"{where} broke off {reply.length:,} bytes before its end; try again.")
    except urllib.error.HTTPError as error:
        kind = HubUnreachable if error.code >= 500 or error.code in (408, 429) else HubError
        with error:
            raise kind(f"{where} could not be fetched: the server answers {error.code} {error.reason}.") from error
    except (OSError, http.client.HTTPException) as error:
        raise HubUnreachable(f"{where} could not be fetched ({error}).") from error
