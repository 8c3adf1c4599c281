"""A manifest that must be one and no other: `$TFDFD_HUB_SHA256`.

A pin and not a signature: it needs no keys and no library, it cannot be answered with an older manifest, and it cannot
be torn from what it is of, as a signature in a second file can when a publisher dies between the two.
"""

from __future__ import annotations

import hashlib
import os
import re

from tfdfd.hub.errors import HubError

VARIABLE = "TFDFD_HUB_SHA256"


def pin_of_user() -> str | None:
    """The digest that the user wants the hub's manifest to have.

    Raises:
        HubError: it is no digest.
    """
    pin = os.environ.get(VARIABLE, "").strip().lower()
    if not pin:
        return None
    if not re.fullmatch("[0-9a-f]{64}", pin):
        raise HubError(f"${VARIABLE} must be a sha256, 64 hex digits, as 'tfdfd publish' prints it; received {pin!r}.")
    return pin


def check_pin(data: bytes, pin: str | None, where: str) -> None:
    """Raises `HubError` with both digests unless these are the bytes that were pinned, or none were."""
    found = hashlib.sha256(data).hexdigest()
    if pin is not None and found != pin:
        raise HubError(
            f"{where} has the sha256 {found}, but ${VARIABLE} is {pin}: it was altered, or something was published "
            "since; nothing was loaded."
        )
