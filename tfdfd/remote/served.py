"""Which published model is meant, what is known of it here, and whether a server's model answers like it."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfdfd.remote.scorer import RemoteError, RemoteScorer
from tfdfd.runtime.opening import proof_crops
from tfdfd.weights.records import ALIASES, WeightRecord, find_record, list_records
from tfdfd.weights.store import PREFIX, RUN, locate

# Of a model card: P(fake) of `tfdfd.runtime.opening.proof_crops`.
PROOF_SCORES = "proof_scores"
# How far a server's may be from them. Servers on GPUs may round to 10 bits (TF32); other weights are further apart.
PROOF_TOLERANCE = 5e-3
_VERSION = re.compile(r"(?P<name>.+)/(?P<version>[1-9][0-9]{0,8})")


@dataclass(frozen=True)
class Served:
    """A model that a server has.

    Attributes:
        record: what is known here of its weights: handle, digest, threshold, input size.
        name: its name on the server: the handle without `tfdfd/`.
        version: number of the version, or None.
    """

    record: WeightRecord
    name: str
    version: int | None


def find_served(model: str | os.PathLike) -> Served:
    """The model that a name, a handle, a model card, a weights file or a run means.

    Predict answers with scores alone, so the threshold, the inconclusive band and the digest are taken from what is
    known here. The weights themselves need not be here.

    Args:
        model: `meso_inception4`, `tfdfd/meso_inception4`, either with `/VERSION`, of the package or of a hub; a
            `model_card.json` as published beside the model; or what `tfdfd.weights.store.locate` takes.

    Raises:
        ValueError: nothing is known of it.
    """
    name, version = os.fspath(ALIASES.get(model, model)), None
    if name.endswith(".json"):
        record = _of_card(Path(name))
    elif Path(name).is_file() or Path(name, RUN).is_file():
        record, _ = locate(name)
    else:
        match = _VERSION.fullmatch(name)
        if match:
            name, version = match["name"], int(match["version"])
        name = name if name.startswith(PREFIX) else PREFIX + name
        try:
            record = _known(name, version)
        except ValueError as error:
            raise ValueError(
                f"{error} Predict answers with scores alone: the threshold must be known here. For a model that is "
                "published elsewhere, set TFDFD_HUB to its hub, or give the card that is published beside it: --model "
                "model_card.json."
            ) from error
        return Served(record, name.removeprefix(PREFIX), version)
    return Served(record, record.handle.removeprefix(PREFIX), version)


def _known(name, version):
    """Of the package's records, or of a published model, whose card is beside its weights."""
    if name in list_records():
        return find_record(name)
    return locate(name if version is None else f"{name}/{version}")[0]


def check_served(scorer: RemoteScorer, served: Served, server: str) -> str | None:
    """Proves that the server's model is that of the record, on crops whose scores the model's card tells.

    Returns:
        Why nothing is proved: the card tells no scores; None where it is proved. The server was asked in either case.

    Raises:
        RemoteError: the server's model scores these crops otherwise, or the server gave no scores.
        ValueError: the card tells something else than scores.
    """
    found = scorer(proof_crops(scorer.size))
    expected = served.record.card.get(PROOF_SCORES)
    if expected is None:
        return (
            f"it is not proved that {server} serves the weights of {served.record.handle}: their card tells no "
            f"{PROOF_SCORES}."
        )
    if np.shape(expected) != found.shape:
        raise ValueError(
            f"the card of {served.record.handle} must tell {len(found)} {PROOF_SCORES}; it has {expected!r}."
        )
    apart = float(np.abs(found - np.asarray(expected, np.float32)).max())
    if not apart <= PROOF_TOLERANCE:
        raise RemoteError(
            f"what {server} serves as {served.name} is not {served.record.handle} (sha256 {served.record.sha256}): "
            f"on the same crops its scores are {apart:.2g} apart, {PROOF_TOLERANCE:g} are allowed. "
            "Give the card that is published beside it: --model model_card.json."
        )
    return None


def _of_card(path):
    try:
        card = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"the model card {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ValueError(f"the model card {path} is no JSON: {error}") from error
    if not isinstance(card, dict):
        raise ValueError(f"the model card {path} must be an object; received {type(card).__name__}.")
    weights = card.get("weights", {})
    # A published card tells the weights' own file apart from the files published.
    return WeightRecord.from_card(
        card | {name: weights[name] for name in ("file", "sha256", "bytes") if name in weights}
    )
