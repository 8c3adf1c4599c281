"""Publishes bundled weights and writes the SavedModels without their numbers, which the wheel includes.

    python -m tools.strip_saved_models [HANDLE…]

Writes `saved_models/NAME.tar.xz` for each handle (default: all bundled weights that have no base and no members, and no
SavedModel in `saved_models/`). Run it after the weights or the format of published models changed; `tfdfd.hub.stripped`
describes the archives.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from tfdfd.files import write_atomically
from tfdfd.hub.publish import publish
from tfdfd.hub.stripped import FACTS, PIECES, SUFFIX, array_bytes
from tfdfd.weights import WeightRecord, list_records
from tfdfd.weights.store import CARD, PREFIX, locate, read_card_file

TARGET = Path(__file__).parents[1] / "saved_models"
_VARIABLES = "variables/variables.data-00000-of-00001"
# Shorter arrays are not worth their names.
_FEWEST_BYTES = 32


def main(handles: list[str]) -> None:
    for handle in handles or [name for name, record in list_records().items() if can_be_stripped(record)]:
        record, weights = locate(handle)
        if not can_be_stripped(record):
            raise SystemExit(f"{handle} builds on other weights, or has a SavedModel in {TARGET}.")
        with tempfile.TemporaryDirectory() as hub:
            published = publish(handle, hub, 1)
            path = TARGET / f"{published.handle.model}{SUFFIX}"
            write_atomically(path, strip(published.folder, record, weights))
        sys.stdout.write(f"{path}: {path.stat().st_size:,} bytes\n")


def can_be_stripped(record: WeightRecord) -> bool:
    """Returns whether the numbers of a SavedModel are in one file, and the SavedModel itself is not bundled."""
    published = (TARGET / record.handle.removeprefix(PREFIX)).is_dir()
    return record.carried and not (published or record.base or record.members)


def strip(folder: Path, record: WeightRecord, weights: Path) -> bytes:
    """Returns the archive of a published version."""
    card = read_card_file(folder / CARD)
    facts = {name: value for name, value in card.items() if record.card.get(name) != value}
    arrays, pieces, contents = array_bytes(weights), {}, {}
    for path in card["files"]:
        if path == card["weights"]["file"]:
            continue
        contents[path] = (folder / path).read_bytes()
        if path.endswith(_VARIABLES):
            pieces[path], contents[path] = _pieces(contents[path], arrays)
    contents |= {FACTS: json.dumps(facts).encode(), PIECES: json.dumps(pieces).encode()}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:xz", preset=9) as packed:
        for path, data in sorted(contents.items()):
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            packed.addfile(entry, io.BytesIO(data))
    return archive.getvalue()


def _pieces(data: bytes, arrays: dict[str, bytes]) -> tuple[list[list[Any]], bytes]:
    """Pieces of a file of variables: each array wherever its bytes are, the largest first, and the bytes between."""
    taken: list[tuple[int, int, str]] = []
    for values, name in sorted({values: name for name, values in arrays.items()}.items(), key=lambda one: -len(one[0])):
        start = data.find(values) if len(values) >= _FEWEST_BYTES else -1
        while start >= 0:
            end = start + len(values)
            overlapping = [last for first, last, _ in taken if first < end and last > start]
            if not overlapping:
                taken.append((start, end, name))
            start = data.find(values, max(overlapping, default=end))
    parts, between, position = [], [], 0
    for start, end, name in [*sorted(taken), (len(data), len(data), "")]:
        if start > position:
            parts.append([None, start - position])
            between.append(data[position:start])
        if name:
            parts.append([name, end - start])
        position = end
    return parts, b"".join(between)


if __name__ == "__main__":
    main(sys.argv[1:])
