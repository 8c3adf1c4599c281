"""On what a training runs: the devices asked for, or an error where they are not there."""

from __future__ import annotations

import contextlib

import keras


@contextlib.contextmanager
def distributed(device: str | None = None, count: int = 1):
    """Within, each batch is shared among `count` devices by Keras's own distribution API.

    Args:
        device: `cpu` or `gpu`, which must be there; None: what the backend finds.
        count: of devices; more than one needs Keras's JAX backend.

    Raises:
        ValueError: they are not there, or the backend cannot share.
    """
    backend = keras.backend.backend()
    found = keras.distribution.list_devices(device)
    if device and not found:
        every = ", ".join(keras.distribution.list_devices()) or "none"
        raise ValueError(f"there is no {device} that {backend} can use; it finds {every}. Leave --device out.")
    if count == 1:
        yield
        return
    if backend != "jax":
        raise ValueError(f"several devices need Keras's JAX backend; received {backend}: give --backend jax.")
    if len(found) < count:
        raise ValueError(f"{count} devices were asked for; {backend} finds {len(found)}: {', '.join(found)}.")
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(devices=found[:count], auto_shard_dataset=False)
    )
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)
