"""Makes other libraries understand what is ours, whichever is imported first: TensorFlow Hub the handles `tfdfd/…`,
Keras the layers, optimizers and schedules in a saved model; and `tfdfd.weights.store.locate` the handles of published
models.

Imports none of them, and no module of ours before a saved model holds something of it.
"""

from __future__ import annotations

import importlib
import sys
import warnings

from tfdfd.hub.resolver import Resolver
from tfdfd.weights.store import look_further

_HUB, _KERAS = "tensorflow_hub", "keras"
# What is registered with Keras, by the module that has it.
CLASSES = {
    "tfdfd.augment.degrade": ("RandomBlur", "RandomNoise", "RandomResize"),
    "tfdfd.augment.geometry": ("RandomScale", "RandomTurn"),
    "tfdfd.augment.jpeg": ("RandomJpeg",),
    "tfdfd.augment.policies": ("Augmentation",),
    "tfdfd.hub.layer": ("HubLayer",),
    "tfdfd.models.clip_vit": ("BiasTunedDense", "SelfAttention", "TokenStatistics", "Tokens"),
    "tfdfd.models.srm": ("SRM",),
    "tfdfd.models.svm": ("RbfSvm",),
    "tfdfd.training.optimizers": ("GradientNoise", "GradientRecord", "RAdam", "SeparateAverage"),
    "tfdfd.training.schedules": ("DividedEvery",),
}
FUNCTIONS = {"tfdfd.models.clip_vit": ("quick_gelu",)}


def register() -> None:
    """Adds what is ours to each library: now where it is imported already, else as soon as it is.

    Weights are looked up in the same hubs from then on.
    """
    look_further(_weights)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    for library, add in _ADDERS.items():
        if sys.modules.get(library) is not None:
            importlib.import_module(library)  # waits until another thread is done with importing it
            add()


def _weights(handle):
    from tfdfd.hub.weights import find_weights

    return find_weights(handle)


class _Finder:
    """Finds a library where the other finders do, and has what is ours added after it was executed.

    After, because of TensorFlow Hub's resolvers the last one added is asked first, and its own take any string for the
    path of a folder: `tfdfd/…` in the current folder would be loaded unchecked.
    """

    @staticmethod
    def find_spec(name, path=None, target=None):
        add = _ADDERS.get(name)
        if add is None:
            return None
        others = (finder for finder in sys.meta_path if not isinstance(finder, _Finder))
        specs = (finder.find_spec(name, path, target) for finder in others if hasattr(finder, "find_spec"))
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_add(module):
                execute(module)
                add()

            spec.loader.exec_module = execute_and_add
        return spec


def _add_resolver():
    try:
        resolvers = importlib.import_module(f"{_HUB}.registry").resolver
        resolvers.add_implementation(Resolver())
    except (ImportError, AttributeError) as error:
        # Whoever imports TensorFlow Hub may want something else of it.
        warnings.warn(
            f"this {_HUB} does not take the handles of tfdfd ({error}): pip install 'tfdfd[hub]' brings one that "
            "does. tfdfd.HubLayer works without.",
            RuntimeWarning,
            stacklevel=2,
        )


def _add_placeholders():
    """Registers under each name something that imports what it stands for when a saved model asks for it.

    Not the classes themselves: Keras may be imported by one of their modules, which is then half executed.
    """
    try:
        saving = importlib.import_module(f"{_KERAS}.saving")
        for table, placeholder in ((CLASSES, _class_placeholder), (FUNCTIONS, _function_placeholder)):
            for module, names in table.items():
                for name in names:
                    if saving.get_registered_object(f"tfdfd>{name}") is None:
                        saving.register_keras_serializable("tfdfd", name)(placeholder(module, name))
    except (ImportError, AttributeError) as error:
        # Whoever imports Keras may want something else of it.
        warnings.warn(
            f"this {_KERAS} does not load models with layers of tfdfd ({error}): 'pip install tfdfd' brings one that "
            "does.",
            RuntimeWarning,
            stacklevel=2,
        )


def _class_placeholder(module, name):
    class Placeholder:
        @classmethod
        def from_config(cls, config, **kwargs):
            return _ours(module, name).from_config(config, **kwargs)

        def get_config(self):  # Keras registers no class without
            raise NotImplementedError(f"{name} is in {module}.")

    Placeholder.__name__ = Placeholder.__qualname__ = name
    return Placeholder


def _function_placeholder(module, name):
    def placeholder(*arguments, **kwargs):
        return _ours(module, name)(*arguments, **kwargs)

    placeholder.__name__ = placeholder.__qualname__ = name
    return placeholder


def _ours(module, name):
    return getattr(importlib.import_module(module), name)


_ADDERS = {_HUB: _add_resolver, _KERAS: _add_placeholders}
