"""Preparation of a published version as an upload to Hugging Face or Kaggle Models, with cards in their formats.

The user sends it; nothing here uses the network. `tfdfd.from_preset` loads what was prepared.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tfdfd.files import new_folder, write_atomically
from tfdfd.hub import PREFIX, Handle, HubError
from tfdfd.weights.store import CARD, read_card_file

HUGGING_FACE, KAGGLE = "hf://", "kaggle://"
MODEL, VARIATION = "model-metadata.json", "model-instance-metadata.json"
README, TERMS = "README.md", "LICENSE.txt"
FRAMEWORK = "tensorFlow2"
OWNER, LICENCE = "INSERT_OWNER_SLUG_HERE", "INSERT_LICENSE_HERE"
_TAG = "deepfake-detection"
# Names of licenses at Kaggle and Hugging Face. For another one, the owner decides whether the model may go there.
_LICENCES = {
    "Apache-2.0": ("Apache 2.0", "apache-2.0"),
    "MIT": ("MIT", "mit"),
    "BSD-3-Clause": ("BSD-3-Clause", "bsd-3-clause"),
}
# Repositories at Hugging Face of networks that weights are built on, by what their cards call them.
_BASE_MODELS = {"CLIP ViT-B/16": "openai/clip-vit-base-patch16"}
# Figures of a card's score rows, by their names at Hugging Face.
_METRICS = {"auc": "roc_auc", "balanced_accuracy": "balanced_accuracy", "eer": "eer"}


def is_upload(text: str) -> bool:
    """Returns whether a target of `tfdfd publish`, or a preset, is at Hugging Face or Kaggle."""
    return text.startswith((HUGGING_FACE, KAGGLE))


def address_parts(address: str) -> list[str]:
    """Returns `[owner, name]` of `hf://owner/name`, or `[owner, model, framework, variation]` of
    `kaggle://owner/model[/framework/variation]`.

    Raises:
        HubError: the address is neither.
    """
    parts = address.partition("://")[2].split("/")
    is_kaggle = address.startswith(KAGGLE)
    name = r"[a-z0-9][a-z0-9-]{1,49}" if is_kaggle else r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9])?"
    if is_kaggle and len(parts) == 4 and parts[2].lower() == FRAMEWORK.lower():
        plain = [parts[0], parts[1], parts[3]]
    else:
        plain = parts if len(parts) == 2 else []
    if not plain or not all(re.fullmatch(name, part) and ".." not in part and "--" not in part for part in plain):
        raise HubError(
            f"{address!r} is not a place for a model: expected hf://OWNER/NAME, kaggle://OWNER/MODEL or "
            f"kaggle://OWNER/MODEL/{FRAMEWORK}/VARIATION (at Kaggle, small letters, digits and hyphens)."
        )
    return [*plain[:2], FRAMEWORK, plain[2] if len(plain) == 3 else "default"] if is_kaggle else plain


def prepare_upload(address: str, handle: Handle, folder: Path, target: str | os.PathLike) -> str:
    """Writes a folder with a published version that is ready for Hugging Face or Kaggle.

    Args:
        address: `hf://owner/name` or `kaggle://owner/model[/tensorFlow2/variation]`.
        handle: handle of the version.
        folder: folder of the version.
        target: folder made by this call.

    Returns:
        Python code that uploads it, to be run by the user.

    Raises:
        HubError: the address is invalid, or `target` exists.
        OSError: it cannot be written.
    """
    parts = address_parts(address)
    if address.startswith(KAGGLE):
        return prepare_kaggle(handle, folder, target, parts[0], parts[1], parts[3])
    card = read_card_file(folder / CARD)

    made = refuse_existing(target)
    with new_folder(made, "tfdfd publish") as partial:
        shutil.copytree(folder, partial, dirs_exist_ok=True)
        write_atomically(partial / README, _hugging_face_card(address, handle, card))
        write_atomically(partial / TERMS, _terms(card))
    repository = "/".join(parts)
    return (
        "import huggingface_hub\n"
        f"huggingface_hub.create_repo({repository!r}, private=True, exist_ok=True)\n"
        f"huggingface_hub.upload_folder(repo_id={repository!r}, folder_path={str(made)!r}, "
        f"commit_message={str(handle)!r})"
    )


def prepare_kaggle(
    handle: Handle,
    folder: Path,
    target: str | os.PathLike,
    owner: str = OWNER,
    model: str | None = None,
    variation: str | None = None,
) -> str:
    """Writes `target`: the metadata of the model, and the variation with its files in a subfolder.

    Args:
        handle: handle of the version.
        folder: folder of the version.
        target: folder made by this call.
        owner: owner of the model at Kaggle; by default, the user fills it in.
        model: name at Kaggle; None: from the handle.
        variation: variation of the model; None: the handle's tag, or `default`.

    Returns:
        Python code that uploads it, to be run by the user.

    Raises:
        HubError: `target` exists.
        OSError: it cannot be written.
    """
    card = read_card_file(folder / CARD)
    name, _, tag = handle.model.partition(".")
    slug, variation = model or _slug(f"tfdfd-{name}"), variation or _slug(tag or "default")
    licence = _LICENCES.get(card["licence"], (LICENCE,))[0]

    made = refuse_existing(target)
    with new_folder(made, "tfdfd publish") as partial:
        shutil.copytree(folder, partial / variation)
        write_atomically(partial / MODEL, _json(_of_model(owner, slug, name, card)))
        of_variation = _of_variation(owner, slug, variation, handle, card, licence)
        write_atomically(partial / variation / VARIATION, _json(of_variation))
    return (
        "import kagglehub\n"
        f"kagglehub.model_upload({f'{owner}/{slug}/{FRAMEWORK}/{variation}'!r}, {str(made / variation)!r}, "
        f"license_name={licence!r}, version_notes={str(handle)!r}, ignore_patterns=[{VARIATION!r}])"
    )


def refuse_existing(target: str | os.PathLike) -> Path:
    """Returns the absolute path of a new folder for an upload; raises `HubError` if it exists."""
    target = Path(target).absolute()
    if os.path.lexists(target):
        raise HubError(f"{target} is there already; give a new folder for the upload.")
    return target


def _hugging_face_card(address: str, handle: Handle, card: Mapping[str, Any]) -> str:
    """A card for Hugging Face: metadata as YAML, of which JSON is a part, then text."""
    licence = card["licence"]
    known = _LICENCES.get(licence, (LICENCE, "other"))[1]
    metadata: dict[str, Any] = {"license": known}
    if known == "other":
        metadata |= {"license_name": _slug(licence)[:60].strip("-"), "license_link": TERMS}
    built_on = (card.get("base") or {}).get("what", "")
    base_models = [repository for name, repository in _BASE_MODELS.items() if name in built_on]
    results = list(_results(card))
    metadata |= {
        "library_name": "tfdfd",
        "pipeline_tag": "image-classification",
        "tags": [_TAG, "face-forgery-detection", "keras", "tensorflow", "tf-serving", card["model"].replace("_", "-")],
        "metrics": sorted({one["type"] for result in results for one in result["metrics"]}),
        **({"base_model": base_models[0]} if base_models else {}),
        **({"model-index": [{"name": str(handle), "results": results}]} if results else {}),
    }
    header = "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in metadata.items())
    name = handle.model.partition(".")[0]
    return (
        f"---\n{header}---\n\n{_description(name, card)}\n\n{_protocol(card)}## Use\n\n{_hugging_face_use(address)}\n"
    )


def _results(card: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The figures of these weights as entries of a `model-index`, each with its interval, counts and note."""
    for row in card.get("scores", []):
        figures = {name: row[name] for name in _METRICS if isinstance(row.get(name), int | float)}
        if row.get("weights") != "these" or not figures:
            continue
        protocol = f"{row.get('level')} level, {row.get('n_real')} real and {row.get('n_fake')} fake"
        protocol += f"; {row['note']}" if row.get("note") else ""
        metrics = []
        for name, value in figures.items():
            low_high = row.get(f"{name}_ci95")
            interval = f", 95 % interval {low_high[0]} to {low_high[1]}" if low_high else ""
            metrics.append({"type": _METRICS[name], "name": f"{name} ({protocol}{interval})", "value": value})
        yield {
            "task": {"type": "image-classification", "name": "Deepfake detection"},
            "dataset": {"type": _slug(row["set"]), "name": row["set"]},
            "metrics": metrics,
        }


def _protocol(card: Mapping[str, Any]) -> str:
    return f"## Protocol of the figures\n\n{card['protocol']}\n\n" if card.get("protocol") else ""


def _hugging_face_use(address: str) -> str:
    return (
        "```python\n"
        "import tfdfd\n\n"
        f'network = tfdfd.from_preset("{address}")  # Keras 3, on any backend; RGB crops in [0, 1] -> P(fake)\n'
        "```\n\n"
        "The folder is a SavedModel, too: `hub.KerasLayer(FOLDER, trainable=True)` trains it in tf_keras, and "
        "TensorFlow Serving serves it."
    )


def _terms(card: Mapping[str, Any]) -> str:
    notices = "".join(f"\n\n{notice}" for notice in card.get("notices", []))
    return f"{card['licence']}\n\nTraining data: {card['training_data']}{notices}\n"


def _of_model(owner: str, slug: str, name: str, card: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ownerSlug": owner,
        "title": f"tfdfd {name}",
        "slug": slug,
        "subtitle": "P(fake) of a face, 1 = fake: deepfake detection in Keras and TensorFlow",
        "isPrivate": True,
        "description": _description(name, card),
        "publishTime": "",
        "provenanceSources": card.get("source", ""),
    }


def _of_variation(
    owner: str, slug: str, variation: str, handle: Handle, card: Mapping[str, Any], licence: str
) -> dict[str, Any]:
    return {
        "ownerSlug": owner,
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
