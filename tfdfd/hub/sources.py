"""Sources of published models: a folder, an http(s) address, and the local cache.

Each has `name`, `manifest()` and `folder_of(model, number, version)`, which returns a checked folder on this machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import ipaddress
import os
import queue
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tfdfd.files import locked, sync_folder, temporary_beside, user_cache, write_atomically
from tfdfd.hub import HubError, HubUnreachable
from tfdfd.hub.manifest import FILE, MAX_BYTES, PIN, File, Manifest, Version, check_folder, check_pin, refuse_links
from tfdfd.hub.signing import check_signed, location_of
from tfdfd.weights.store import digest

CACHE = "TFHUB_CACHE_DIR"
# Limit of each wait and of the whole: this time, and a second more for each `BYTES_PER_SECOND` of the largest answer.
TIMEOUT_SECONDS, BYTES_PER_SECOND = 60, 128 << 10
_BLOCK = 1 << 20


class Cache:
    """Versions fetched earlier from any hub, in `$TFHUB_CACHE_DIR/tfdfd`.

    A version lies in `<model>/<version>-<digest>`, so hubs that differ in it do not collide. It is there whole and
    checked, or not at all.

    Args:
        source: only versions that came by the manifest with this digest; None: all.

    Raises:
        HubError: `$TFHUB_CACHE_DIR` is invalid.
    """

    name = "the cache"

    def __init__(self, source: str | None = None):
        self.root = cache_folder()
        self._source = source

    def manifest(self) -> Manifest:
        """The versions in the cache."""
        known = self._manifest()
        if self._source is None:
            return known
        models = {
            model: {number: version for number, version in versions.items() if version.source == self._source}
            for model, versions in known.models.items()
        }
        return Manifest({model: versions for model, versions in models.items() if versions})

    def folder_of(self, model: str, number: int, version: Version) -> Path:
        """The checked folder of a version.

        Raises:
            HubError: a file was altered.
        """
        check_owner(self.root)
        check_signed(version, model, number, None, self.name)
        return self._checked(model, number, version)

    def _checked(self, model: str, number: int, version: Version) -> Path:
        folder = self.root / model / f"{number}-{version.digest[:16]}"
        try:
            check_folder(self.root, folder, version, f"tfdfd/{model}/{number}")
        except HubError as error:
            raise HubError(f"{error} This is the cache: delete {folder}, and it is fetched again.") from error
        return folder

    def keep(
        self,
        model: str,
        number: int,
        version: Version,
        source: str,
        fetch: Callable[[str, int, File, Path], None],
    ) -> Path:
        """The checked folder of a version, fetched if it is absent.

        An interrupted fetch leaves nothing that is taken for a version, and files that had arrived are not fetched
        again.

        Args:
            model: name of the model.
            number: version number.
            version: files that the version must consist of.
            source: digest of the manifest that lists them.
            fetch: called as `(model, number, file, target)` for each file.

        Raises:
            HubError: the fetched files differ from the manifest.
            OSError: the cache cannot be written.
        """
        folder = self.root / model / f"{number}-{version.digest[:16]}"
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_owner(self.root)
        if not folder.exists():
            with locked(self.root, "tfdfd", wait=True):
                if not folder.exists():
                    self._fetch(folder, model, number, version, fetch)
        self._checked(model, number, version)
        known = self._manifest().models.get(model, {}).get(number)
        if known != version or known.source != source or known.signatures != version.signatures:
            with locked(self.root, "tfdfd", wait=True):
                added = self._manifest().with_version(model, number, replace(version, source=source))
                write_atomically(self.root / FILE, added.encoded())
        return folder

    def _fetch(
        self, folder: Path, model: str, number: int, version: Version, fetch: Callable[[str, int, File, Path], None]
    ) -> None:
        partial = self.root / f".{model}-{number}-{version.digest[:16]}.part"
        for file in version.files:
            target = partial / file.path
            if not (target.is_file() and target.stat().st_size == file.bytes and digest(target) == file.sha256):
                fetch(model, number, file, target)
        check_folder(self.root, partial, version, f"tfdfd/{model}/{number}")
        for path, _, _ in os.walk(partial):
            sync_folder(path)
        folder.parent.mkdir(exist_ok=True)
        os.rename(partial, folder)

    def _manifest(self) -> Manifest:
        path = self.root / FILE
        if not path.is_file():
            return Manifest()
        check_owner(self.root)
        return Manifest.decode(path.read_bytes(), str(path))


class FolderHub:
    """Published models in a folder: `manifest.json`, and `<model>/<version>/` as TF Serving reads it.

    Without a pin, files are checked and loaded in place: a user who can write there after the check can also write
    another manifest, and is trusted. With a pin, files are copied to the cache and the copy is checked.

    Args:
        root: the folder.
        name: its name in messages.
        pin: sha256 that the manifest must have, or None.
        signed: whether signatures are checked, see `tfdfd.hub.signing`; not in the package.
    """

    def __init__(self, root: Path, name: str, pin: str | None = None, signed: bool = False):
        self.name = name
        self._root, self._pin, self._signed = root, pin, signed
        self._digest: str | None = None

    def manifest(self) -> Manifest:
        """The versions that the folder's manifest lists.

        Raises:
            HubError: the folder has no manifest, or one that is invalid or not the pinned one.
        """
        data = read_manifest(self._root, self.name)
        check_pin(data, self._pin, str(self._root / FILE))
        self._digest = hashlib.sha256(data).hexdigest()
        return Manifest.decode(data, str(self._root / FILE))

    def folder_of(self, model: str, number: int, version: Version) -> Path:
        """The checked folder of a version in the manifest.

        Raises:
            HubError: its files differ from the manifest.
        """
        if self._pin is not None:
            return self.fetch(model, number, version)
        self._check_signed(model, number, version)
        folder = self._root / model / str(number)
        check_folder(self._root, folder, version, f"tfdfd/{model}/{number}")
        return folder

    def fetch(self, model: str, number: int, version: Version) -> Path:
        """The checked folder of a copy in the cache, which works without this hub.

        Raises:
            HubError: the files differ from the manifest.
            OSError: the cache cannot be written.
        """
        self._check_signed(model, number, version)
        return Cache().keep(model, number, version, self._digest, self._copy)  # type: ignore[arg-type]

    def _check_signed(self, model: str, number: int, version: Version) -> None:
        if self._signed:
            check_signed(version, model, number, location_of(str(self._root)), self.name)

    def _copy(self, model: str, number: int, file: File, target: Path) -> None:
        source = self._root / model / str(number) / file.path
        refuse_links(self._root, source, f"tfdfd/{model}/{number}")
        if not source.is_file():
            raise HubError(f"tfdfd/{model}/{number} lacks {source}: publish or copy it again.")
        store(target, blocks_in(source), file, str(source))


class AddressHub:
    """Published models under an http(s) base address; any web server over a hub folder will do.

    Over https the server is trusted; over http only this machine's, or a pinned manifest.

    Args:
        address: address of the folder that holds the manifest.
        pin: sha256 that the manifest must have, or None.

    Raises:
        HubError: the address is invalid or not trusted.
    """

    def __init__(self, address: str, pin: str | None = None):
        self.name = address
        self._base, self._pin = base_of_address(address), pin
        parts = urlsplit(address)
        if parts.scheme == "http" and not _is_this_machine(parts.hostname) and pin is None:
            raise HubError(
                f"{address} is plain http, which can be altered on the way: use https, or set ${PIN} to the sha256 of "
                "its manifest, as printed by 'tfdfd publish'."
            )
        self._digest: str | None = None

    def manifest(self) -> Manifest:
        """The versions that the server lists.

        Raises:
            HubUnreachable: no answer.
            HubError: the answer is not a manifest, or not the pinned one.
        """
        url = self._base + FILE
        data = b"".join(blocks_of(url, MAX_BYTES))
        check_pin(data, self._pin, url)
        self._digest = hashlib.sha256(data).hexdigest()
        return Manifest.decode(data, url)

    def folder_of(self, model: str, number: int, version: Version) -> Path:
        """The checked folder, in the cache, of a version in the manifest.

        Raises:
            HubError: it could not be fetched, or differs from the manifest.
            OSError: the cache cannot be written.
        """
        check_signed(version, model, number, location_of(self._base), self.name)
        return Cache().keep(model, number, version, self._digest, self._fetch)  # type: ignore[arg-type]

    fetch = folder_of

    def _fetch(self, model: str, number: int, file: File, target: Path) -> None:
        url = f"{self._base}{model}/{number}/{file.path}"
        store(target, blocks_of(url, file.bytes), file, url)


class OtherFile(HubError):
    """A file that was fetched does not have the expected size or digest."""


def store(target: Path, blocks: Iterable[bytes], file: File, source: str) -> None:
    """Writes a fetched file if it has the expected size and digest; otherwise nothing is left.

    Args:
        target: path to write; missing folders are made.
        blocks: content.
        file: expected size and digest.
        source: where the content comes from, for errors.

    Raises:
        OtherFile: the content differs.
        OSError: the file cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    value, size = hashlib.sha256(), 0
    try:
        with temporary_beside(target) as sink:
            for block in blocks:
                size += len(block)
                if size > file.bytes:
                    break
                value.update(block)
                sink.write(block)
            if size != file.bytes or value.hexdigest() != file.sha256:
                has = f"more than {file.bytes:,}" if size > file.bytes else f"{size:,}"
                raise OtherFile(
                    f"{source} is not the expected file: it has {has} bytes with the sha256 {value.hexdigest()}, "
                    f"expected {file.bytes:,} bytes with {file.sha256}; nothing was stored."
                )
    finally:
        with contextlib.suppress(OSError):  # the folder is not empty
            target.parent.rmdir()


def read_manifest(root: Path, name: str) -> bytes:
    """The bytes of a hub folder's manifest.

    Raises:
        HubError: there is none, or it is a link or too large.
    """
    path = root / FILE
    if path.is_symlink() or not path.is_file():
        raise HubError(
            f"{name} has no file {path}, which 'tfdfd publish' writes. A manifest that is a link is not read."
        )
    if path.stat().st_size > MAX_BYTES:
        raise HubError(f"{path} is larger than {MAX_BYTES:,} bytes, so it is not a manifest.")
    return path.read_bytes()


def is_address(text: str) -> bool:
    """Whether this is meant as an address rather than a folder."""
    return "://" in text


def base_of_address(address: str) -> str:
    """The address with a slash at its end.

    Raises:
        HubError: it is not a plain http(s) address.
    """
    try:
        parts = urlsplit(address)
        host = parts.hostname
        _ = parts.port
    except ValueError as error:
        raise HubError(f"$TFDFD_HUB or --from is not an address: {error}; received {address!r}.") from error
    plain = not (parts.username or parts.password or parts.query or parts.fragment)
    if parts.scheme not in ("http", "https") or not host or not plain or not re.fullmatch(r"[!-~]+", address):
        raise HubError(
            "$TFDFD_HUB or --from must be a folder, or an http(s) address without user, query and fragment, such as "
            f"https://models.example.org/tfdfd; received {address!r}."
        )
    return address.rstrip("/") + "/"


def _is_this_machine(host: Any) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request: Any, reply: Any, code: int, message: str, headers: Any, address: str) -> Any:
        # Elsewhere, another server would decide, or one that only this machine reaches would be asked.
        before, after = urlsplit(request.full_url), urlsplit(address)
        is_upgrade = (before.scheme, after.scheme) == ("http", "https") and before.hostname == after.hostname
        if not is_upgrade and (before.scheme, before.netloc) != (after.scheme, after.netloc):
            reply.close()
            raise HubError(
                f"{request.full_url} leads to {address}: redirects are only followed on the same server, and from http "
                "to https; give the final address."
            )
        return super().redirect_request(request, reply, code, message, headers, address)


def blocks_of(url: str, most: int) -> Iterator[bytes]:
    """The reply of a web server in blocks, at most `most` bytes.

    Raises:
        HubUnreachable: no answer, or a server error.
        HubError: another answer, or a larger one.
    """
    seconds = TIMEOUT_SECONDS + most / BYTES_PER_SECOND
    end = time.monotonic() + seconds
    late = HubUnreachable(f"{url} was not received within {seconds:,.0f} s; try again, or copy the hub to a folder.")
    try:
        with _opened(url, end, late) as reply:
            size = 0
            # `read` would wait for a whole block, however slowly it comes.
            while block := reply.read1(_BLOCK):
                if time.monotonic() > end:
                    raise late
                size += len(block)
                if size > most:
                    raise HubError(f"{url} is larger than the {most:,} bytes allowed for it; it was not loaded.")
                yield block
            stated = reply.headers.get("Content-Length", "")
            if stated.isascii() and stated.isdigit() and size < int(stated):
                raise HubUnreachable(f"{url} broke off {int(stated) - size:,} bytes before its end; try again.")
    except urllib.error.HTTPError as error:
        kind = HubUnreachable if error.code >= 500 or error.code in (408, 429) else HubError
        with error:
            raise kind(f"{url} could not be fetched: the server answers {error.code} {error.reason}.") from error
    except (OSError, http.client.HTTPException) as error:
        raise HubUnreachable(f"{url} could not be fetched ({error}).") from error


def _opened(url: str, end: float, late: HubUnreachable) -> Any:
    """The reply with its headers. A server that sends them one by one is given up by its thread's end."""
    replies: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def open_url() -> None:
        try:
            # http and https only, see `base_of_address` and `_Redirects`.
            reply = urllib.request.build_opener(_Redirects).open(url, timeout=TIMEOUT_SECONDS)
        except BaseException as error:
            reply = error
        if time.monotonic() > end and hasattr(reply, "close"):  # a reply, or an error that holds one
            reply.close()
        replies.put(reply)

    threading.Thread(target=open_url, daemon=True).start()
    try:
        reply = replies.get(timeout=max(0, end - time.monotonic()))
    except queue.Empty:
        raise late from None
    if isinstance(reply, BaseException):
        raise reply
    return reply


def blocks_in(path: Path) -> Iterator[bytes]:
    """The content of a local file in blocks."""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


def check_owner(root: Path) -> None:
    """Raises `HubError` if a cache belongs to another user or is writable by others."""
    # Whoever can write there can replace a manifest, and with it a network by one that calls all faces real.
    if not hasattr(os, "geteuid") or not root.exists():
        return
    status = root.stat()
    if status.st_uid not in (os.geteuid(), 0):
        raise HubError(f"the cache {root} belongs to another user; set ${CACHE} to a folder of your own.")
    if status.st_mode & 0o022:
        who = "everybody" if status.st_mode & 0o002 else "its group"
        raise HubError(
            f"the cache {root} is not used, since {who} may write there: run 'chmod go-w {root}', or set ${CACHE} to a "
            "folder of your own."
        )


def cache_folder() -> Path:
    """`$TFHUB_CACHE_DIR/tfdfd`, or `tfdfd/hub` in the user's cache folder.

    Raises:
        HubError: the variable does not name a local folder, or there is no home folder.
    """
    given = os.environ.get(CACHE)
    if given:
        if "://" in given:
            raise HubError(f"${CACHE} must be a local folder for models of tfdfd; received {given!r}.")
        return Path(given).absolute() / "tfdfd"
    try:
        return (user_cache() / "hub").absolute()
    except RuntimeError as error:
        raise HubError(f"there is no home folder for a cache ({error}); set ${CACHE}.") from error
