"""Makes `hub.load` and `hub.KerasLayer` understand `tfdfd/…`, whichever of the two packages is imported first, and
`tfdfd.weights.store.locate` the handles of published models."""

from __future__ import annotations

import importlib
import sys
import warnings

from tfdfd.hub.resolver import Resolver
from tfdfd.weights.store import look_further

_LIBRARY = "tensorflow_hub"


def register() -> None:
    """Adds our resolver to TensorFlow Hub: now where it is imported already, else as soon as it is.

    Weights are looked up in the same hubs from then on.

    Imports neither TensorFlow Hub nor TensorFlow.
    """
    look_further(_weights)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    if sys.modules.get(_LIBRARY) is not None:
        importlib.import_module(_LIBRARY)  # waits until another thread is done with importing it
        _add_resolver()


def _weights(handle):
    from tfdfd.hub.weights import find_weights

    return find_weights(handle)


class _Finder:
    """Finds TensorFlow Hub where the other finders do, and has our resolver added after it was executed.

    After, because of TensorFlow Hub's resolvers the last one added is asked first, and its own take any string for the
    path of a folder: `tfdfd/…` in the current folder would be loaded unchecked.
    """

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != _LIBRARY:
            return None
        others = (finder for finder in sys.meta_path if not isinstance(finder, _Finder))
        specs = (finder.find_spec(name, path, target) for finder in others if hasattr(finder, "find_spec"))
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_add(module):
                execute(module)
                _add_resolver()

            spec.loader.exec_module = execute_and_add
        return spec


def _add_resolver():
    try:
        resolvers = importlib.import_module(f"{_LIBRARY}.registry").resolver
        resolvers.add_implementation(Resolver())
    except (ImportError, AttributeError) as error:
        # Whoever imports TensorFlow Hub may want something else of it.
        warnings.warn(
            f"this {_LIBRARY} does not take the handles of tfdfd ({error}): pip install 'tfdfd[hub]' brings one that "
            "does. tfdfd.HubLayer works without.",
            RuntimeWarning,
            stacklevel=2,
        )
