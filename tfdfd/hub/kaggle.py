"""Preparation of a published version as an upload for Kaggle Models; the user sends it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfdfd.files import locked_folder, write_atomically
from tfdfd.hub import PREFIX, Handle, HubError
from tfdfd.weights.store import CARD, read_card

MODEL, VARIATION = "model-metadata.json", "model-instance-metadata.json"
FRAMEWORK = "tensorFlow2"
OWNER, LICENCE = "INSERT_OWNER_SLUG_HERE", "INSERT_LICENSE_HERE"
# Kaggle's names of licenses. For another one, the owner decides whether the model may go there.
_LICENCES = {"Apache-2.0": "Apache 2.0", "MIT": "MIT", "BSD-3-Clause": "BSD-3-Clause"}


def prepare_kaggle(handle: Handle, folder: Path, target: str | os.PathLike) -> str:
    """Writes `target`: the metadata of the model, and the variation with its files in a subfolder.

    Args:
        handle: of the version.
        folder: of the version.
        target: folder made by this call.

    Returns:
        Python code that uploads it, to be run by the user after filling in the owner's name.

    Raises:
        HubError: `target` exists.
        OSError: it cannot be written.
    """
    target = Path(target).absolute()
    if os.path.lexists(target):
        raise HubError(f"{target} is there already; give a new folder for the upload to Kaggle.")
    card = read_card(folder / CARD)
    name, _, tag = handle.model.partition(".")
    slug, variation = _slug(f"tfdfd-{name}"), _slug(tag or "default")
    licence = _LICENCES.get(card["licence"], LICENCE)
    partial = target.with_name(f".{target.name}.partial")
    lock = locked_folder(partial, "tfdfd publish --kaggle")
    try:
        for left in partial.iterdir():  # by a process that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        shutil.copytree(folder, partial / variation)
        write_atomically(partial / MODEL, _json(_of_model(slug, name, card)))
        write_atomically(partial / variation / VARIATION, _json(_of_variation(slug, variation, handle, card, licence)))
        os.rename(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        if lock is not None:
            os.close(lock)
    return (
        "import kagglehub\n"
        f"kagglehub.model_upload({f'{OWNER}/{slug}/{FRAMEWORK}/{variation}'!r}, {str(target / variation)!r}, "
        f"license_name={licence!r}, version_notes={str(handle)!r}, ignore_patterns=[{VARIATION!r}])"
    )


def _of_model(slug: str, name: str, card: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ownerSlug": OWNER,
        "title": f"tfdfd {name}",
        "slug": slug,
        "subtitle": "P(fake) of a face, 1 = fake: deepfake detection in Keras and TensorFlow",
        "isPrivate": True,
        "description": _description(name, card),
        "publishTime": "",
        "provenanceSources": card.get("source", ""),
    }


def _of_variation(slug: str, variation: str, handle: Handle, card: Mapping[str, Any], licence: str) -> dict[str, Any]:
    return {
        "ownerSlug": OWNER,
        "modelSlug": slug,
        "instanceSlug": variation,
        "framework": FRAMEWORK,
        "overview": f"Reusable SavedModel {handle}: RGB face crops, float32 in [0, 1], to P(fake).",
        "usage": _USAGE,
        "licenseName": licence,
        "fineTunable": True,
        "trainingData": [card["training_data"]],
        "modelInstanceType": "Unspecified",
        "baseModelInstance": "",
        "externalBaseModelUrl": "",
    }


_USAGE = """\
```python
import tensorflow_hub as hub

layer = hub.KerasLayer("${PATH}", trainable=True)  # in a tf_keras model; P(fake), 1 = fake
features = hub.KerasLayer("${PATH}/feature_vector")
```"""


def _description(name: str, card: Mapping[str, Any]) -> str:
    limits = "\n".join(f"- {limit}" for limit in card.get("limits", []))
    notices = "".join(f"\n\n{notice}" for notice in card.get("notices", []))
    attributions = f"\n\n**Attributions**{notices}" if notices else ""
    return (
        f"# {name}\n\nP(fake) of face crops, 1 = fake. Handle in tfdfd: `{card.get('handle', PREFIX + name)}`.\n\n"
        f"**Training data**: {card['training_data']}\n\n**Licence**: {card['licence']}\n\n"
        f"**Threshold**: {card['threshold']}\n\n**Limits**\n{limits}{attributions}\n\n"
        f"The whole card is `model_card.json`."
    )


def _slug(text: str) -> str:
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")


def _json(content: object) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
