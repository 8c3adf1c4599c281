"""On the path of the tests' child processes: TensorFlow and Keras start as in a plain installation.

Where JAX, scikit-learn and Matplotlib are installed, as for tests, the imports of TensorFlow and Keras load them, too,
though they do not need them: that is half of the time that a child process takes to start. Whoever else imports them
gets them.
"""

import sys


class _Plain:
    """Does not find optional packages for those who would only load them."""

    OPTIONAL = {
        "jax": ("tensorflow.lite.", "keras.src.callbacks."),
        "sklearn": ("keras.src.wrappers.",),
        "matplotlib": ("keras.src.visualization.",),
    }

    def find_spec(self, name, path=None, target=None):
        askers = self.OPTIONAL.get(name)
        frame = sys._getframe(1) if askers else None
        while frame is not None:
            module = frame.f_globals.get("__name__") or ""
            if module.startswith(askers):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            if not module.startswith("importlib."):
                return None
            frame = frame.f_back
        return None


sys.meta_path.insert(0, _Plain())
