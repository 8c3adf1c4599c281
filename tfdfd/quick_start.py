"""Quick imports of TensorFlow and Keras in the processes of this package.

TensorFlow and Keras import scikit-learn, Matplotlib and JAX, where these are installed, for features that nothing here
uses (`keras.wrappers`, `keras.visualization`, conversion of JAX functions to LiteRT): a third of the time that they
take to start. Whoever else imports these libraries gets them. This is for the package's own processes only: in a user's
process, those features must work.
"""

import sys
from collections.abc import Sequence

# A library, and the modules that only offer features with it.
_OPTIONAL = {
    "jax": ("tensorflow.lite.", "keras.src.callbacks."),
    "sklearn": ("keras.src.wrappers.",),
    "matplotlib": ("keras.src.visualization.",),
}


class _WithoutOptional:
    """A finder that reports an optional library as missing to the modules that would load it in vain."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> None:
        importers = _OPTIONAL.get(name)
        frame = sys._getframe(1) if importers else None
        while importers and frame is not None:
            module = frame.f_globals.get("__name__") or ""
            if module.startswith(importers):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            if not module.startswith("importlib."):
                return
            frame = frame.f_back


def import_quickly() -> None:
    """From here on, this process imports TensorFlow and Keras without the libraries that they do not need."""
    if not any(isinstance(finder, _WithoutOptional) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WithoutOptional())
