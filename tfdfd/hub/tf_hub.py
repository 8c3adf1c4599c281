"""Registration with TensorFlow Hub (handles `tfdfd/…`) and Keras (layers, optimizers, schedules in saved models).

Works whichever library is imported first. Imports none of them, and none of our modules until a saved model needs one.
`tfdfd.weights.store.locate` learns the handles of published models here, too.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tfdfd.weights.store import look_further

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from tfdfd.weights import WeightRecord

_HUB, _KERAS = "tensorflow_hub", "keras"
# Classes registered with Keras, by module.
CLASSES = {
    "tfdfd.pipelines.augmentation": ("Augmentation",),
    "tfdfd.hub.layer": ("HubLayer",),
    "tfdfd.models.clip_vit": ("BiasTunedDense", "SelfAttention", "TokenStatistics", "Tokens"),
    "tfdfd.models.srm": ("SRM",),
    "tfdfd.models.svm": ("RbfSvm",),
    "tfdfd.training.optimizers": ("DividedEvery", "GradientNoise", "GradientRecord", "RAdam", "SeparateAverage"),
}
FUNCTIONS = {"tfdfd.models.clip_vit": ("quick_gelu",)}


def register() -> None:
    """Registers with each library: now if it is imported already, else right after its import.

    From then on, weights are looked up in hubs, too.
    """
    look_further(_weights)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    for library, add in _ADDERS.items():
        if sys.modules.get(library) is not None:
            importlib.import_module(library)  # waits for another thread that is importing it
            add()


def _weights(handle: str) -> tuple[WeightRecord, Path] | None:
    from tfdfd.hub.weights import find_weights

    return find_weights(handle)


class Resolver:
    """Resolver of TensorFlow Hub (`tensorflow_hub.registry.resolver`) for handles `tfdfd/…`."""

    def is_supported(self, handle: object) -> bool:
        """True for every handle below `tfdfd/`, even a mistyped one: no local folder may answer in its place."""
        return isinstance(handle, str) and (handle == "tfdfd" or handle.startswith("tfdfd/"))

    def __call__(self, handle: str) -> str:
        """The folder of a checked SavedModel.

        Raises:
            HubError: the handle is mistyped, its weights are not trained, or files differ from the manifest.
        """
        from tfdfd.hub.resolve import find

        return str(find(handle).path)


class _Finder:
    """Import hook that registers with a library right after its import.

    TensorFlow Hub asks the resolver added last first, and its own resolvers take any string for a folder: without ours,
    `tfdfd/…` in the current folder would be loaded unchecked.
    """

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        add = _ADDERS.get(name)
        if add is None:
            return None
        others = (finder for finder in sys.meta_path if not isinstance(finder, _Finder))
        specs = (finder.find_spec(name, path, target) for finder in others if hasattr(finder, "find_spec"))
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_add(module: ModuleType) -> None:
                execute(module)
                add()

            spec.loader.exec_module = execute_and_add  # type: ignore[method-assign]
        return spec


def _add_resolver() -> None:
    try:
        resolvers = importlib.import_module(f"{_HUB}.registry").resolver
        resolvers.add_implementation(Resolver())
    except (ImportError, AttributeError) as error:
        # A warning, since TensorFlow Hub may be imported for another purpose.
        warnings.warn(
            f"this {_HUB} does not take the handles of tfdfd ({error}): pip install 'tfdfd[hub]' brings one that "
            "does. tfdfd.HubLayer works without.",
            RuntimeWarning,
            stacklevel=2,
        )


def _add_placeholders() -> None:
    """Registers placeholders that import the real class or function when a saved model needs it.

    The modules cannot be imported here: one of them may be importing Keras, and is then half executed.
    """
    try:
        saving = importlib.import_module(f"{_KERAS}.saving")
        for table, placeholder in ((CLASSES, _class_placeholder), (FUNCTIONS, _function_placeholder)):
            for module, names in table.items():
                for name in names:
                    if saving.get_registered_object(f"tfdfd>{name}") is None:
                        saving.register_keras_serializable("tfdfd", name)(placeholder(module, name))
    except (ImportError, AttributeError) as error:
        # A warning, since Keras may be imported for another purpose.
        warnings.warn(
            f"this {_KERAS} does not load models with layers of tfdfd ({error}): 'pip install tfdfd' brings one that "
            "does.",
            RuntimeWarning,
            stacklevel=2,
        )


def _class_placeholder(module: str, name: str) -> type:
    class Placeholder:
        @classmethod
        def from_config(cls, config: dict[str, Any], **kwargs: Any) -> Any:
            return _real(module, name).from_config(config, **kwargs)

        def get_config(self) -> NoReturn:  # Keras registers no class without
            raise NotImplementedError(f"{name} is in {module}.")

    Placeholder.__name__ = Placeholder.__qualname__ = name
    return Placeholder


def _function_placeholder(module: str, name: str) -> Callable[..., Any]:
    def placeholder(*arguments: Any, **kwargs: Any) -> Any:
        return _real(module, name)(*arguments, **kwargs)

    placeholder.__name__ = placeholder.__qualname__ = name
    return placeholder


def _real(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


_ADDERS = {_HUB: _add_resolver, _KERAS: _add_placeholders}
