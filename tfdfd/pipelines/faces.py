"""The old place of `tfdfd.data.crops`."""

from tfdfd.data.crops import Faces, faces_of

__all__ = ["Faces", "faces_of"]
