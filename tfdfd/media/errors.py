"""The one way in which reading media fails, and the statuses in which an input can end."""

# `ok` alone has a score.
STATUSES = ("ok", "no_face", "decode_error", "unsupported", "too_large", "timeout", "not_found")


class MediaError(Exception):
    """An input that cannot be scored.

    Attributes:
        status: one of the contract's statuses, such as `decode_error`.
        message: what was found and what to do about it, for the person who gave the file.
    """

    def __init__(self, status: str, message: str):
        super().__init__(message)
        self.status, self.message = status, message
