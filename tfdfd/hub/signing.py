"""Signatures of published versions: Ed25519 keys of publishers, and the user's list of trusted and revoked keys.

A manifest holds, for each version, signatures of its handle and of the digest of its files. So a version keeps the
signature of its publisher when others publish beside it and when it is copied into the cache, and one file changes at
once. Old tfdfd versions ignore signatures.

The library is `cryptography`: it signs bytes, offline, with keys that OpenSSL makes. `model-signing` would sign the
files a second time, although the manifest lists their digests, and brings a client of an online service.

A signature does not tell whether a hub withholds a newer version; `$TFDFD_HUB_SHA256` does.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfdfd.files import read_regular, write_atomically
from tfdfd.hub import PREFIX, HubError, HubWarning
from tfdfd.hub.manifest import Signature, Version
from tfdfd.text import optional_import

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

STORE, PASSWORD, UNSIGNED = "TFDFD_TRUST", "TFDFD_KEY_PASSWORD", "TFDFD_UNSIGNED"
# In place of a hub: all of them.
ANY = "*"
_SCHEMA = 1
_MAX_KEY_BYTES, _MAX_STORE_BYTES = 16 << 10, 1 << 20
_SHOWN = 16
_HOW = "make one with 'openssl genpkey -algorithm ed25519 -out key.pem'"


@dataclass(frozen=True)
class TrustedKey:
    """A publisher's key in the user's list.

    Attributes:
        key: public key, 64 hex digits.
        name: name of its owner, as the user calls it.
        hubs: hubs whose versions must be signed by such a key; `ANY` for all.
        revoked: signatures by it are worth nothing.
    """

    key: str
    name: str
    hubs: tuple[str, ...] = ()
    revoked: bool = False

    def __str__(self) -> str:
        return f"{self.name} ({self.key[:_SHOWN]}{', revoked' if self.revoked else ''})"


def store_file() -> Path:
    """`$TFDFD_TRUST`, or `tfdfd/trust.json` in the user's folder of settings.

    Raises:
        HubError: there is no home folder.
    """
    if os.environ.get(STORE):
        return Path(os.environ[STORE])
    try:
        return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "tfdfd", "trust.json")
    except RuntimeError as error:
        raise HubError(f"there is no home folder for the list of trusted keys ({error}); set ${STORE}.") from error


def trusted_keys() -> dict[str, TrustedKey]:
    """The user's list by public key; empty if there is none.

    Raises:
        HubError: the list is invalid, or others may write it.
    """
    file = store_file()
    try:
        data = read_regular(file, _MAX_STORE_BYTES)
        mode, owner = file.stat().st_mode, file.stat().st_uid
    except FileNotFoundError:
        if os.environ.get(STORE):
            raise HubError(f"${STORE} is {file}, which is not there; 'tfdfd models trust KEY.pem' makes it.") from None
        return {}
    except OSError as error:
        raise HubError(f"the list of trusted keys {file} cannot be read: {error.strerror}.") from error
    if hasattr(os, "geteuid") and (owner not in (os.geteuid(), 0) or mode & 0o022):
        raise HubError(f"others may write the list of trusted keys {file}: run 'chown $USER' and 'chmod go-w' on it.")
    try:
        content = json.loads(data)
        if content["schema"] != _SCHEMA:
            raise ValueError(f"schema {content['schema']!r}; expected {_SCHEMA}")
        return {key: _trusted_key(key, about) for key, about in content["keys"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HubError(f"{file} is not a list of trusted keys: {type(error).__name__}: {error}.") from error


def _trusted_key(key: str, about: dict[str, Any]) -> TrustedKey:
    name, hubs, revoked = about["name"], about["hubs"], about["revoked"]
    texts = isinstance(hubs, list) and all(isinstance(text, str) for text in (name, *hubs))
    if not re.fullmatch("[0-9a-f]{64}", key) or not texts or not isinstance(revoked, bool):
        raise ValueError(f"the key {key!r:.80} must be 64 hex digits with name, hubs and revoked")
    return TrustedKey(key, name, tuple(hubs), revoked)


def trust(key: str | os.PathLike, name: str | None = None, hub: str | None = None, revoked: bool = False) -> TrustedKey:
    """Adds a publisher's key to the user's list, or a hub to a key in it, or revokes the key.

    Args:
        key: PEM file of the public key, or its 64 hex digits.
        name: name of the owner; None: as before, or the name of the file.
        hub: folder or address whose versions must be signed from now on; None: all hubs.
        revoked: whether the key is revoked, for good: it is not trusted again.

    Raises:
        HubError: the key or the list is invalid, or the key was revoked before.
        OSError: the list cannot be written.
    """
    public = os.fspath(key) if re.fullmatch("[0-9a-f]{64}", os.fspath(key)) else public_key(key)
    file = store_file()
    keys = trusted_keys() if file.exists() else {}
    before = keys.get(public)
    if before and before.revoked and not revoked:
        raise HubError(f"the key of {before} was revoked; its owner must make another one. {file} has the list.")
    name = name or (before.name if before else Path(os.fspath(key)).stem[:_SHOWN])
    hubs = (before.hubs if before else ()) + (() if revoked else (ANY if hub is None else location_of(hub),))
    keys[public] = TrustedKey(public, name, tuple(dict.fromkeys(hubs)), revoked)
    entries = {one.key: {"name": one.name, "hubs": list(one.hubs), "revoked": one.revoked} for one in keys.values()}
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(file, json.dumps({"schema": _SCHEMA, "keys": entries}, indent=1) + "\n")
    file.chmod(0o600)
    return keys[public]


def location_of(hub: str) -> str:
    """A hub's folder or address in the spelling of the list."""
    return hub.rstrip("/") + "/" if "://" in hub else os.path.realpath(hub)


def public_key(file: str | os.PathLike) -> str:
    """The 64 hex digits of a PEM file with an Ed25519 public key.

    Raises:
        HubError: the file is not such a key.
    """
    _import()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    data = _read_key(file)
    try:
        key = serialization.load_pem_public_key(data)
    except ValueError as error:
        raise HubError(
            f"{file} is not a public key in PEM form ({error}): "
            "'openssl pkey -in key.pem -pubout -out NAME.pem' makes it."
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise HubError(f"{file} is a key of another kind than Ed25519; {_HOW}.")
    return key.public_bytes_raw().hex()


def private_key(file: str | os.PathLike) -> Ed25519PrivateKey:
    """The Ed25519 key of a PEM file, encrypted with `$TFDFD_KEY_PASSWORD` or not at all.

    Raises:
        HubError: the file is not such a key, or others may read it.
    """
    _import()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    data, password = _read_key(file), os.environ.get(PASSWORD)
    try:
        key = serialization.load_pem_private_key(data, password.encode() if password else None)
    except (ValueError, TypeError) as error:
        raise HubError(
            f"{file} is not a private key in PEM form, or ${PASSWORD} is not its password ({error}); {_HOW}."
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise HubError(f"{file} is a key of another kind than Ed25519; {_HOW}.")
    if os.name == "posix" and os.stat(file).st_mode & 0o077:
        raise HubError(f"others may read the private key {file}: run 'chmod 600 {file}'.")
    return key


def _read_key(file: str | os.PathLike) -> bytes:
    try:
        return read_regular(file, _MAX_KEY_BYTES)
    except OSError as error:
        raise HubError(f"the key {os.fspath(file)} cannot be read: {error.strerror}.") from error


def _import() -> None:
    with optional_import("signatures need the library cryptography", "sign", kind=HubError):
        import cryptography.hazmat.primitives.asymmetric.ed25519  # noqa: F401


def signed(version: Version, model: str, number: int, key: Ed25519PrivateKey) -> Version:
    """The version with a signature by the key, in addition to those of others."""
    public = key.public_key().public_bytes_raw().hex()
    others = tuple(one for one in version.signatures if one.key != public)
    return replace(version, signatures=(*others, Signature(public, key.sign(_statement(version, model, number)).hex())))


def _statement(version: Version, model: str, number: int) -> bytes:
    return f"tfdfd hub version, 1\n{PREFIX}{model}/{number}\n{version.digest}\n".encode()


def _is_valid(signature: Signature, statement: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(signature.key)).verify(
            bytes.fromhex(signature.value), statement
        )
    except (InvalidSignature, ValueError):
        return False
    return True


def signers(version: Version) -> list[str]:
    """Who signed a version, for people; `check_signed` tells whether the signatures are valid.

    Raises:
        HubError: the user's list is invalid.
    """
    known = trusted_keys()
    unknown = "an unknown key"
    return [str(known.get(one.key) or TrustedKey(one.key, unknown)) for one in version.signatures]


def check_signed(version: Version, model: str, number: int, location: str | None, hub: str) -> None:
    """Checks the signatures of a version; nothing of it is loaded before.

    Once a key is trusted for a hub, its versions must be signed by such a key. Invalid signatures, and those by revoked
    keys alone, are refused in any hub. With `$TFDFD_UNSIGNED=allow`, a `HubWarning` takes the place of the error.

    Args:
        version: to check.
        model: its name.
        number: its number.
        location: location of the hub, see `location_of`; None: the cache.
        hub: name of the hub in messages.

    Raises:
        HubError: the version is refused, or the user's list is invalid.
    """
    keys = trusted_keys()
    needed = [key for key in keys.values() if not key.revoked and ({ANY, location} & set(key.hubs))]
    if not needed and not version.signatures:
        return
    if needed or keys:
        _import()
    elif not _is_installed():  # nobody asked for signatures
        return
    problem = _problem(version, model, number, keys, needed)
    if problem is None:
        return
    message = f"{PREFIX}{model}/{number} of {hub} {problem}"
    if os.environ.get(UNSIGNED) == "allow":
        warnings.warn(f"{message}; used all the same, as ${UNSIGNED} says.", HubWarning, stacklevel=3)
        return
    raise HubError(
        f"{message}; nothing was loaded. Ask its publisher, trust a key with 'tfdfd models trust KEY.pem', or set "
        f"{UNSIGNED}=allow."
    )


def _problem(
    version: Version, model: str, number: int, keys: dict[str, TrustedKey], needed: Sequence[TrustedKey]
) -> str | None:
    statement = _statement(version, model, number)
    by = {one.key: str(keys.get(one.key) or one.key[:_SHOWN]) for one in version.signatures}
    invalid = [by[one.key] for one in version.signatures if not _is_valid(one, statement)]
    if invalid:
        return f"has a signature of {invalid[0]} that is not of this version: it was altered"
    if by and all(key in keys and keys[key].revoked for key in by):
        return f"is signed by a revoked key, that of {', '.join(by.values())}"
    if needed and not any(key.key in by for key in needed):
        trusted = ", ".join(map(str, needed))
        return f"is signed by {', '.join(by.values())}, not by {trusted}" if by else f"is not signed by {trusted}"
    return None


def _is_installed() -> bool:
    try:
        _import()
    except HubError:
        return False
    return True
