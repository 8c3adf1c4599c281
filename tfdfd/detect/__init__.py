"""Detection: files, arrays and images in, verdicts out. The package is callable: `tfdfd.detect("clip.mp4").verdict`."""

from __future__ import annotations

import sys
import types


class _Package(types.ModuleType):
    """A package that can be called, since it bears the name of the function that people want of it."""

    def __call__(self, media, **options):
        from tfdfd.detect.detector import detect

        return detect(media, **options)


sys.modules[__name__].__class__ = _Package
