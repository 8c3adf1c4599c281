"""tfdfd: deepfake detection in Keras and TensorFlow. `fake_probability` is P(fake): 1 = fake, everywhere."""

import importlib
from typing import TYPE_CHECKING

from tfdfd.hub.tf_hub import register as _register
from tfdfd.version import __version__

if TYPE_CHECKING:
    from tfdfd import models, tuning
    from tfdfd.detect.detector import Detector, detect
    from tfdfd.detect.results import Detection
    from tfdfd.hub.layer import HubLayer
    from tfdfd.hub.presets import from_preset
    from tfdfd.media import Limits

__all__ = [
    "Detection", "Detector", "HubLayer", "Limits", "__version__", "detect", "from_preset", "models", "tuning",
]  # fmt: skip

_MODULES = {
    "Detector": "tfdfd.detect.detector",
    "Detection": "tfdfd.detect.results",
    "HubLayer": "tfdfd.hub.layer",
    "Limits": "tfdfd.media",
    "from_preset": "tfdfd.hub.presets",
}
_PACKAGES = ("detect", "models", "tuning")
# From here on, hub.load and hub.KerasLayer take "tfdfd/...".
_register()


def __getattr__(name: str) -> object:
    # Imported on first use: `tfdfd --help` does not wait for OpenCV, and only scoring waits for TensorFlow.
    if name in _PACKAGES:
        return importlib.import_module(f"tfdfd.{name}")
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'tfdfd' has no attribute {name!r}; it has {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return list(__all__)
