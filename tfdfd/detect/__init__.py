"""Detection: verdicts for files, arrays and images. The package is callable: `tfdfd.detect("clip.mp4").verdict`."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfdfd.detect.detector import Media
    from tfdfd.detect.results import Detection


class _Package(types.ModuleType):
    """A callable package: it has the name of the function that users expect."""

    def __call__(self, media: Media, **options: Any) -> Detection | list[Detection]:
        from tfdfd.detect.detector import detect

        return detect(media, **options)


sys.modules[__name__].__class__ = _Package
