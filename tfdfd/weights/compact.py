"""Smaller files of weights: kernels as float16, or as int8 with a scale for each channel; all else stays float32.

What a safetensors file then holds, and nothing else tells how it was written:

    NAME          float16   a kernel, rounded
    NAME          int8      a kernel divided by its scale, rounded, in -127 to 127
    NAME.scale    float32   beside it: as many axes as the kernel, 1 where it has one number for the whole axis

Biases and the numbers of norms are few, and what is divided by a variance shows each error of it. A network is to be
judged with the weights that come back (`expand`), not with those that were written.
"""

from __future__ import annotations

import numpy as np

FORMS = ("float32", "float16", "int8")
SCALE = ".scale"
_KERNEL = "kernel"
_LARGEST = 127
# Below these, scales take what the rounding to a byte saves, and errors show most (a last layer's one channel).
_MIN_VALUES, _MIN_A_CHANNEL = 4096, 32
# Of the largest number of a kernel; float16 keeps 2^-11 of each number but of those below 2^-14.
_MAX_ERROR = 2.0**-10


def compact(arrays: dict[str, np.ndarray], form: str) -> dict[str, np.ndarray]:
    """The arrays of a network as a file of this form has them.

    A number of a float16 kernel comes back within 2^-11 of itself, or within 2^-25 where that is more; one of an int8
    kernel within 1/254 of the largest of its channel.

    Args:
        arrays: by `<layer>/<weight>`; what ends in `kernel` is a kernel, with its outputs along the last axis (or
            the one before, where a depthwise kernel has 1 there).
        form: `float32`, as they are; `float16`; or `int8`, which writes kernels of fewer than 4,096 numbers, or of
            fewer than 32 for a channel, as float16.

    Raises:
        ValueError: unknown form, or a kernel that it cannot hold: numbers above 65,504 or not finite, or all so small
            that float16 rounds them by more than 2^-10 of the largest.
    """
    if form not in FORMS:
        raise ValueError(f"weights are written as one of {', '.join(FORMS)}; received {form!r}.")
    found = {}
    for name, values in arrays.items():
        if form == "float32" or not name.endswith(_KERNEL) or not np.issubdtype(values.dtype, np.floating):
            found[name] = values
            continue
        if not np.isfinite(values).all():
            raise ValueError(f"{name} has NaN or infinite numbers, which {form} does not keep; train it again.")
        channels = _channels(values)
        if form == "int8" and values.size >= _MIN_VALUES and values.size >= _MIN_A_CHANNEL * channels.size:
            scale = np.maximum(channels / _LARGEST, np.finfo(np.float32).tiny).astype(np.float32)
            found[name] = np.clip(np.round(values / scale), -_LARGEST, _LARGEST).astype(np.int8)
            found[name + SCALE] = scale
        else:
            found[name] = _halved(name, values)
    return found


def expand(stored: dict[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """The arrays that `compact` was given, kernels as float32; `where` they are from is for errors.

    Raises:
        ValueError: an int8 kernel without a scale, a scale without a kernel or of another shape, or numbers that are
            not finite.
    """
    found = {}
    for name, values in stored.items():
        if name.endswith(SCALE):
            kernel = stored.get(name.removesuffix(SCALE))
            if kernel is None or kernel.dtype != np.int8:
                raise ValueError(f"{where} has {name}, but no int8 array that it is the scale of.")
        elif values.dtype == np.int8:
            found[name] = values.astype(np.float32) * _scale_of(name, values, stored, where)
        elif values.dtype == np.float16:
            if not np.isfinite(values).all():
                raise ValueError(f"{where}: {name} has NaN or infinite numbers; it was not written by save_weights.")
            found[name] = values.astype(np.float32)
        else:
            found[name] = values
    return found


def _channels(values):
    """The largest magnitude of each channel, with axes of 1 for all others."""
    kept = 2 if values.ndim == 4 and values.shape[-1] == 1 else 1
    return np.abs(values).max(axis=tuple(range(values.ndim - kept)), keepdims=True)


def _halved(name, values):
    with np.errstate(over="ignore"):
        halved = values.astype(np.float16)
    largest = np.abs(values).max(initial=0)
    if np.isinf(halved).any():
        raise ValueError(
            f"{name} has numbers up to {largest:g}, but float16 ends at {np.finfo(np.float16).max:g}; write float32."
        )
    lost = np.abs(halved.astype(np.float32) - values).max(initial=0)
    if lost > _MAX_ERROR * largest:
        raise ValueError(
            f"{name} has no number above {largest:g}, which float16 would change by up to {lost:g}; write float32."
        )
    return halved


def _scale_of(name, values, stored, where):
    scale = stored.get(name + SCALE)
    if scale is None:
        raise ValueError(f"{where} has {name} as int8, but no {name}{SCALE} to multiply it by.")
    fits = scale.ndim == values.ndim and all(s in (1, v) for s, v in zip(scale.shape, values.shape, strict=True))
    if scale.dtype != np.float32 or not fits or not (np.isfinite(scale) & (scale > 0)).all():
        raise ValueError(
            f"{where}: {name}{SCALE} must be float32 numbers above 0 that fit the shape {values.shape}; received "
            f"{scale.dtype} of shape {scale.shape}."
        )
    return scale
