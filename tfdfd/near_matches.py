"""Near matches of a mistyped name, for error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def near_matches(word: object, known: Iterable[object], most: int = 3, cutoff: float = 0.5) -> list[str]:
    """The known names that resemble `word`, the nearest first, without repetition."""
    return difflib.get_close_matches(str(word), dict.fromkeys(map(str, known)), n=most, cutoff=cutoff)


def did_you_mean(word: object, known: Iterable[object], most: int = 3, otherwise: str = "") -> str:
    """`did you mean a or b?`, or `otherwise` if no name is near."""
    near = near_matches(word, known, most)
    return f"did you mean {' or '.join(near)}?" if near else otherwise
