"""Provenance that a file states: C2PA manifests by `c2pa-python` (extra `provenance`), EXIF and container facts.

Runs in a decoding process. Everything here is a statement of the file, bounded and cleaned of control characters; only
a valid C2PA signature binds one to the bytes. It says nothing about P(fake), and P(fake) nothing about it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

from tfdfd.media.formats import HEAD_BYTES, kind_of_content, read_header, tiff_texts

# Wall clock for one file; a signature covers all of its bytes.
MAX_SECONDS = 20.0
# Larger files and manifests are not read; each is far above what cameras and editors write.
MAX_BYTES = 1 << 30
MAX_MANIFEST = 8 << 20
_MOST_MANIFESTS, _MOST_VALUES, _MOST_TEXT = 64, 8, 200
# EXIF is read from this part of an image.
_IMAGE_HEAD = 1 << 20
ABSENT, VALID, INVALID, NOT_READ = STATUSES = ("absent", "valid", "invalid", "not_read")
# IPTC's digital source types for what a generative model made, wholly or in part.
GENERATED = ("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "compositeSynthetic")
_SETTINGS = {
    # No address that a file names is opened. The kernel denies it in a sealed process, too.
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}
_UNTRUSTED = "signingCredential.untrusted"
_EXIF = {271: "make", 272: "model", 305: "software", 306: "changed", 36867: "created"}
# Keys of container and stream metadata, in lower case, by the name of the fact.
_CONTAINER = {
    "creation_time": "created",
    "com.apple.quicktime.creationdate": "created",
    "com.apple.quicktime.make": "make",
    "com.apple.quicktime.model": "model",
    "com.apple.quicktime.software": "software",
    "com.android.version": "android",
    "encoder": "encoder",
    "encoded_by": "software",
    "software": "software",
    "major_brand": "brand",
}
_FACTS = ("container", "codec", "stream_encoder", *dict.fromkeys([*_EXIF.values(), *_CONTAINER.values()]))
NO_LIBRARY = "C2PA is read with an extra: pip install 'tfdfd[provenance]'"


def read_provenance(file: BinaryIO) -> dict[str, Any]:
    """The provenance of an open file.

    Returns:
        `{"c2pa": {"status", …}, "file": {…}}`, see `checked`.
    """
    return {"c2pa": _read_c2pa(file), "file": _read_facts(file)}


def not_read(reason: str) -> dict[str, Any]:
    """The provenance of a file that could not be read."""
    return {"c2pa": {"status": NOT_READ, "message": reason}, "file": {}}


def checked(value: Any) -> dict[str, Any]:
    """The provenance that a decoding process reported, rebuilt from its known fields.

    Returns:
        `c2pa`: `status`, one of `STATUSES`; for `valid`, `signer`, `generator`, `source_types` (last part of IPTC's
        addresses) and `ai_generated`; for `invalid`, `problems` (codes of the specification); for `not_read`,
        `message`. `file`: texts by name of the fact. All texts are printable and at most 200 characters.

    Raises:
        ValueError: it is not a provenance.
    """
    try:
        c2pa, status = value["c2pa"], value["c2pa"]["status"]
        facts = {name: clean(value["file"][name]) for name in _FACTS if name in value["file"]}
        if status not in STATUSES:
            raise ValueError(f"status {status!r:.50}")
        result: dict[str, Any] = {"status": status}
        if status == VALID:
            result |= {name: clean(c2pa[name]) for name in ("signer", "generator") if c2pa.get(name)}
            result["source_types"] = [clean(text) for text in c2pa["source_types"][:_MOST_VALUES]]
            result["ai_generated"] = any(text in GENERATED for text in result["source_types"])
        elif status == INVALID:
            result["problems"] = [clean(text) for text in c2pa["problems"][:_MOST_VALUES]]
        elif status == NOT_READ:
            result["message"] = clean(c2pa["message"])
        return {"c2pa": result, "file": facts}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"malformed provenance: {error}") from error


def clean(text: Any) -> str:
    """A text of the file on one line: printable characters only, cut to `_MOST_TEXT`."""
    if isinstance(text, bytes):
        text = text.partition(b"\0")[0].decode("utf-8", "replace")
    if not isinstance(text, str):
        raise TypeError(f"expected text; received {type(text).__name__}")
    text = "".join(c for c in text[: 4 * _MOST_TEXT] if c.isprintable()).strip()
    return text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 2] + " …"


def prepare() -> None:
    """Imports the C2PA library, if it is installed, and runs it once: a sealed process cannot load it any more."""
    import io

    _read_c2pa(io.BytesIO(b"\xff\xd8\xff\xd9"))


def _read_c2pa(file: BinaryIO) -> dict[str, Any]:
    try:
        import c2pa
    except ImportError:
        return {"status": NOT_READ, "message": NO_LIBRARY}
    size = file.seek(0, os.SEEK_END)
    if size > MAX_BYTES:
        return {
            "status": NOT_READ,
            "message": f"C2PA is read in files of at most {MAX_BYTES:,} bytes; this has {size:,}",
        }
    file.seek(0)
    try:
        reader = c2pa.Reader.try_create(None, file, context=c2pa.Context.from_dict(_SETTINGS))
        if reader is None:
            return {"status": ABSENT}
        with reader:
            text = reader.json()
    except c2pa.C2paError as error:
        if isinstance(error, c2pa.C2paError.NotSupported):
            return {"status": ABSENT}  # the format has no place for a manifest
        if isinstance(error, c2pa.C2paError.RemoteManifest):
            return {"status": NOT_READ, "message": "the manifest is at an address, which is not opened"}
        return {"status": INVALID, "problems": [f"unreadable: {error}"]}
    if len(text) > MAX_MANIFEST:
        return {"status": NOT_READ, "message": f"the manifest is larger than {MAX_MANIFEST:,} characters"}
    return _summary(json.loads(text))


def _summary(store: dict[str, Any]) -> dict[str, Any]:
    manifests = store.get("manifests") or {}
    active = manifests.get(store.get("active_manifest")) or {}
    if store.get("validation_state") not in ("Valid", "Trusted") or not active:
        codes = [str(one.get("code")) for one in store.get("validation_status") or []]
        return {"status": INVALID, "problems": [code for code in dict.fromkeys(codes) if code != _UNTRUSTED] or codes}
    signature = active.get("signature_info") or {}
    named = [signature.get(name) for name in ("issuer", "common_name")]
    tools = [one for one in active.get("claim_generator_info") or [] if isinstance(one, dict)]
    generator = ", ".join(f"{one.get('name', '')} {one.get('version', '')}".strip() for one in tools)
    return {
        "status": VALID,
        "signer": ", ".join(dict.fromkeys(str(name) for name in named if name)),
        "generator": generator or str(active.get("claim_generator") or ""),
        "source_types": list(dict.fromkeys(_source_types(manifests))),
    }


def _source_types(manifests: dict[str, Any]) -> Iterator[str]:
    """Digital source types of all actions, also of the files that this one was made from; generated ones first."""
    found = []
    for manifest in list(manifests.values())[:_MOST_MANIFESTS]:
        for assertion in manifest.get("assertions") or []:
            if str(assertion.get("label", "")).startswith("c2pa.actions"):
                for action in (assertion.get("data") or {}).get("actions") or []:
                    if kind := action.get("digitalSourceType"):
                        found.append(str(kind).rstrip("/").rpartition("/")[2])
    yield from sorted(found, key=lambda kind: kind not in GENERATED)


def _read_facts(file: BinaryIO) -> dict[str, str]:
    file.seek(0)
    head = file.read(HEAD_BYTES)
    if kind_of_content(head) == "image":
        texts = tiff_texts(read_header(head + file.read(_IMAGE_HEAD)).exif, _EXIF)
        facts: dict[str, Any] = dict(texts)
    else:
        from tfdfd.media.video import container_facts

        container, codec, metadata, stream = container_facts(file)
        facts = {"container": container, "codec": codec, "stream_encoder": stream.get("encoder", "")}
        for key, text in metadata.items():
            if name := _CONTAINER.get(key.lower()):
                facts.setdefault(name, text)
    return {name: text for name in facts if (text := clean(facts[name]))}
