"""Weights files from others, safetensors and HDF5, checked before any array in them is read.

HDF5 can follow links to other files, compose arrays of other files' arrays, and unpack a few bytes to gigabytes.
Weights need none of that, and Keras writes none of it (compare CVE-2026-1669 and CVE-2026-0897). Files that others made
smaller with gzip are read if each part unpacks to its own size.
"""

from __future__ import annotations

import contextlib
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

from tfdfd.files import read_regular
from tfdfd.weights.store import MAX_FILE_BYTES

_BF16 = "BF16"
# Types in safetensors files. NumPy has no bfloat16; it is the upper half of a float32.
_TYPES = {
    **{f"F{bits}": f"<f{bits // 8}" for bits in (64, 32, 16)},
    **{f"I{bits}": f"<i{bits // 8}" for bits in (64, 32, 16, 8)},
    **{f"U{bits}": f"<u{bits // 8}" for bits in (64, 32, 16, 8)},
    "BOOL": "?",
    _BF16: "<u2",
}
_MOST_OBJECTS, _MOST_ATTRIBUTE_BYTES = 100_000, 64 << 20
# Arrays up to this size, such as counts and states of random generators, need no counterpart in the network.
_SMALL = 1024
# Groups of a saved model whose arrays are not weights; they are not read.
_NOT_WEIGHTS = ("optimizer", "optimizer_weights")
_NAMES = ("layer_names", "weight_names")
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE}


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a safetensors file by name; bfloat16 becomes float32.

    Raises:
        ValueError: the file is not readable as safetensors, or has an array of another type, such as float8.
    """
    from safetensors import SafetensorError, deserialize

    try:
        stored = deserialize(read_regular(path, MAX_FILE_BYTES))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is not a safetensors file ({error})") from error
    arrays = {}
    for name, about in stored:
        if about["dtype"] not in _TYPES:
            raise ValueError(
                f"{path}: {name} has the type {about['dtype']}; expected one of {', '.join(_TYPES)}: convert the "
                "array, and save it again."
            )
        values = np.frombuffer(about["data"], _TYPES[about["dtype"]])
        if about["dtype"] == _BF16:
            values = (values.astype(np.uint32) << 16).view(np.float32)
        arrays[name] = values.reshape(about["shape"])
    return arrays


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the arrays in a safetensors file by name; no array is read.

    Raises:
        ValueError: the file is not readable as safetensors.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is not a safetensors file ({error})") from error


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Opens a file that holds only groups and plain arrays of its own, without links.

    Raises:
        ValueError: it is not an HDF5 file, or holds something else; nothing was read then.
    """
    try:
        with h5py.File(path, "r") as file:
            for _ in arrays_in(file):
                pass
            yield file
    except (OSError, KeyError, RuntimeError, TypeError, UnicodeError) as error:
        raise ValueError(f"{path} cannot be read as HDF5 weights: {error}") from error
    except _Refused as error:
        raise ValueError(f"{path} was not read: {error}; expected arrays as save_weights writes them.") from None


class _Refused(Exception):
    pass


def arrays_in(file: h5py.File) -> Iterator[h5py.Dataset]:
    """The arrays of a file; each is checked, and none is read."""
    waiting, seen, attribute_bytes = [file["/"]], set(), 0
    while waiting:
        item = waiting.pop()
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            raise _Refused(f"{item.name} has several names")
        seen.add(address)
        if len(seen) > _MOST_OBJECTS:
            raise _Refused(f"it has more than {_MOST_OBJECTS:,} objects")
        attribute_bytes += sum(_bytes_of_attribute(item, name) for name in item.attrs)
        if attribute_bytes > _MOST_ATTRIBUTE_BYTES:
            raise _Refused(f"its attributes have more than {_MOST_ATTRIBUTE_BYTES:,} bytes")
        if isinstance(item, h5py.Dataset):
            _check_storage(item)
            yield item
            continue
        for name in item:
            if not isinstance(item.get(name, getlink=True), h5py.HardLink):
                raise _Refused(f"{item.name.rstrip('/')}/{name} is a soft or external link")
            child = item[name]
            if not isinstance(child, h5py.Group | h5py.Dataset):
                raise _Refused(f"{child.name} is neither a group nor an array")
            waiting.append(child)


def _bytes_of_attribute(item: h5py.Group | h5py.Dataset, name: str) -> int:
    attribute = item.attrs.get_id(name)
    if not attribute.shape:
        return 0
    # Any number of texts of variable length may refer to the same bytes of the file.
    each = item.file.id.get_filesize() if attribute.dtype.hasobject else attribute.dtype.itemsize
    size = math.prod(attribute.shape) * each
    if size <= _MOST_ATTRIBUTE_BYTES and name.rstrip("0123456789") in _NAMES:
        names = [text.decode() if isinstance(text, bytes) else str(text) for text in np.ravel(item.attrs[name])]
        # With a second spelling of its name, one array could be read many times.
        if len(set(names)) < len(names) or any({"", "."} & set(text.split("/")) for text in names):
            raise _Refused(f"the attribute {name!r} of {item.name} has a name twice, or one that is not plain")
    return size


def _check_storage(array: h5py.Dataset) -> None:
    settings = array.id.get_create_plist()
    if settings.get_layout() == h5py.h5d.VIRTUAL:
        raise _Refused(f"{array.name} is a virtual array of other arrays")
    if settings.get_layout() != h5py.h5d.CHUNKED and settings.get_external_count():
        raise _Refused(f"{array.name} is stored in another file")
    filters = []
    for number in range(settings.get_nfilters()):
        code, _, values, _ = settings.get_filter(number)
        if code not in _FILTERS or (code == h5py.h5z.FILTER_SHUFFLE and values != (array.dtype.itemsize,)):
            raise _Refused(f"{array.name} is compressed otherwise than with gzip")
        filters.append(code)
    kind = array.dtype
    is_bfloat16 = kind.kind == "V" and kind.itemsize == 2
    if array.shape is None or kind.subdtype or kind.fields or not (kind.kind in "fiub" or is_bfloat16):
        raise _Refused(f"{array.name} has the type {kind}, which is not a number")
    if array.chunks and math.prod(array.chunks) > max(2 * array.size, _SMALL):
        raise _Refused(f"{array.name} of {array.size:,} numbers is stored in parts of {math.prod(array.chunks):,}")
    if h5py.h5z.FILTER_DEFLATE in filters:
        _check_parts(array, filters.index(h5py.h5z.FILTER_DEFLATE))


def _check_parts(array: h5py.Dataset, place: int) -> None:
    """Refuses an array with a part that gzip unpacks to another size: HDF5 unpacks whatever there is.

    Args:
        array: the array.
        place: place of gzip among its filters; parts that it cannot make smaller are stored without.
    """
    size = math.prod(array.chunks) * array.dtype.itemsize
    for number in range(array.id.get_num_chunks()):
        part = array.id.get_chunk_info(number)
        if part.filter_mask >> place & 1:
            fits = part.size == size
        elif fits := part.size <= 2 * size + _SMALL:
            inflater = zlib.decompressobj()
            try:
                content = inflater.decompress(array.id.read_direct_chunk(part.chunk_offset)[1], size + 1)
            except zlib.error as error:
                raise _Refused(f"{array.name} is damaged ({error})") from error
            fits = inflater.eof and len(content) == size
        if not fits:
            raise _Refused(f"{array.name} has a part that unpacks to another size than its {size:,} bytes")


def check_arrays(path: Path, name: str, shapes: Iterable[Sequence[int]]) -> None:
    """Raises `ValueError` unless a file's arrays can be those of the network `name`; no array is read.

    Args:
        path: path of the file.
        name: name of the network, for errors.
        shapes: shapes of all arrays of the network.
    """
    with open_hdf5(path) as file:
        stored = [
            (array.name, array.shape)
            for array in arrays_in(file)
            if array.nbytes > _SMALL and array.name.split("/")[1] not in _NOT_WEIGHTS
        ]
    free = Counter(tuple(shape) for shape in shapes)
    for array, shape in stored:
        if not free[shape]:
            wanted = sorted(
                {other for other in free if len(other) == len(shape)}, key=lambda other: _distance(other, shape)
            )
            near = f"the nearest is {wanted[0]}" if wanted else "it has none of as many axes"
            raise ValueError(
                f"{path} does not fit {name}: {array} has the shape {shape}, and the network has no other array of "
                f"that shape ({near}); nothing was read."
            )
        free[shape] -= 1


def _distance(one: Sequence[int], other: Sequence[int]) -> int:
    return sum(abs(a - b) for a, b in zip(one, other, strict=True))
