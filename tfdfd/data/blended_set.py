"""A face set of real crops and one self-blended fake of each, as files: for what reads crops and makes none."""

from __future__ import annotations

import os
from collections.abc import Iterator

from tfdfd.data.blended_pairs import BlendedPairs, blended_row
from tfdfd.data.pair_set import write_pair_set
from tfdfd.data.tables import FaceRow


def write_blended_set(pairs: BlendedPairs, folder: str | os.PathLike) -> Iterator[FaceRow]:
    """Writes the fixed pair of each crop as PNG, then `faces.csv`, and gives each real crop's row as it is done.

    Real crops go through the same placing and compression as their fakes, so that these say nothing of the label. Rows
    keep split, sources and people; a fake has the method `self-blended`. A run that was stopped goes on where it was.

    Args:
        pairs: of all splits that are wanted.
        folder: of the set; made where it is not there.

    Raises:
        ValueError: the folder holds another set, or something else; or a crop cannot be read.
        OSError: it cannot be written; what was done stays.
    """
    settings = {"seed": pairs.seed, "crops": len(pairs), "left_out": dict(pairs.left_out)}
    rows = [(real, blended_row(real)) for real in pairs.rows]
    yield from write_pair_set(
        folder, "tfdfd data blend", pairs.size, settings, rows, lambda number: pairs.pair(number, None)
    )
