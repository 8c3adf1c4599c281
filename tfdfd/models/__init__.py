"""The networks by name. A new one is a file with a builder and a row in `MODELS`.

Importing this module imports no Keras: a list of networks must not wait for TensorFlow.
"""

from __future__ import annotations

import importlib
import inspect
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tfdfd.near_matches import did_you_mean
from tfdfd.weights.records import WeightRecord, list_records
from tfdfd.weights.store import locate

if TYPE_CHECKING:
    import keras

__all__ = ["MODELS", "ModelSpec", "build", "list_models", "load", "spec"]


@dataclass(frozen=True)
class ModelSpec:
    """What is known of a network without building it.

    Attributes:
        builder: `module:function` under `tfdfd.models`, called as `(**arguments) -> keras.Model`.
        input_shape: default `(height, width, 3)`, RGB float32 in [0, 1].
        min_size: the smallest height and width whose grids do not vanish.
        params: weights in all, running statistics included.
        learned: parameters as papers and PyTorch count them: `params` without running statistics, frozen or not.
        trainable: those that training changes as the network is built by default.
        macs: multiply-accumulates of one image: convolutions (SRM's included), dense layers and the two products of
            attention, without bias, norm and activation.
        source: paper, with table or figure.
        imagenet: the network of `keras.applications` whose ImageNet weights fit, `torchvision` where Keras has none
            (a file of torchvision's does), its own name where a converted file does (see
            `tfdfd.weights.initial.CONVERTED`), or None.
        weights: the sets of weights there are, with the licence of each.
    """

    builder: str
    input_shape: tuple[int, int, int]
    min_size: int
    params: int
    learned: int
    trainable: int
    macs: int
    source: str
    imagenet: str | None = None
    weights: tuple[WeightRecord, ...] = ()


_MESONET = "Afchar et al., MesoNet, arXiv:1809.00888"
_MOBILENET_V2 = "Sandler et al., arXiv:1801.04381, table 2"
_MOBILENET_V3 = "Howard et al., arXiv:1905.02244, table 2"
_VGG = "Simonyan and Zisserman, arXiv:1409.1556, table 1 (D)"
_RESNET_V2 = "He et al., arXiv:1603.05027"
_SRM = "Fridrich and Kodovsky, Rich Models, IEEE TIFS 2012, and Zhou et al., arXiv:1805.04953, figure 3"
_RESEPTION = "Putyra, DeepFake, AGH 2020 (S2)"

# What cards of recurrent networks over clips have for a model: none of those by name, which take single faces.
CLIPS = "temporal"

# fmt: off
MODELS = {
    "meso4": ModelSpec(
        "meso:meso4", (256, 256, 3), 32, 28_073, 27_977, 27_977, 60_047_376,
        f"{_MESONET}, figure 4",
    ),
    "meso_inception4": ModelSpec(
        "meso:meso_inception4", (256, 256, 3), 32, 28_725, 28_615, 28_615, 57_098_256,
        f"{_MESONET}, figure 5",
    ),
    "mobilenet_v1": ModelSpec(
        "mobilenet_v1:mobilenet_v1", (128, 128, 3), 32, 830_049, 819_105, 513, 48_648_704,
        "Howard et al., MobileNets, arXiv:1704.04861; S3, section IV", "MobileNet",
    ),
    "mobilenet_v2": ModelSpec(
        "max_pooled:mobilenet_v2", (128, 128, 3), 32, 2_259_265, 2_225_153, 1_281, 97_795_328,
        f"{_MOBILENET_V2}; S4, section 2.1", "MobileNetV2",
    ),
    "srm_mobilenet_v2": ModelSpec(
        "max_pooled:srm_mobilenet_v2", (128, 128, 3), 32, 2_259_265, 2_225_153, 1_281, 101_481_728,
        f"{_SRM}; {_MOBILENET_V2}; S4, section 2.1", "MobileNetV2",
    ),
    "mobilenet_v3": ModelSpec(
        "mobilenet_v3:mobilenet_v3", (224, 224, 3), 32, 1_530_993, 1_518_881, 1_518_881, 55_487_424,
        f"{_MOBILENET_V3}; S0, figure 4", "MobileNetV3Small",
    ),
    "mobilenet_v3_r1": ModelSpec(
        "mobilenet_v3:mobilenet_v3_r1", (224, 224, 3), 32, 1_234_401, 1_224_785, 1_224_785, 49_196_928,
        f"{_MOBILENET_V3}; S0, section 2.3", "MobileNetV3Small",
    ),
    "mobilenet_v3_r2": ModelSpec(
        "mobilenet_v3:mobilenet_v3_r2", (224, 224, 3), 32, 937_809, 930_689, 930_689, 42_906_432,
        f"{_MOBILENET_V3}; S0, section 2.3", "MobileNetV3Small",
    ),
    "mobilenet_v3_r3": ModelSpec(
        "mobilenet_v3:mobilenet_v3_r3", (224, 224, 3), 32, 907_337, 900_889, 900_889, 39_479_808,
        f"{_MOBILENET_V3}; S0, section 2.3", "MobileNetV3Small",
    ),
    "vgg16": ModelSpec(
        "max_pooled:vgg16", (128, 128, 3), 32, 14_715_201, 14_715_201, 513, 5_011_145_216,
        f"{_VGG}; S4, section 2.2", "VGG16",
    ),
    "srm_vgg16": ModelSpec(
        "max_pooled:srm_vgg16", (128, 128, 3), 32, 14_715_201, 14_715_201, 513, 5_014_831_616,
        f"{_SRM}; {_VGG}; S4, section 2.2", "VGG16",
    ),
    "resnet50v2": ModelSpec(
        "max_pooled:resnet50v2", (128, 128, 3), 32, 23_566_849, 23_521_409, 2_049, 1_136_396_288,
        f"{_RESNET_V2}; S4, section 2.3", "ResNet50V2",
    ),
    "srm_resnet50v2": ModelSpec(
        "max_pooled:srm_resnet50v2", (128, 128, 3), 32, 23_566_849, 23_521_409, 2_049, 1_140_082_688,
        f"{_SRM}; {_RESNET_V2}; S4, section 2.3", "ResNet50V2",
    ),
    "xception": ModelSpec(
        "xception:xception", (299, 299, 3), 71, 20_863_529, 20_809_001, 19_702_241, 8_355_357_544,
        "Chollet, arXiv:1610.02357, figure 5; S2, table 5.2", "Xception",
    ),
    "inception_v3": ModelSpec(
        "inception_v3:inception_v3", (299, 299, 3), 75, 21_822_049, 21_787_617, 21_614_945, 5_711_170_144,
        "Szegedy et al., arXiv:1512.00567, table 1; S2, table 5.2", "InceptionV3",
    ),
    "efficientnet_b5": ModelSpec(
        "efficientnet:efficientnet_b5", (224, 224, 3), 32, 28_515_569, 28_342_833, 28_176_145, 2_354_447_232,
        "Tan and Le, arXiv:1905.11946, table 1; S2, table 5.2", "EfficientNetB5",
    ),
    "efficientnet_lite0": ModelSpec(
        "efficientnet_lite:efficientnet_lite0", (224, 224, 3), 32, 3_414_305, 3_372_289, 3_372_289, 383_908_832,
        "Tan and Le, arXiv:1905.11946, table 1; EfficientNet-Lite, Google 2020", "efficientnet_lite0",
    ),
    "resnet152": ModelSpec(
        "resnet:resnet152", (224, 224, 3), 32, 58_372_993, 58_221_569, 55_648_257, 11_280_369_664,
        "He et al., arXiv:1512.03385, table 1; S2, table 5.2", "ResNet152",
    ),
    "resnext101_32x8d": ModelSpec(
        "resnet:resnext101_32x8d", (224, 224, 3), 32, 86_947_265, 86_744_385, 83_908_609, 16_411_969_536,
        "Xie et al., arXiv:1611.05431, table 1; S2, table 5.2", "torchvision",
    ),
    "best_ensemble": ModelSpec(
        "best_ensemble:best_ensemble", (224, 224, 3), 32, 67_952_421, 67_910_405, 3, 13_585_107_682,
        "clip_vit_b16 and efficientnet_lite0, each by its own source",
    ),
    "reseption_v1": ModelSpec(
        "reseption:reseption_v1", (299, 299, 3), 75, 16_918_305, 16_888_257, 16_888_257, 5_134_367_072,
        f"{_RESEPTION}, figures 6.1 to 6.11",
    ),
    "reseption_v2": ModelSpec(
        "reseption:reseption_v2", (299, 299, 3), 75, 15_787_265, 15_751_233, 15_751_233, 4_768_634_496,
        f"{_RESEPTION}, figures 6.1 to 6.11",
    ),
    "reseption_ensemble": ModelSpec(
        "reseption_ensemble:reseption_ensemble", (299, 299, 3), 75, 34_162_945, 34_096_865, 1_460_225, 9_904_457_920,
        f"{_RESEPTION}, section 7.3",
    ),
    "clip_vit_b16": ModelSpec(
        "clip_vit:clip_vit_b16", (224, 224, 3), 32, 64_538_113, 64_538_113, 95_233, 13_201_198_848,
        "Radford et al., CLIP, arXiv:2103.00020; Dosovitskiy et al., arXiv:2010.11929, table 1",
    ),
}
# fmt: on


def list_models() -> list[str]:
    """Names that `build` takes."""
    return list(MODELS)


def spec(name: str) -> ModelSpec:
    """What is known of a network, with its sets of weights.

    Raises:
        ValueError: no network has this name; lists the near ones.
    """
    known = _find(name)
    weights = tuple(record for record in list_records().values() if record.model == name)
    return ModelSpec(**{**vars(known), "weights": weights})


def build(
    name: str,
    weights: str | os.PathLike | None = None,
    input_shape: tuple[int, int, int] | None = None,
    **arguments: object,
) -> keras.Model:
    """A new `keras.Model`: RGB faces, float32 in [0, 1], `(batch, height, width, 3)` -> P(fake), `(batch, 1)`.

    The network is bare, to be trained: it takes images of `input_shape` alone, and does not check their pixels. Of NaN,
    or of pixels from 0 to 255 or from -1 to 1, it answers a number that is no probability. What `tfdfd publish` and
    `tfdfd export` write of it, `tfdfd.HubLayer` and `tfdfd serve` answer NaN, or refuse such images.

    Args:
        name: one of `list_models()`.
        weights: None (random: to be trained, never to score), a handle such as `tfdfd/meso4.df`, a file with its card,
            `"imagenet"` (ImageNet features by Keras's own download, under a new head), `"imagenet:PATH"` (the same
            from a file of Keras's layout), or `"clip:PATH"` (CLIP's of `clip_vit_b16`; see `tfdfd.weights.clip`).
        input_shape: `(height, width, 3)`; None for the published size.
        **arguments: the builder's own, such as `alpha`, `freeze` or `receives`; or `svm`, the number of support
            vectors of an SVM in the place of the last layer, for weights of a network that was trained so.

    Raises:
        ValueError: unknown name or argument, an image too small for the network, or weights that are absent, altered
            or of another network.
    """
    if weights is None:
        return _build(name, input_shape, arguments)
    kind, _, file = os.fspath(weights).partition(":")
    if kind == "imagenet":
        return _build_on_imagenet(name, file or None, input_shape, arguments)
    if kind == "clip":
        return _build_on_clip(name, file, input_shape, arguments)
    record, path = locate(weights)
    if record.model != name:
        raise ValueError(f"{os.fspath(weights)} holds weights of {record.model}, not of {name}.")
    return _build_with(record, path, input_shape, arguments)


def load(record: WeightRecord, path: Path):
    """The network that a located set of weights is for (`tfdfd.weights.store.locate`), with these weights."""
    return _build_with(record, path, None, {})


def _build_with(record, path, input_shape, arguments):
    from tfdfd.weights.loading import load_weights

    # A size or an argument given here goes before the one that the weights were trained with.
    model = _build(record.model, input_shape or record.input_shape, {**record.arguments, **arguments})
    load_weights(model, record, path)
    return model


def _build_on_imagenet(name, file, input_shape, arguments):
    known = _find(name)
    if known.imagenet is None:
        able = ", ".join(other for other, row in MODELS.items() if row.imagenet)
        raise ValueError(f"there are no ImageNet weights of {name}; there are of {able}.")
    from tfdfd.weights.initial import load_imagenet

    model = _build(name, input_shape, arguments)
    load_imagenet(model, known.imagenet, file)
    return model


def _build_on_clip(name, file, input_shape, arguments):
    if name != "clip_vit_b16":
        _find(name)
        raise ValueError(f"CLIP's weights are of clip_vit_b16, not of {name}.")
    from tfdfd.weights.clip import load_clip

    model = _build(name, input_shape, arguments)
    load_clip(model, file)
    return model


def _build(name, input_shape, arguments):
    known = _find(name)
    if input_shape is not None:
        arguments = {**arguments, "input_shape": _checked(name, known, input_shape)}
    arguments = dict(arguments)
    support_vectors = arguments.pop("svm", None)
    module, function = known.builder.split(":")
    builder = getattr(importlib.import_module(f"tfdfd.models.{module}"), function)
    accepted = inspect.signature(builder).parameters
    for argument in arguments:
        if argument not in accepted:
            hint = did_you_mean(argument, accepted, 1, "it is none of them.")
            raise ValueError(f"{name} takes the arguments {', '.join(accepted)}; received {argument!r}; {hint}")
    model = builder(**arguments)
    if support_vectors is None:
        return model
    from tfdfd.models.svm import with_unfitted_svm

    return with_unfitted_svm(model, support_vectors)


def _checked(name, known, input_shape):
    shape = tuple(input_shape) if isinstance(input_shape, tuple | list) else ()
    if len(shape) != 3 or shape[2] != 3 or not all(isinstance(side, int) for side in shape):
        raise ValueError(f"input_shape must be (height, width, 3); received {input_shape!r}.")
    if min(shape[:2]) < known.min_size:
        raise ValueError(
            f"{name} needs images of at least {known.min_size} x {known.min_size}, below which its grids vanish; "
            f"received input_shape={shape}."
        )
    return shape


def _find(name):
    if name in MODELS:
        return MODELS[name]
    if name == CLIPS:
        raise ValueError(
            f"a {CLIPS!r} network scores clips, not single faces, so 'tfdfd detect' and its like cannot use it; "
            "tfdfd.models.temporal.load_temporal gives it as a Keras model."
        )
    hint = did_you_mean(name, MODELS, otherwise=f"there are {', '.join(MODELS)}.")
    raise ValueError(f"no network is known as {name!r}; {hint}")
