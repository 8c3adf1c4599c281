"""Stripped SavedModels of bundled weights: published files without the values that the weights file already has.

`saved_models/NAME.tar.xz` holds a version that `tfdfd publish` made and proved. Its files of variables are lists of
pieces: names of arrays in the weights file, and the bytes between them. `restore` puts the version together again,
byte by byte what was published, in a fraction of a second and without TensorFlow. `python -m tools.strip_saved_models`
writes the archives.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

from tfdfd.hub import HubError
from tfdfd.weights import WeightRecord
from tfdfd.weights.store import CARD

SUFFIX = ".tar.xz"
# Members of an archive besides the version's files: facts of the card that the record does not have, and for each file
# of variables its pieces, [name of an array or null, bytes].
FACTS, PIECES = "facts.json", "pieces.json"
# Keys of a record that describe its weights file; in the card of a version they are under `weights`.
OF_WEIGHTS = ("file", "sha256", "bytes", "layout")


def restore(archive: Path, record: WeightRecord, weights: Path, folder: Path) -> bool:
    """Writes the published version of `record` to a new folder.

    Returns:
        False, and writes nothing, if the archive is missing or was made of other weights.

    Raises:
        HubError: the archive is damaged.
        OSError: the folder cannot be written.
    """
    try:
        import lzma
    except ImportError:  # this Python was built without
        return False
    try:
        with tarfile.open(archive, "r:xz") as stored:
            contents = {member.name: stored.extractfile(member).read() for member in stored}  # type: ignore[union-attr]
        facts, pieces = json.loads(contents.pop(FACTS)), json.loads(contents.pop(PIECES))
    except FileNotFoundError:
        return False
    except (tarfile.TarError, lzma.LZMAError, EOFError, KeyError, ValueError) as error:
        raise HubError(f"{archive} is damaged ({error}): install tfdfd again.") from error
    if facts["weights"]["sha256"] != record.sha256:
        return False
    data = weights.read_bytes()
    contents[facts["weights"]["file"]] = data
    arrays = array_bytes(weights)
    for path, parts in pieces.items():
        contents[path] = _joined(parts, contents[path], arrays)
    for path, file in facts["files"].items():
        if hashlib.sha256(contents.get(path, b"")).hexdigest() != file["sha256"]:
            raise HubError(f"{path} in {archive} is not what was published: install tfdfd again.")
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(contents[path])
    known = {name: value for name, value in record.card.items() if name not in OF_WEIGHTS}
    (folder / CARD).write_text(json.dumps(known | facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return True


def _joined(parts: list[list[Any]], between: bytes, arrays: dict[str, bytes]) -> bytes:
    joined, position = [], 0
    for name, size in parts:
        if name is None:
            joined.append(between[position : position + size])
            position += size
        else:
            joined.append(arrays[name])
    return b"".join(joined)


def array_bytes(weights: Path) -> dict[str, bytes]:
    """Returns the bytes of the arrays of a safetensors file, as a SavedModel stores them."""
    from tfdfd.weights.reading import read_safetensors
    from tfdfd.weights.saving import expand

    arrays = expand(read_safetensors(weights), str(weights))
    return {name: values.astype(values.dtype.newbyteorder("<")).tobytes() for name, values in arrays.items()}
