"""Which part of a pretrained network stays as it is."""

from __future__ import annotations

import keras

from tfdfd.near_matches import did_you_mean


def freeze(model: keras.Model, until: str, thesis: str | None = None, kernels: tuple[str, ...] = ()) -> keras.Model:
    """Freezes a part of `model` and returns it. A frozen norm keeps its statistics, too.

    (PyTorch's norms, frozen by `requires_grad` alone as in the thesis, go on averaging theirs.)

    Args:
        model: a network with a layer `features`.
        until: `"none"`; `"all"`: everything up to `features`, so that only the head trains; `"thesis"`: what S2's
            Table 5.2 freezes; `"kernels"`: the layers `kernels` alone; or the name of a layer: it and everything that
            it depends on.
        thesis: name of the last layer frozen in Table 5.2; None for a network that is not in it.
        kernels: names of the layers that `"kernels"` freezes as a whole; empty for a network without that choice. (Of
            layers with kernel and bias, the builder freezes the kernel.)

    Raises:
        ValueError: `until` is neither; lists the near names.
    """
    words = (
        {"none": None, "all": "features"}
        | ({"thesis": thesis} if thesis else {})
        | ({"kernels": None} if kernels else {})
    )
    names = [layer.name for layer in model.layers]
    if until not in words and until not in names:
        hint = did_you_mean(until, [*words, *names], otherwise="it is none of them.")
        raise ValueError(
            f"{model.name} can be frozen as {', '.join(words)}, or up to a layer by name; received {until!r}; {hint}"
        )
    if kernels and until == "kernels":
        for name in kernels:
            model.get_layer(name).trainable = False
    last = words.get(until, until)
    if last is not None:
        for layer in keras.Model(model.input, model.get_layer(last).output).layers:
            layer.trainable = False
    return model
