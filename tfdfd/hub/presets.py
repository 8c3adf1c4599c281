"""`tfdfd.from_preset`: a network with trained weights from a handle, a folder, Hugging Face or Kaggle."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType

import keras

from tfdfd.hub import PREFIX, HubError
from tfdfd.hub.uploads import HUGGING_FACE, KAGGLE, address_parts, is_upload
from tfdfd.hub.weights import record_of_card
from tfdfd.models import load
from tfdfd.text import optional_import
from tfdfd.weights import WeightRecord
from tfdfd.weights.store import CARD, DATA_SUFFIXES, check_digest, locate, read_card_file


def from_preset(preset: str | os.PathLike) -> keras.Model:
    """Returns the network of trained weights, on the Keras backend in use.

    Its input is RGB float32 `(batch, height, width, 3)` in [0, 1] at the network's size, its output P(fake), `(batch,
    1)`, 1 = fake. Files are data only, their digest must be that of the model card, and no code is loaded; the digest
    does not say who made them.

    Args:
        preset: a handle (`tfdfd/efficientnet_lite0`); a folder that `tfdfd publish` or `tfdfd train` has made;
            `hf://OWNER/NAME`, or `hf://OWNER/NAME@REVISION`; or `kaggle://OWNER/MODEL`, or
            `kaggle://OWNER/MODEL/tensorFlow2/VARIATION`, optionally with `/VERSION`.

    Raises:
        ValueError: the preset is unknown, the library that fetches it is not installed, files are missing or altered,
            or they need other weights that are not on this machine.
    """
    text = os.fspath(preset)
    if is_upload(text):
        folder = _fetched(text)
    elif text.startswith(PREFIX) or not _published_folder(Path(text)):
        return load(*locate(preset))
    else:
        folder = Path(text)
    return load(*_weights_in(folder))


def _published_folder(folder: Path) -> Path | None:
    """The folder with the card, which an upload to Kaggle has one below."""
    if not folder.is_dir():
        return None
    cards = [folder / CARD, *sorted(folder.glob(f"*/{CARD}"))]
    return next((card.parent for card in cards if card.is_file()), None)


def _weights_in(folder: Path) -> tuple[WeightRecord, Path]:
    """Record and checked weights file of a published version.

    Raises:
        HubError: there is no card or no weights file.
    """
    published = _published_folder(folder)
    if published is None:
        raise HubError(f"{folder} has no {CARD}: expected what 'tfdfd publish' makes.")
    record = record_of_card(read_card_file(published / CARD), published / CARD)
    path = published / record.file
    if not (path.suffix in DATA_SUFFIXES and path.is_file()):
        raise HubError(
            f"{published} has no weights file {record.file!r}: publish it again with this tfdfd, which puts it there."
        )
    check_digest(path, record.sha256, f"the model card {published / CARD}")
    return record, path


def _fetched(address: str) -> Path:
    """The local copy of a preset at Hugging Face or Kaggle."""
    place, _, revision = address.partition("@")
    try:
        if address.startswith(HUGGING_FACE):
            name, files = "/".join(address_parts(place)), [CARD, "weights.*"]
            library = _library("huggingface_hub")
            return Path(library.snapshot_download(name, revision=revision or None, allow_patterns=files))
        # The version of a variation is a number behind it.
        head, _, last = place.rpartition("/")
        place, version = (head, f"/{last}") if last.isdigit() and head.count("/") == 5 else (place, "")
        name = "/".join(address_parts(place)) + version
        return Path(_library("kagglehub").model_download(name))
    except (OSError, RuntimeError) as error:  # those of both libraries for no network, no such model and no permission
        raise HubError(f"{address} could not be fetched: {' '.join(str(error).split())}") from error


def _library(name: str) -> ModuleType:
    place = HUGGING_FACE if name == "huggingface_hub" else KAGGLE
    with optional_import(f"presets at {place} need {name}", "presets", kind=HubError):
        module = importlib.import_module(name)
    return module
