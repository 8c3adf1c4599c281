"""What TensorFlow Hub asks for the folder of a handle. Imports nothing heavy: `import tfdfd` brings it."""

from __future__ import annotations


class Resolver:
    """Of the kind that `tensorflow_hub.registry.resolver` takes."""

    def is_supported(self, handle) -> bool:
        """Whether this is for us: mistyped handles, too, since no folder of that name may answer in our place."""
        return isinstance(handle, str) and (handle == "tfdfd" or handle.startswith("tfdfd/"))

    def __call__(self, handle: str) -> str:
        """The folder of a checked SavedModel.

        Raises:
            HubError: the handle is mistyped, nobody has trained such weights, or what was found is not what was
                published.
        """
        from tfdfd.hub.finding import find

        return str(find(handle).path)
