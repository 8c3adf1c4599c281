"""SavedModels of weights that the package carries, made when they are first wanted and kept beside the cache's others.

Weights are a fraction of a SavedModel's size, so that many networks fit a wheel. Each export is a hub of its own,
`from-weights/<model>-<digest>-<tfdfd>-<code>/`, whose name changes with weights, card and what publishes them: whole,
or not there at all.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tfdfd.files import code_digest, sync_folder
from tfdfd.hub.cache import VARIABLE, cache_folder, check_owner
from tfdfd.hub.errors import HubError
from tfdfd.hub.folder_hub import FolderHub
from tfdfd.hub.handles import PREFIX, Handle
from tfdfd.hub.locking import locked
from tfdfd.hub.manifest import FILE, Version
from tfdfd.log_lines import without_log_lines
from tfdfd.version import __version__
from tfdfd.weights.store import locate

FOLDER = "from-weights"
_TEMPORARY = ".tfdfd-export-"
# The whole import path is handed over, so that the current folder does not decide which code it is.
_BOOT = "import sys; sys.path[:] = sys.argv[2:]; from tfdfd.hub.exports import main; main(sys.argv[1])"


@dataclass(frozen=True)
class FromWeights(Version):
    """A version that is a set of weights and its card, which are its files, until somebody wants it."""

    @property
    def has_features(self) -> bool:
        return True


def exported(model: str, number: int, version: FromWeights) -> Path:
    """The checked folder of a version, made from its weights where it is not there.

    It is made by a process of its own, so that neither the backend, nor the precision, nor the devices of this one play
    a part; a line on standard error says so. Others that want it at the same time wait.

    Raises:
        HubError: the weights are absent or altered, or answer something else than their card says; the cache cannot be
            written; a library is missing; or what was made before was altered.
    """
    handle = Handle(model, number)
    cache = cache_folder()
    code = code_digest("models", "publishing", "weights")[:16]
    root = cache / FOLDER / f"{model}-{version.digest[:16]}-{__version__}-{code}"
    try:
        if not root.is_dir():
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_owner(cache)
            with locked(root.parent):
                if not root.is_dir():
                    _make(handle, root)
        check_owner(cache)
    except OSError as error:
        raise HubError(
            f"{handle} is carried as weights, and the SavedModel of them could not be made in {root.parent} ({error}): "
            f"set ${VARIABLE} to a folder that can be written."
        ) from error
    hub = FolderHub(root, f"what was made of {PREFIX}{model}")
    try:
        made = hub.manifest().models.get(model, {}).get(number)
        if made is None:
            raise HubError(f"{root / FILE} does not name {handle}.")
        return hub.folder_of(model, number, made)
    except HubError as error:
        raise HubError(f"{error} This is the cache: delete {root}, and it is made again.") from error


def _make(handle, root):
    name = PREFIX + handle.model
    try:
        record, weights = locate(name)
    except ValueError as error:
        raise HubError(str(error)) from error
    for left in root.parent.glob(f"{_TEMPORARY}*"):
        # The lock is ours, so whoever began these was killed.
        shutil.rmtree(left, ignore_errors=True)
    sys.stderr.write(f"tfdfd: making a SavedModel of the weights of {name}, once, in {root}\n")
    sys.stderr.flush()
    partial = root.parent / f"{_TEMPORARY}{secrets.token_hex(8)}"
    try:
        _in_a_process(handle, weights, partial)
        _check_scores(record, partial / handle.model / str(handle.version))
        sync_folder(partial)
        os.rename(partial, root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _in_a_process(handle, weights, hub):
    request = {"weights": str(weights), "hub": str(hub), "version": handle.version, "name": handle.model}
    environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    environment |= {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", _BOOT, json.dumps(request), *sys.path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        lines = without_log_lines(done.stderr).split("\n")
        why = next((line for line in reversed(lines) if line.strip()), f"the process ended with {done.returncode}")
        raise HubError(f"no SavedModel could be made of the weights of {PREFIX}{handle.model}: {why}")


def main(request: str) -> None:
    """Publishes, in the process of its own; an error is the last line on standard error."""
    from tfdfd.hub.publishing import publish

    told = json.loads(request)
    try:
        publish(told["weights"], told["hub"], told["version"], told["name"])
    except (ValueError, OSError) as error:
        sys.exit(" ".join(str(error).split()))


def _check_scores(record, folder):
    import numpy as np

    from tfdfd.runtime.opening import TOLERANCE

    told = record.card.get("proof_scores")
    if told is None:
        return
    found = json.loads((folder / "model_card.json").read_text("utf-8"))["proof_scores"]
    if len(told) != len(found) or not np.abs(np.subtract(told, found)).max() <= TOLERANCE:
        raise HubError(
            f"the weights of {record.handle} answer {found} for the crops of the proof, but their card says {told}: "
            "card and file do not belong together, or this tfdfd builds another network; install it again."
        )
