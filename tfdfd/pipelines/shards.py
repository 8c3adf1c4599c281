"""A folder of shards and its index `shards.json`: what each holds, and that none has been cut short."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tfdfd.files import write_atomically

INDEX = "shards.json"
ENDING = ".tfrecord"
_SCHEMA = 1


@dataclass(frozen=True)
class Shard:
    """One file of crops.

    Attributes:
        path: of the file; in the index its name.
        split: of all crops in it, or None.
        examples: how many crops.
        real: how many of them are real.
        fake: how many are fake.
        methods: how many of each method, by name.
        bytes: size of the file.
        sha256: of the file.
        plan: SHA-256 of what was to be written, by which a shard is recognised as done.
    """

    path: str
    split: str | None
    examples: int
    real: int
    fake: int
    methods: dict[str, int]
    bytes: int
    sha256: str
    plan: str


def is_packed(folder) -> bool:
    """Whether `folder` is one of shards."""
    return isinstance(folder, str | os.PathLike) and (Path(folder) / INDEX).is_file()


def write_index(folder: str | os.PathLike, shards: Iterable[Shard], complete: bool) -> None:
    """Writes `shards.json`, at once or not at all."""
    entries = [asdict(shard) | {"path": Path(shard.path).name} for shard in shards]
    text = json.dumps({"schema": _SCHEMA, "complete": complete, "shards": entries}, indent=1) + "\n"
    write_atomically(Path(folder) / INDEX, text)


def read_index(folder: str | os.PathLike) -> tuple[list[Shard], bool]:
    """The shards that the index lists, with paths in `folder`, and whether it is complete.

    Raises:
        ValueError: it is no index of this form.
    """
    file = Path(folder) / INDEX
    try:
        index = json.loads(file.read_text("utf-8"))
        if index["schema"] != _SCHEMA:
            raise ValueError(f"schema {index['schema']}; expected {_SCHEMA}")
        shards = [Shard(**entry | {"path": str(file.with_name(entry["path"]))}) for entry in index["shards"]]
        return shards, index["complete"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no index of shards as `tfdfd pack` writes it: {error}") from error


def open_shards(folder: str | os.PathLike, split: str | None = None) -> list[Shard]:
    """The shards of a split (None: all), each there and of its full size.

    Raises:
        ValueError: packing was not finished, there is no such split, or a shard is missing or has another size; names
            the shard.
    """
    shards, complete = read_index(folder)
    if not complete:
        raise ValueError(f"{folder}: packing was not finished; run the same `tfdfd pack` again, it goes on from there.")
    for shard in shards:
        size = os.path.getsize(shard.path) if os.path.isfile(shard.path) else None
        if size != shard.bytes:
            found = "is missing" if size is None else f"has {size:,} bytes: it was truncated or replaced"
            raise ValueError(
                f"{shard.path} {found}; {INDEX} says {shard.bytes:,} bytes. Run `tfdfd pack` again, it writes that "
                "shard anew."
            )
    chosen = [shard for shard in shards if split is None or shard.split == split]
    if not chosen:
        known = sorted({str(shard.split) for shard in shards})
        raise ValueError(
            f"{folder} has no shard of split {split!r} but {known}; take all: --split none of "
            "'tfdfd evaluate', split=None in Python."
        )
    return chosen
