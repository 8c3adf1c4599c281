"""Why a training stopped that should not have."""


class TrainingError(RuntimeError):
    """It cannot go on; the message says where and why. What was saved before stays good."""
