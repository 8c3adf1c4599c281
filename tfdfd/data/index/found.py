"""What indexing a data set finds: the rows, and what is there or ought to be there but is no row."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from tfdfd.data.index.tree import File, Tree, names_in
from tfdfd.data.tables import SEPARATOR, IndexRow
from tfdfd.near_matches import near_matches

NO_MEDIA = "neither an image nor a video by name"


@dataclass(frozen=True)
class Share:
    """How much of the official set is there: `present` of `official` (None where nobody has said) of `what`."""

    what: str
    present: int
    official: int | None


@dataclass
class Found:
    """An index with its circumstances.

    Attributes:
        rows: sorted by the bytes of their paths.
        left_out: reason -> paths of what is there and got no row.
        shares: how much of the official set is there.
        notes: what a user should know besides.
        passed_over: reason -> how many files were there that are no part of any data set.
    """

    rows: list[IndexRow]
    left_out: dict[str, list[str]] = field(default_factory=dict)
    shares: list[Share] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    passed_over: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, rows: Iterable[IndexRow], tree: Tree, left_out: dict[str, list[str]], used: Iterable[str] = (), **more
    ) -> Found:
        """Sorts the rows, and joins what the walk left out with what the data set's rules leave out.

        Files that are neither images nor videos count as passed over, but for those `used`.
        """
        endings = (PurePosixPath(path).suffix.lower() or "no ending" for path in tree.others.difference(used))
        passed_over = tree.passed_over + Counter(f"{NO_MEDIA}: {ending}" for ending in endings)
        reasons = {**tree.left_out, **left_out}
        reasons = {reason: sorted(paths, key=_any_text) for reason, paths in sorted(reasons.items()) if paths}
        return cls(
            sorted(rows, key=lambda row: os.fsencode(row.path)),
            reasons,
            passed_over=dict(sorted(passed_over.items())),
            **more,
        )


def _any_text(path):
    """Sorting by bytes, even for what a metadata file says and no file can be called (half a surrogate pair)."""
    return path.encode("utf-8", "surrogatepass")


def status_of(file: File) -> dict:
    """The columns that tell whether there is something in the file."""
    return {"bytes": file.bytes, "status": "ok" if file.bytes else "empty"}


def as_name(text: str) -> str:
    """A name that can stand in a cell of several: the letter that separates them is written as in an address."""
    return text.replace(SEPARATOR, f"%{ord(SEPARATOR):02X}")


def wrong_layout(root: str | os.PathLike, looked_for: Iterable[str], dataset: str, hint: str = "") -> ValueError:
    """The error for a folder that is not laid out like `dataset`: what was looked for, what is there, what is near."""
    looked_for, there = list(looked_for), names_in(root)
    near = {
        name: match[0]
        for name in looked_for
        if (match := near_matches(name.lower(), [t.lower() for t in there], 1, cutoff=0.7))
    }
    real = {name.lower(): name for name in there}
    told = "".join(f" {real[match]!r} is near {name!r}." for name, match in near.items())
    listed = ", ".join(map(repr, there[:12])) + (f" and {len(there) - 12} more" if len(there) > 12 else "")
    return ValueError(
        f"{os.fsdecode(root)!r} is not laid out like {dataset}: looked for {' or '.join(map(repr, looked_for))}; the "
        f"folders there are: {listed or 'none'}.{told}{' ' + hint if hint else ''}"
    )
