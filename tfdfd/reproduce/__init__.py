"""The source documents as data: experiments, protocols, and every number of their tables and figures.

A new number is one `Entry`; how ours is measured is named by `Entry.measure`, see `tfdfd.reproduce.results`. Shares are
in [0, 1]. `positive` is fake throughout, whatever the document calls positive.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tfdfd.data.index.datasets import CELEBDF_COUNTS, CELEBRITIES, FAKES, STRANGERS
from tfdfd.evaluation import tables
from tfdfd.recipes.s2_thesis import TRANSFER_NETWORKS
from tfdfd.recipes.s4_noise import AUC as S4_AUC

SHARE, LOSS, COUNT, MILLION, GIGA, SECONDS, PERCENT = "share", "loss", "count", "M", "G", "s", "percent"
CURVES, ROC, CONFUSION, GRADIENT_FLOW, KERNELS, REMOVED_BLOCKS = (
    "curves", "roc", "confusion", "gradient_flow", "kernels", "removed_blocks",
)  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """One training and its evaluation.

    Attributes:
        name: name of its folder.
        recipe: a recipe of `tfdfd.recipes`.
        settings: changes to the recipe, as `tfdfd train --set` takes them.
        members: experiments whose runs are its members.
        noise: whether it is trained on the SRM clone of the crops.
        crops: size of the balanced subset that it uses; None: all crops.
    """

    name: str
    recipe: str
    settings: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    noise: bool = False
    crops: int | None = None


@dataclass(frozen=True)
class Entry:
    """One printed number, or one figure.

    Attributes:
        place: table, figure or section.
        what: the quantity, for readers.
        printed: the number; None for a figure without one.
        unit: one of `SHARE`, `LOSS`, `COUNT`, `MILLION`, `GIGA`, `SECONDS`, `PERCENT`.
        digits: decimals that are printed, of a share as per cent.
        measure: how ours is obtained; None: it cannot be, see `cannot`.
        experiment: experiment whose result it is; None for what needs no training.
        data: data sets that the number is of; None: the document's.
        cannot: why the number cannot be reproduced whatever the data.
        picture: name of the picture that shows ours.
    """

    place: str
    what: str
    printed: float | None
    unit: str = SHARE
    digits: int = 2
    measure: str | None = None
    experiment: str | None = None
    data: tuple[str, ...] | None = None
    cannot: str | None = None
    picture: str | None = None


@dataclass(frozen=True)
class Document:
    """One source document.

    Attributes:
        name: `s0` to `s4`.
        title: title of the document.
        protocol: data, split and threshold of its numbers.
        data: data sets that its numbers are of.
        experiments: in the order in which they run.
        entries: every number and figure.
        split: shares of train, val and test that are made anew; None: the test split of the data stays.
        val_share: validation's share of what is not test, where the test split stays.
        test_share: the test's share of all rows, where the data have no held-out part.
        own_test: whether its numbers need the data set's own test split.
        balanced: whether each split has as many real as fake crops.
        evaluated: splits that are scored.
        extraction: settings of `tfdfd.data.FaceOptions` for videos.
        noise_kernel: kernel of the SRM clone.
    """

    name: str
    title: str
    protocol: str
    data: tuple[str, ...]
    experiments: tuple[Experiment, ...]
    entries: tuple[Entry, ...]
    split: dict[str, float] | None = None
    val_share: float = 0.1
    test_share: float = 0.15
    own_test: bool = False
    balanced: bool = False
    evaluated: tuple[str, ...] = ("test",)
    extraction: dict = field(default_factory=dict)
    noise_kernel: str = "KV"


_S0_NETWORKS = ("meso_inception4", "mobilenet_v3", "mobilenet_v3_r1", "mobilenet_v3_r2", "mobilenet_v3_r3")
# Tables 1 and 2: fake called fake, fake called real, real called fake, real called real.
S0_CONFUSION = {
    "table 1": {"mobilenet_v3": (2334, 511, 858, 3401), "meso_inception4": (2325, 520, 103, 4156)},
    "table 2": {"mobilenet_v3": (2298, 547, 1208, 3051), "meso_inception4": (2294, 551, 298, 3961)},
}
# Table 3: percent of MesoInception4's cycles that are saved, and "wall clock" seconds.
S0_SAVES = {
    "mobilenet_v3": (6.78, 8.26),
    "mobilenet_v3_r1": (19.56, 23.84),
    "mobilenet_v3_r2": (23.75, 28.96),
    "mobilenet_v3_r3": (29.44, 35.89),
}
S0_CLOCK_HZ = 2.7e9
_S0_DATA = {"table 1": ("mesonet",), "table 2": ("ffpp", "mesonet")}
_COMPUTED_CLOCK = "contradiction: computed from cycles at 2.7 GHz, not measured"


def _s0_run(network: str) -> str:
    return f"s0-{network.replace('_', '-')}"


def _s0_entries() -> Iterator[Entry]:
    for table, networks in S0_CONFUSION.items():
        for network, (tp, fn, fp, tn) in networks.items():
            shares = {
                "accuracy": ((tp + tn) / (tp + fn + fp + tn), "frame.accuracy"),
                f"fakes called fake ({tp:,} of {tp + fn:,})": (tp / (tp + fn), "frame.recall.fake"),
                f"real ones called real ({tn:,} of {fp + tn:,})": (tn / (fp + tn), "frame.recall.real"),
            }
            for what, (value, measure) in shares.items():
                yield Entry(
                    table, f"{network}: {what}", value, measure=measure, experiment=_s0_run(network),
                    data=_S0_DATA[table],
                )  # fmt: skip
    for network, (percent, seconds) in S0_SAVES.items():
        yield Entry("table 3", f"{network}: cycles saved", percent, PERCENT, measure=f"saves.{network}")
        yield Entry(
            "table 3", f"{network}: wall clock saved, 1,000 images", seconds, SECONDS,
            measure=f"saves_seconds.{network}", cannot=_COMPUTED_CLOCK,
        )  # fmt: skip
    errors = (
        ("figure 5", "meso_inception4", "table 1", 0.32), ("figure 6", "meso_inception4", "table 2", 0.17),
        ("figure 7", "mobilenet_v3", "table 1", 0.22), ("figure 8", "mobilenet_v3", "table 2", 0.15),
    )  # fmt: skip
    for place, network, table, error in errors:
        yield Entry(
            place, f"{network}: validation error after 20 epochs", error, digits=0, measure="val_error",
            experiment=_s0_run(network), data=_S0_DATA[table], picture=CURVES,
        )  # fmt: skip
    for place, network in (("figures 9, 10", "meso_inception4"), ("figures 11, 12", "mobilenet_v3")):
        yield Entry(place, f"{network}: ROC curve", None, experiment=_s0_run(network), picture=ROC)
    yield Entry("figure 13", "CPU cost of 1,000 images against removed blocks", None, picture=REMOVED_BLOCKS)
    for network, accuracy in (("mobilenet_v3", 0.81), ("mobilenet_v3_r2", 0.80), ("mobilenet_v3_r3", 0.79)):
        yield Entry(
            "figure 14", f"{network}: accuracy (81 to 80 to 79 % over the removed blocks)", accuracy, digits=0,
            measure="frame.accuracy", experiment=_s0_run(network), picture=REMOVED_BLOCKS,
        )  # fmt: skip
    yield Entry(
        "section 3.4", "heap, MB", 25, COUNT, 0,
        cannot="guppy3 counts Python's heap, which does not hold a network's tensors",
    )  # fmt: skip
    yield Entry(
        "section 4.1", "accuracy with the same people in training and test, above", 0.90, digits=0,
        cannot="contradiction: people in both parts, which the document itself calls a mistake; refused here",
    )  # fmt: skip


_S0 = Document(
    name="s0",
    title="Lighten the Face Forgery Detection Network by using MobileNet",
    protocol="MesoNet's 7,104 test images, frames at 0.5; 20 epochs, 10 % of the training data is validation",
    data=("mesonet",),
    experiments=tuple(Experiment(_s0_run(network), _s0_run(network)) for network in _S0_NETWORKS),
    entries=tuple(_s0_entries()),
    val_share=0.1,
    test_share=7104 / (12353 + 7104),
    balanced=True,
)


_MESO4, _INCEPTION, _COMPUTED, _SVM = (
    "s1-meso4", "s1-meso-inception4", "s1-meso-inception4-computed-decay", "s1-meso-inception4-svm",
)  # fmt: skip
# Accuracy on the sets of `tables.S1_ACCURACIES`, by place.
S1_ACCURACIES = dict(zip(("abstract", "section 5"), zip(*tables.S1_ACCURACIES.values(), strict=True), strict=True))
# Precision, recall, F1 and support: class 0, class 1 of MesoNet's test set, where 1 is real.
S1_CLASSES = {
    "table 4": ((0.89, 0.85, 0.87, 2845), (0.90, 0.93, 0.92, 4259)),
    "table 5": ((0.70, 0.80, 0.75, 2845), (0.85, 0.77, 0.81, 4259)),
}
S1_PRINTED_ACCURACY = {"table 4": 0.9625, "table 5": 0.9079}
# Tables 6 and 7: accuracy and AUC in per cent, by method.
_S1_METHODS = {
    "table 6": ("Deepfakes", {_MESO4: (64.16, 82.20), _INCEPTION: (67.51, 88.82), _SVM: (67.57, 78.46)}),
    "table 7": ("Face2Face", {_MESO4: (63.16, 80.02), _INCEPTION: (65.51, 85.03), _SVM: (62.57, 75.06)}),
}


def _s1_entries() -> Iterator[Entry]:
    measures = (
        ("Deepfakes", "frame.accuracy/Deepfakes", ("ffpp",)),
        ("FaceForensics++", "frame.accuracy@ffpp", ("ffpp",)),
        ("Celeb-DF", "frame.accuracy@celebdf", ("celebdf",)),
        ("combined set", "frame.accuracy", ("celebdf", "dfdc", "ffpp")),
    )
    for place, values in S1_ACCURACIES.items():
        for value, (what, measure, data) in zip(values, measures, strict=True):
            yield Entry(
                place, f"MesoInception4 + SVM: accuracy, {what}", value, measure=measure, experiment=_SVM, data=data
            )
    for place, experiment in (("table 4", _COMPUTED), ("table 5", _SVM)):
        for kind, row in zip(("fake", "real"), S1_CLASSES[place], strict=True):
            for name, value in zip(("precision", "recall", "f1"), row, strict=False):
                yield Entry(
                    place, f"{experiment}: {name}, {kind}", value, digits=0, measure=f"frame.{name}.{kind}",
                    experiment=experiment, data=("mesonet",),
                )  # fmt: skip
        yield Entry(
            "section 4.3", f"{experiment}: test accuracy", S1_PRINTED_ACCURACY[place], measure="frame.accuracy",
            experiment=experiment, data=("mesonet",),
            cannot=f"contradiction: {place}, of the same test, implies another accuracy",
        )  # fmt: skip
    for place, (method, rows) in _S1_METHODS.items():
        for experiment, (accuracy, auc) in rows.items():
            for name, value in (("accuracy", accuracy), ("auc", auc)):
                yield Entry(
                    place, f"{experiment}: {name}, {method}", value / 100, measure=f"frame.{name}/{method}",
                    experiment=experiment, data=("ffpp",),
                )  # fmt: skip
    yield Entry("figure 5", "confusion matrix", None, experiment=_SVM, picture=CONFUSION)
    yield Entry("figure 6", "ROC curve", None, experiment=_SVM, picture=ROC)
    yield Entry("figure 7", "MesoInception4: accuracy by epoch", None, experiment=_COMPUTED, picture=CURVES)
    yield Entry("figure 8", "MesoInception4 + SVM: accuracy by epoch", None, experiment=_SVM, picture=CURVES)
    yield Entry("section 4.4", "Meso4: kernels of the first layer", None, experiment=_MESO4, picture=KERNELS)


_S1 = Document(
    name="s1",
    title="What AI Has Broken Can Be Fixed By AI As Well",
    protocol="Celeb-DF v2, DFDC preview and FaceForensics++ merged, 70:20:10 (its counts: 72/18/10); frames at 0.5",
    data=("celebdf", "dfdc", "ffpp"),
    experiments=tuple(Experiment(name, name) for name in (_MESO4, _INCEPTION, _COMPUTED, _SVM)),
    entries=tuple(_s1_entries()),
    split={"train": 0.7, "val": 0.2, "test": 0.1},
)


CATEGORIES = (
    "DeepFakeDetection", "Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "original_sequences", "Overall",
)  # fmt: skip


def _s2_run(network: str, optimizer: str | None = None) -> str:
    return f"s2-{network.replace('_', '-')}{f'-{optimizer}' if optimizer else ''}"


# By category, RAdam then SGDM of each network of `TRANSFER_NETWORKS`.
_TABLE_53 = (
    (0.07747, 0.07964, 0.08581, 0.11864, 0.12919, 0.12060, 0.07280, 0.09557, 0.07551, 0.06792),
    (0.23878, 0.24799, 0.17022, 0.14986, 0.22424, 0.20906, 0.16950, 0.20432, 0.08597, 0.11129),
    (0.18101, 0.15777, 0.13532, 0.12317, 0.28388, 0.24273, 0.15604, 0.16302, 0.07295, 0.09403),
    (0.16892, 0.18374, 0.12309, 0.13770, 0.34345, 0.33468, 0.14518, 0.20475, 0.09978, 0.14496),
    (0.58468, 0.56878, 0.51568, 0.49554, 0.61345, 0.50669, 0.60115, 0.66151, 0.37453, 0.44791),
    (0.24783, 0.19683, 0.26317, 0.23706, 0.22583, 0.30639, 0.23444, 0.27800, 0.41117, 0.32583),
    (0.21857, 0.20868, 0.19393, 0.19478, 0.26890, 0.25743, 0.20165, 0.23712, 0.17519, 0.17992),
)
_TABLE_54 = (
    (99.70, 99.70, 99.70, 99.10, 97.89, 98.80, 99.70, 99.10, 100.00, 100.00),
    (92.09, 92.09, 96.40, 97.84, 93.53, 93.53, 97.12, 97.12, 97.12, 98.56),
    (96.40, 97.12, 97.12, 97.84, 92.09, 94.96, 96.40, 97.12, 97.84, 98.56),
    (97.12, 94.24, 97.84, 98.56, 89.21, 90.65, 98.56, 97.12, 98.56, 99.28),
    (79.86, 81.29, 84.89, 86.33, 76.98, 79.14, 84.17, 85.61, 91.37, 92.09),
    (96.11, 97.78, 95.56, 95.56, 95.56, 92.78, 95.00, 96.11, 91.11, 92.22),
    (94.76, 94.94, 96.07, 96.44, 92.32, 92.98, 95.97, 96.07, 96.54, 97.19),
)
_OWN = ("reseption_v1", "reseption_v2", "reseption_ensemble")
# Tables 7.2, 7.3 and 7.5 (validation, kept epoch): loss and accuracy of V1, V2 and the ensemble.
_KEPT_LOSS = (
    (0.08265, 0.11636, 0.08431), (0.19784, 0.23353, 0.17906), (0.14640, 0.19849, 0.12662), (0.25906, 0.32281, 0.22338),
    (0.46122, 0.52871, 0.43410), (0.36150, 0.33200, 0.36028), (0.22517, 0.25918, 0.21228),
)  # fmt: skip
_KEPT_ACCURACY = (
    (99.40, 99.70, 99.70), (93.53, 90.65, 94.96), (95.68, 95.68, 96.40), (93.53, 93.53, 94.96), (79.86, 78.42, 82.73),
    (92.78, 93.89, 93.89), (93.73, 93.45, 94.85),
)  # fmt: skip
_TESTED = {
    "reseption_v1": "s2-reseption-v1",
    "reseption_v2": "s2-reseption-v2",
    "reseption_ensemble": "s2-reseption-ensemble",
    "inception_v3": "s2-inception-v3-radam",
    "resnext101_32x8d": "s2-resnext101-32x8d-radam",
}
# Table 7.6 (test): loss and accuracy of the networks of `_TESTED`.
_TEST_LOSS = (
    (0.10025, 0.12719, 0.11087, 0.14934, 0.15169), (0.18550, 0.24100, 0.18036, 0.21071, 0.14436),
    (0.19000, 0.25671, 0.17371, 0.21664, 0.17407), (0.35364, 0.38886, 0.29329, 0.20536, 0.22064),
    (0.44721, 0.50829, 0.42179, 0.46536, 0.39014), (0.43222, 0.38800, 0.40906, 0.32233, 0.39711),
    (0.25242, 0.28180, 0.23860, 0.24088, 0.23245),
)  # fmt: skip
S2_TEST_ACCURACY = (
    (98.91, 98.63, 98.63, 99.45, 98.91), (94.29, 91.43, 92.86, 95.00, 96.43), (95.00, 92.86, 94.29, 92.86, 96.43),
    (88.57, 87.14, 90.71, 97.14, 96.43), (83.57, 79.29, 82.14, 89.29, 92.14), (89.44, 90.00, 92.22, 92.78, 91.67),
    (93.04, 91.68, 93.22, 95.39, 95.93),
)  # fmt: skip
S2_BALANCED = (91.81, 90.79, 93.04, 94.78, 94.21)
S2_TESTED = tuple(_TESTED)
# Tables 5.1 and 7.1: MACs (G), parameters (M), size ("MB") with one output.
S2_COSTS = {
    "reseption_v1": (5.15, 16.89, 66.2),
    "reseption_v2": (4.79, 15.75, 61.8),
    "reseption_ensemble": (9.94, 34.0, 133.7),
    "inception_v3": (5.73, 21.79, 85.4),
    "resnext101_32x8d": (30.51, 86.74, 339.7),
}
RESNEXT, PRINTED_SIZE, TRUE_SIZE = "resnext101_32x8d", 224, 299


# What other commands show.
_S2_ELSEWHERE = (
    ("tables 5.5 to 5.9, 7.4", "ten hardest samples: report.html of each network in work/evaluations, and --table s2"),
    ("figure 7.2", "RAdam and SGDM with and without loss scaling: recipes s2-reseption-v1-sgdm and -sgdm-unscaled"),
    ("figure 7.10, table 7.8", "LIME pictures: 'tfdfd explain --method lime'"),
)


def _s2_entries() -> Iterator[Entry]:
    for network, (macs, learned, _) in S2_COSTS.items():
        yield Entry(
            "table 7.1", f"{network}: parameters", learned, MILLION, 0 if learned == 34 else 2, f"learned.{network}"
        )
        cannot = (
            "contradiction: the count of a 299 px input, where the table says 224 px" if network == RESNEXT else None
        )
        yield Entry("table 7.1", f"{network}: MACs", macs, GIGA, measure=f"thesis_macs.{network}", cannot=cannot)
    for table, rows, unit, kind in (
        ("table 5.3", _TABLE_53, LOSS, "loss"),
        ("table 5.4", _TABLE_54, SHARE, "accuracy"),
    ):
        names = [_s2_run(network, optimizer) for network in TRANSFER_NETWORKS for optimizer in ("radam", "sgdm")]
        yield from _s2_table(table, rows, names, unit, f"last.{kind}")
    runs = [_s2_run(network) for network in _OWN]
    yield from _s2_table("tables 7.2, 7.5", _KEPT_LOSS, runs, LOSS, "val.loss")
    yield from _s2_table("tables 7.3, 7.5", _KEPT_ACCURACY, runs, SHARE, "val.accuracy")
    yield from _s2_table("table 7.6", _TEST_LOSS, _TESTED.values(), LOSS, "test.loss")
    yield from _s2_table("table 7.6", S2_TEST_ACCURACY, _TESTED.values(), SHARE, "test.accuracy")
    for value, experiment in zip(S2_BALANCED, _TESTED.values(), strict=True):
        yield Entry(
            "table 7.7", f"{experiment}: balanced accuracy of videos", value / 100,
            measure="video.balanced_accuracy", experiment=experiment,
        )  # fmt: skip
    for network in TRANSFER_NETWORKS:
        yield Entry("figure 5.8", f"{network}: curves", None, experiment=_s2_run(network, "radam"), picture=CURVES)
    figures = (
        ("figures 7.3, 7.4", "reseption_v1"),
        ("figures 7.5, 7.6", "reseption_v2"),
        ("figures 7.8, 7.9", _OWN[2]),
    )
    for place, network in figures:
        yield Entry(place, f"{network}: curves", None, experiment=_s2_run(network), picture=CURVES)
    for network in _OWN[:2]:
        yield Entry("figure 7.1", f"{network}: gradient flow", None, experiment=_s2_run(network), picture=GRADIENT_FLOW)
    for place, what in _S2_ELSEWHERE:
        yield Entry(place, what, None, cannot="not of this page: see what is named")


def _s2_table(place: str, rows: Any, experiments: Iterable[str], unit: str, measure: str) -> Iterator[Entry]:
    for category, values in zip(CATEGORIES, rows, strict=True):
        for experiment, value in zip(experiments, values, strict=True):
            digits, printed = (5, value) if unit == LOSS else (2, value / 100)
            what = f"{experiment}: {measure.split('.')[1]}, {category}"
            yield Entry(place, what, printed, unit, digits, f"{measure}.{category}", experiment)


_S2 = Document(
    name="s2",
    title="DeepFake: Algorithms for Fake Video Detection",
    protocol="FaceForensics++ c23 with DeepFakeDetection, official split; loss of frames, accuracy of videos (mean of "
    "7 frames in validation, of 12 in test) at 0.5",
    data=("ffpp",),
    experiments=(
        *(Experiment(_s2_run(n, o), _s2_run(n, o)) for n in TRANSFER_NETWORKS for o in ("radam", "sgdm")),
        *(Experiment(_s2_run(network), _s2_run(network)) for network in _OWN[:2]),
        Experiment(_s2_run(_OWN[2]), _s2_run(_OWN[2]), members=tuple(_s2_run(network) for network in _OWN[:2])),
    ),
    entries=tuple(_s2_entries()),
    val_share=0.16,
    test_share=0.14,
    own_test=True,
    evaluated=("val", "test"),
    extraction={"all": True, "multiple_faces": "drop"},
)


# Table 2: accuracy of train, val and test, training cross-entropy, seconds, test size; table 1: crops and videos.
S3_SETS = {
    500: ((1.00, 0.97, 0.868), 0.0123, 160, 93, 1),
    2500: ((1.00, 0.97, 0.848), 0.0346, 375, 525, 5),
    15000: ((0.85, 0.91, 0.888), 0.5467, 2432, 2484, 30),
}
S3_MEAN = 0.869


def _s3_entries() -> Iterator[Entry]:
    for size, (accuracies, entropy, seconds, tested, _) in S3_SETS.items():
        run, name = f"s3-{size}", f"Mob_{size}"
        for value, measure in zip(accuracies, ("train_accuracy", "val_accuracy", "frame.accuracy"), strict=True):
            what = {"frame.accuracy": "test accuracy"}.get(measure, measure.replace("_", " "))
            digits = 1 if measure == "frame.accuracy" else 0
            yield Entry("table 2", f"{name}: {what}", value, digits=digits, measure=measure, experiment=run)
        yield Entry("table 2", f"{name}: training cross-entropy", entropy, LOSS, 4, "train_loss", run)
        yield Entry(
            "table 2", f"{name}: training time", seconds, SECONDS, 0, "train_seconds", run,
            cannot="another machine: the time says nothing of the method",
        )  # fmt: skip
        yield Entry(
            "table 2", f"{name}: test size", tested, COUNT, 0, "test_crops", run,
            cannot="contradiction: neither 15 % nor 25 % of the set",
        )  # fmt: skip


_S3 = Document(
    name="s3",
    title="Deepfake Video Forensics based on Transfer Learning",
    protocol="FaceForensics++, a frame a second, MTCNN, real to fake 1:1, 70/15/15 (75/25 in its section IV); frames",
    data=("ffpp",),
    experiments=tuple(Experiment(f"s3-{size}", "s3-mobilenet-v1-bottleneck", crops=size) for size in S3_SETS),
    entries=tuple(_s3_entries()),
    split={"train": 0.7, "val": 0.15, "test": 0.15},
    balanced=True,
    extraction={"every_s": 1.0, "drop_frames_above": 1},
)


_S4_NETWORKS = tuple(S4_AUC)
# Sections 2.1 to 2.3: last validation accuracy without and with SRM.
S4_ACCURACY = {"mobilenet_v2": (0.90, 0.87), "vgg16": (0.86, 0.87), "resnet50v2": (0.87, 0.85)}
# Videos of Celeb-DF v2: real (Celeb-real and YouTube-real) and fake.
CELEBDF = (CELEBDF_COUNTS[CELEBRITIES] + CELEBDF_COUNTS[STRANGERS], CELEBDF_COUNTS[FAKES])
_OTHERS = {
    "average of several methods": 0.487,
    "Two-Stream": 0.557,
    "VGG16": 0.564,
    "SRM + VGG16": 0.732,
    "NA-VGG": 0.857,
}


def _s4_run(network: str, noise: bool) -> str:
    return f"s4-{network.replace('_', '-')}{'-srm' * noise}"


def _s4_entries() -> Iterator[Entry]:
    for what, auc in _OTHERS.items():
        yield Entry(
            "table 1", f"{what}: AUC", auc, digits=1, cannot="another paper's number, whose network is not given"
        )
    yield Entry(
        "section 2.1", "mobilenet_v2: training accuracy", 0.90, digits=0, measure="train_accuracy",
        experiment=_s4_run("mobilenet_v2", False), picture=CURVES,
    )  # fmt: skip
    for network in _S4_NETWORKS:
        for noise in (False, True):
            run, name = _s4_run(network, noise), f"{network}{' with SRM' * noise}"
            yield Entry(
                "table 2", f"{name}: AUC", S4_AUC[network][noise], digits=0, measure="frame.auc", experiment=run
            )
            yield Entry(
                "section 2", f"{name}: validation accuracy", S4_ACCURACY[network][noise], digits=0,
                measure="val_accuracy", experiment=run, picture=CURVES,
            )  # fmt: skip
            yield Entry(
                f"figure {2 * _S4_NETWORKS.index(network) + 1 + noise}",
                f"{name}: share of fakes called fake (all of them)", 1.0, digits=0,
                measure="frame.recall.fake", experiment=run, picture=CONFUSION,
            )  # fmt: skip


_S4 = Document(
    name="s4",
    title="Celeb-DF Deep Fake detection with ResNets50V2",
    protocol="Celeb-DF v2 and its test list, first frame of each video, Haar faces of 128 px and more; frames at 0.5",
    data=("celebdf",),
    experiments=tuple(
        # The document filters the files, so that the networks are the plain ones.
        Experiment(_s4_run(network, noise), _s4_run(network, False), noise=noise)
        for network in _S4_NETWORKS
        for noise in (False, True)
    ),
    entries=tuple(_s4_entries()),
    val_share=0.15,
    test_share=0.15,
    own_test=True,
    extraction={"first": True, "detector": "haar", "max_faces": 1, "detector_options": {"min_size": 128}},
)

DOCUMENTS = {document.name: document for document in (_S0, _S1, _S2, _S3, _S4)}
