"""Why a figure cannot be computed: whoever makes a table writes these reasons where the figure would stand."""


class MetricError(ValueError):
    """There is no such figure for what was given; the message says why and what would help."""


class LengthError(MetricError):
    """Labels and scores do not belong together, or there are none."""


class LabelError(MetricError):
    """A label is neither 0 (real) nor 1 (fake), or one video has both."""


class ScoreError(MetricError):
    """A score is no P(fake): not a number, or outside [0, 1]."""


class OneClassError(MetricError):
    """Only real or only fake examples, where the figure compares the two."""


class TooFewError(MetricError):
    """Fewer examples than the figure can be told from."""


class CalibrationError(MetricError):
    """Scores that no monotone calibration fits."""


class CoverageError(MetricError):
    """Fewer videos have a score than was asked for."""
