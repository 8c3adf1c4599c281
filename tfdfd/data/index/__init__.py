"""Indexes of data sets: a row per video or image, from names and sizes alone; no media file is decoded."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from tfdfd.data.index.datasets import index_celebdf, index_dfdc, index_ffpp
from tfdfd.data.index.folder import index_folder
from tfdfd.data.tables import IndexRow

if TYPE_CHECKING:
    from tfdfd.data.index.layout import IndexResult

INDEXERS: dict[str, Callable[..., IndexResult]] = {
    "ffpp": index_ffpp,
    "celebdf": index_celebdf,
    "dfdc": index_dfdc,
    "folder": index_folder,
}


def index(dataset: str, root: str | os.PathLike) -> list[IndexRow]:
    """The rows of a data set: `INDEXERS[dataset](root).rows`.

    Raises:
        ValueError: an unknown data set, or a folder that is not laid out like it.
    """
    if dataset not in INDEXERS:
        raise ValueError(f"unknown data set {dataset!r}; expected one of {', '.join(INDEXERS)}.")
    return INDEXERS[dataset](root).rows
