"""The four counts of verdicts at a threshold, what they say of each class, and whether it took a model to get them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from numpy.typing import ArrayLike

from tfdfd.metrics.checked import check_threshold, checked

# One-sided 5 % of the normal distribution.
_SURE = 1.6448536269514722


@dataclass(frozen=True)
class Confusion:
    """Counts of verdicts; shares of nothing are None.

    Attributes:
        real_as_real: real ones called real (true negatives, as fake is the positive class).
        real_as_fake: real ones called fake (false positives).
        fake_as_real: fake ones called real (false negatives).
        fake_as_fake: fake ones called fake (true positives).
    """

    real_as_real: int
    real_as_fake: int
    fake_as_real: int
    fake_as_fake: int

    @property
    def n_real(self) -> int:
        return self.real_as_real + self.real_as_fake

    @property
    def n_fake(self) -> int:
        return self.fake_as_real + self.fake_as_fake

    @property
    def fpr(self) -> float | None:
        """Share of real ones called fake."""
        return _share(self.real_as_fake, self.n_real)

    @property
    def tpr(self) -> float | None:
        """Share of fake ones called fake."""
        return _share(self.fake_as_fake, self.n_fake)

    @property
    def accuracy(self) -> float | None:
        """Share of right verdicts."""
        return _share(self.real_as_real + self.fake_as_fake, self.n_real + self.n_fake)

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean of both classes' shares of right verdicts."""
        return None if self.fpr is None or self.tpr is None else (1 - self.fpr + self.tpr) / 2

    @property
    def majority(self) -> float | None:
        """The accuracy of whoever gives the more frequent class's verdict to all."""
        return _share(max(self.n_real, self.n_fake), self.n_real + self.n_fake)

    def counts(self) -> dict[str, int]:
        """The four by name."""
        return asdict(self)


def confusion(labels: ArrayLike, scores: ArrayLike, threshold: float) -> Confusion:
    """Counts of verdicts, where a score from `threshold` up is called fake.

    Raises:
        MetricError: see `checked`; or the threshold is outside [0, 1].
    """
    fake, scores = checked(labels, scores)
    check_threshold(threshold)
    called = scores >= threshold
    return Confusion(
        int((~fake & ~called).sum()),
        int((~fake & called).sum()),
        int((fake & ~called).sum()),
        int((fake & called).sum()),
    )


def class_table(found: Confusion) -> dict[str, dict[str, float | int | None]]:
    """Precision, recall, F1 and support of `real` and `fake`, and their means `macro` and `weighted` (by support).

    None where there is no such number: the precision of a verdict never given, recall and F1 of a class without
    examples, and a mean of any such. A class without examples has no part in the weighted mean. (scikit-learn puts
    0 there and warns.)
    """
    rows = {
        "real": _of_class(found.real_as_real, found.fake_as_real, found.real_as_fake),
        "fake": _of_class(found.fake_as_fake, found.real_as_fake, found.fake_as_real),
    }
    both, total = list(rows.values()), found.n_real + found.n_fake
    rows["macro"] = {name: _mean(both, name, [1, 1]) for name in ("precision", "recall", "f1")} | {"support": total}
    supports = [row["support"] for row in both]
    rows["weighted"] = {name: _mean(both, name, supports) for name in ("precision", "recall", "f1")}
    rows["weighted"]["support"] = total
    return rows


def no_better_than_majority(found: Confusion) -> bool:
    """Whether its verdicts are not surely better than giving the more frequent class's verdict to all.

    McNemar's test with continuity correction, one-sided at 5 %: against that rule the model gains the rarer ones it
    finds and loses the more frequent ones it misses. So nearly-all-fake is no better than all-fake, by however little
    its accuracy exceeds it. Examples are taken as independent: meant for videos.
    """
    by_class = (found.real_as_real, found.real_as_fake), (found.fake_as_fake, found.fake_as_real)
    (gained, _), (_, lost) = sorted(by_class, key=sum)
    if gained <= lost:
        return True
    return (gained - lost - 1) / math.sqrt(gained + lost) <= _SURE


def _share(part, whole):
    return part / whole if whole else None


def _of_class(right, wrongly_called, missed):
    support = right + missed
    return {
        "precision": _share(right, right + wrongly_called),
        "recall": _share(right, support),
        "f1": _share(2 * right, 2 * right + wrongly_called + missed) if support else None,
        "support": support,
    }


def _mean(rows, name, weights):
    pairs = [(row[name], weight) for row, weight in zip(rows, weights, strict=True) if weight]
    if not pairs or any(value is None for value, _ in pairs):
        return None
    return sum(value * weight for value, weight in pairs) / sum(weight for _, weight in pairs)
