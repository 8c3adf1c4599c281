"""The part of a network below its head, to be built upon."""

import keras


def copy_body(model, name):
    """A copy of `model` from its image to its layer `features`, with its weights; `model` stays as it is.

    Raises:
        ValueError: `model` has no layer `features`.
    """
    if "features" not in {layer.name for layer in model.layers}:
        raise ValueError(
            f"{model.name}, given as {name}, has no layer 'features'; give a network of tfdfd.models.build."
        )
    body = keras.Model(model.input, model.get_layer("features").output, name=name)
    copied = keras.models.clone_model(body)
    copied.set_weights(body.get_weights())
    return copied
