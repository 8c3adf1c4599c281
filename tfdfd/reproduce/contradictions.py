"""Contradictions of the documents, each computed from their own printed numbers or counted from the network."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from tfdfd import reproduce as printed
from tfdfd.data.tables import FaceRow
from tfdfd.reproduce.data import people_in_both


@dataclass(frozen=True)
class Contradiction:
    """A statement of a document against what follows from its own numbers.

    Attributes:
        place: where it stands.
        says: what the document says.
        follows: what follows, with the computed numbers.
        is_one: whether the two differ; False if the check holds.
    """

    place: str
    says: str
    follows: str
    is_one: bool


def contradictions(document: str, rows: Sequence[FaceRow] = ()) -> list[Contradiction]:
    """All checks of a document.

    Args:
        document: `s0` to `s4`.
        rows: our crops, for what a split at random would leak.
    """
    return [found for check in _CHECKS[document] for found in check(rows)]


def _s0_clock(_: Sequence[FaceRow]) -> Iterator[Contradiction]:
    seconds = {name: seconds / percent for name, (percent, seconds) in printed.S0_SAVES.items()}
    low, high = min(seconds.values()), max(seconds.values())
    cycles = 100 * (low + high) / 2 * printed.S0_CLOCK_HZ
    yield Contradiction(
        "table 3",
        "wall clock saved: 8.26, 23.84, 28.96, 35.89 s",
        f"each is its percentage times the same {low:.3f} to {high:.3f} s (spread {high / low - 1:.2%}): "
        f"{cycles / 1e9:,.0f} billion cycles divided by 2.7 GHz. No clock was read",
        high / low < 1.002,
    )


def _s0_more_data(_: Sequence[FaceRow]) -> Iterator[Contradiction]:
    for network, said in (("meso_inception4", "0.32 to 0.17"), ("mobilenet_v3", "0.22 to 0.15")):
        before, after = (_s0_accuracy(table, network) for table in ("table 1", "table 2"))
        yield Contradiction(
            "abstract and section 3.1",
            f"more training data increase the accuracy; {network}: error falls {said}",
            f"on the test set, accuracy goes from {before:.2%} (table 1) to {after:.2%} (table 2)",
            after < before,
        )
    small, large = (_s0_accuracy("table 1", name) for name in ("mobilenet_v3", "meso_inception4"))
    yield Contradiction(
        "section 3.2", "both networks have similar performance",
        f"table 1: {small:.2%} against {large:.2%} on 7,104 images", large - small > 0.05,
    )  # fmt: skip


def _s0_accuracy(table: str, network: str) -> float:
    counts = printed.S0_CONFUSION[table][network]
    return (counts[0] + counts[3]) / sum(counts)


def _s1_union(_: Sequence[FaceRow]) -> Iterator[Contradiction]:
    for place, (*parts, combined) in printed.S1_ACCURACIES.items():
        low, high = min(parts), max(parts)
        yield Contradiction(
            place,
            f"{', '.join(f'{part:.1%}' for part in parts)} on the parts, {combined:.2%} on the combined set",
            f"accuracy on a union lies between those of its parts, {low:.1%} and {high:.1%}; their plain mean is "
            f"{sum(parts) / len(parts):.2%}",
            not low <= combined <= high,
        )
    abstract, conclusion = (values[0] for values in printed.S1_ACCURACIES.values())
    yield Contradiction(
        "abstract and section 5", f"Deepfakes: {abstract:.0%} in the abstract",
        f"the conclusion gives {conclusion:.0%} for the same network and data set", abstract != conclusion,
    )  # fmt: skip


def _s1_tables(_: Sequence[FaceRow]) -> Iterator[Contradiction]:
    for table, said in printed.S1_PRINTED_ACCURACY.items():
        rows = printed.S1_CLASSES[table]
        total = sum(row[3] for row in rows)
        follows = sum(row[1] * row[3] for row in rows) / total
        yield Contradiction(
            f"section 4.3 and {table}", f"test accuracy {said:.2%}",
            f"recall and support of {table} give {follows:.1%} of {total:,} images", abs(follows - said) > 0.01,
        )  # fmt: skip


def _s1_shares(_: Sequence[FaceRow]) -> Iterator[Contradiction]:
    train, val, test = 14020, 3502, 1945
    total = train + val + test
    shares = [part / total for part in (train, val, test)]
    yield Contradiction(
        "section 4.1.1", "train, validation, test 70:20:10",
        f"tables 2 and 3 count {'/'.join(f'{share:.0%}' for share in shares)} of {total:,}",
        abs(shares[0] - 0.7) > 0.01,
    )  # fmt: skip
    yield Contradiction(
        "tables 1, 2 and 4",
        "one test set",
        "it has 7,148 images in table 1, 1,945 in table 2 and 7,104 in table 4",
        True,
    )


def _s2_macs(_: Sequence[FaceRow]) -> Iterator[Contradiction]:
    counted = resnext_macs()
    said = printed.S2_COSTS[printed.RESNEXT][0]
    yield Contradiction(
        "table 7.1", f"ResNeXt101_32x8d: {said} G MACs at 224x224",
        f"counted with the same rule: {counted[224]:.2f} G at 224 px, {counted[299]:.2f} G at 299 px",
        abs(counted[224] - said) > 0.1,
    )  # fmt: skip


@cache
def resnext_macs() -> dict[int, float]:
    """MACs of ResNeXt101_32x8d in G by input side, with the thesis's rule."""
    import keras

    from tfdfd.models import build
    from tfdfd.models.counting import thesis_macs

    counted = {}
    for size in (printed.PRINTED_SIZE, printed.TRUE_SIZE):
        counted[size] = thesis_macs(build(printed.RESNEXT, None, (size, size, 3))) / 1e9
        keras.utils.clear_session()
    return counted


def _s2_size(_: Sequence[FaceRow]) -> Iterator[Contradiction]:
    size, learned = printed.S2_COSTS["reseption_v1"][2], 16_888_257
    follows = 67_673_900
    yield Contradiction(
        "table 7.1", f"Reseption V1 takes {size} MB ({learned:,} parameters in float32)",
        f"its state has {follows:,} bytes: {follows / 1e6:.1f} MB or {follows / 2**20:.1f} MiB, and "
        f"{follows / 1.024e6:.1f} in units of 1,024,000 bytes",
        abs(follows / 1e6 - size) > 0.5 and abs(follows / 2**20 - size) > 0.5,
    )  # fmt: skip


def _s2_balanced(_: Sequence[FaceRow]) -> Iterator[Contradiction]:
    """Table 7.7 against table 7.6, whose percentages fit one size of each category only."""
    fakes, reals = s2_test_sizes()
    differing = []
    for number, (network, said) in enumerate(zip(printed.S2_TESTED, printed.S2_BALANCED, strict=True)):
        column = [row[number] for row in printed.S2_TEST_ACCURACY]
        right = [round(share / 100 * size) for share, size in zip(column, (*fakes, reals), strict=False)]
        follows = 50 * (sum(right[:-1]) / sum(fakes) + right[-1] / reals)
        if abs(follows - said) > 0.05:
            differing.append(f"{network} {follows:.2f} % (printed {said:.2f} %)")
    yield Contradiction(
        "tables 7.6 and 7.7", "balanced accuracy of the same videos",
        f"table 7.6's shares fit {fakes[0]} DeepFakeDetection, 4 x 140 and {reals} real videos, which give "
        f"{'; '.join(differing) or 'the printed values'}", bool(differing),
    )  # fmt: skip


@cache
def s2_test_sizes() -> tuple[tuple[int, ...], int]:
    """Videos of each fake category and of the originals in S2's test split, as table 7.6's percentages tell them.

    The four methods of FaceForensics++ have 140 test videos each. The size of the others is the first one of which all
    percentages are whole counts, and which gives the overall accuracies best.
    """
    rows = printed.S2_TEST_ACCURACY

    def fits(size: int, column: Sequence[float]) -> bool:
        return all(abs(round(share / 100 * size) / size * 100 - share) < 0.0051 for share in column)

    first = [size for size in range(100, 500) if fits(size, rows[0])]
    last = [size for size in range(100, 300) if fits(size, rows[5])]

    def error(sizes: Sequence[int]) -> float:
        fakes = (sizes[0], 140, 140, 140, 140, sizes[1])
        wrong = 0.0
        for number, overall in enumerate(rows[6]):
            right = sum(round(row[number] / 100 * size) for row, size in zip(rows, fakes, strict=False))
            wrong += abs(100 * right / sum(fakes) - overall)
        return wrong

    dfd, reals = min(itertools.product(first, last), key=error)
    return (dfd, 140, 140, 140, 140), reals


def _s3_sizes(_: Any) -> Iterator[Contradiction]:
    for size, (_, _, _, tested, videos) in printed.S3_SETS.items():
        share = tested / size
        yield Contradiction(
            "sections IV and V, table 2", "15 % of the set is test, or 25 %",
            f"{tested:,} of {size:,} crops are {share:.1%}", min(abs(share - 0.15), abs(share - 0.25)) > 0.005,
        )  # fmt: skip
        if videos == 1:
            yield Contradiction(
                "table 1", f"{size} crops, real and fake, of one video, in training, validation and test",
                "one video shows one person: the same people are in all three parts, whatever the split", True,
            )  # fmt: skip


def _s3_mean(_: Sequence[FaceRow]) -> Iterator[Contradiction]:
    mean = sum(values[0][2] for values in printed.S3_SETS.values()) / len(printed.S3_SETS)
    yield Contradiction(
        "section VI", f"{printed.S3_MEAN:.1%} accuracy on average",
        f"table 2's test accuracies have a mean of {mean:.2%}", abs(mean - printed.S3_MEAN) > 0.0005,
    )  # fmt: skip


def _s4_majority(_: Sequence[FaceRow]) -> Iterator[Contradiction]:
    real, fake = printed.CELEBDF
    majority = fake / (real + fake)
    values = [value for pair in printed.S4_ACCURACY.values() for value in pair]
    yield Contradiction(
        "section 2", f"accuracies of {min(values):.0%} to {max(values):.0%}; the networks gain a good accuracy",
        f"every confusion matrix is all fake: accuracy is then the share of fakes, {majority:.1%} of {real + fake:,} "
        "videos of Celeb-DF v2. AUC of 51 to 55 % says the same", all(abs(v - majority) < 0.04 for v in values),
    )  # fmt: skip
    yield Contradiction(
        "section 1.1", "590 real videos", f"its folders also have YouTube-real, {real - 590} videos", real != 590
    )


def _people(shares: dict[str, float], where: str) -> Callable[[Sequence[FaceRow]], Iterator[Contradiction]]:
    def check(rows: Sequence[FaceRow]) -> Iterator[Contradiction]:
        if not rows:
            return
        crossing, sources = people_in_both(rows, shares)
        yield Contradiction(
            where, "a split at random, crop by crop or file by file",
            f"on our crops it puts {crossing:,} of {sources:,} original videos in several parts; the split here puts "
            "none", crossing > 0,
        )  # fmt: skip

    return check


_CHECKS: dict[str, tuple[Callable, ...]] = {
    "s0": (_s0_clock, _s0_more_data, _people({"train": 0.9, "val": 0.1}, "section 4.1, people in both parts")),
    "s1": (
        _s1_union, _s1_tables, _s1_shares,
        _people({"train": 0.7, "val": 0.2, "test": 0.1}, "section 4.1.1, people in both parts"),
    ),
    "s2": (
        _s2_macs, _s2_size, _s2_balanced,
        _people({"train": 0.72, "val": 0.14, "test": 0.14}, "section 3.1.1, DeepFakeDetection at random"),
    ),
    "s3": (_s3_sizes, _s3_mean, _people({"train": 0.7, "val": 0.15, "test": 0.15}, "section V, people in both parts")),
    "s4": (_s4_majority, _people({"train": 0.85, "val": 0.15}, "section 1.6, people in both parts")),
}  # fmt: skip
