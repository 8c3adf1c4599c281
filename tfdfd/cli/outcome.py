"""What verbs over many things share: the exit code, and the file that an answer goes to."""

from __future__ import annotations

import json
import os
import sys

ALL, NONE, SOME = 0, 1, 3


def exit_code(done: int, wanted: int) -> int:
    """0 everything was done; 1 nothing could be; 3 some could not."""
    return ALL if done == wanted else SOME if done else NONE


def check_writable(name: str) -> None:
    """A target that cannot be written is a usage error before the work, not a loss after it.

    Raises:
        ValueError: `name` is no file that could be written.
    """
    folder = os.path.dirname(os.path.abspath(name))
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise ValueError(f"cannot write {name}: the folder {folder} does not exist or is not writable.")
    if not name or (os.path.exists(name) and not os.path.isfile(name)):
        raise ValueError(f"cannot write {name!r}: it is a folder, device, pipe or nothing; give the name of a file.")


def write_json(answer: dict, target: str) -> None:
    """Writes an answer to a file, or to standard output for `-`."""
    from tfdfd.files import write_atomically

    text = json.dumps(answer, indent=1) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        write_atomically(target, text)
