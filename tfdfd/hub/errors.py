"""What goes wrong with published models."""


class HubError(ValueError):
    """A handle, manifest, folder or address of published models that is of no use; says what, and how to fix it."""


class HubUnreachable(HubError):
    """The address does not answer: what is on this machine may still do."""


class HubWarning(UserWarning):
    """An address of published models does not answer, and a model from elsewhere was taken."""
