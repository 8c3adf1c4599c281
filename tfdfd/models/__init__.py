"""The networks by name. A new network is a file with a builder, a row in `MODELS`, and `python -m tools.record NAME`.

Importing this package does not import Keras, so listing the networks does not wait for TensorFlow.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfdfd.text import did_you_mean
from tfdfd.weights import WeightRecord, list_records
from tfdfd.weights.store import locate

if TYPE_CHECKING:
    import keras

__all__ = [
    "CLIPS", "COUNTS", "MODELS", "ModelSpec", "Network", "build", "clip_frames", "default_arguments", "list_models",
    "load", "refuse_clips", "spec",
]  # fmt: skip

# Counted from the graphs by `python -m tools.record`.
COUNTS = Path(__file__).with_name("counts.json")


@dataclass(frozen=True)
class Network:
    """A row of `MODELS`.

    Attributes:
        builder: `module:function` in `tfdfd.models`, called as `(**arguments) -> keras.Model`.
        input_shape: default `(height, width, 3)`, RGB float32 in [0, 1].
        min_size: smallest height and width at which no grid vanishes.
        source: paper, with table or figure.
        imagenet: the network of `keras.applications` whose ImageNet weights fit; `torchvision` if Keras has none and a
            torchvision file fits; the network's own name if a converted file fits (see
            `tfdfd.weights.initial.CONVERTED`); or None.
    """

    builder: str
    input_shape: tuple[int, int, int]
    min_size: int
    source: str
    imagenet: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelSpec(Network):
    """A row of `MODELS` with its counts and weights, available without building the network.

    Attributes:
        params: all weights, running statistics included.
        learned: parameters as papers and PyTorch count them: `params` without running statistics, frozen or not.
        trainable: weights that training changes, with the default freezing.
        macs: multiply-accumulates of one image: convolutions (SRM included), dense layers and the two products of
            attention, without bias, norm and activation.
        weights: the available weight sets, each with its license.
    """

    params: int
    learned: int
    trainable: int
    macs: int
    weights: tuple[WeightRecord, ...] = ()


_MESONET = "Afchar et al., MesoNet, arXiv:1809.00888"
_MOBILENET_V2 = "Sandler et al., arXiv:1801.04381, table 2"
_MOBILENET_V3 = "Howard et al., arXiv:1905.02244, table 2"
_VGG = "Simonyan and Zisserman, arXiv:1409.1556, table 1 (D)"
_RESNET_V2 = "He et al., arXiv:1603.05027"
_SRM = "Fridrich and Kodovsky, Rich Models, IEEE TIFS 2012, and Zhou et al., arXiv:1805.04953, figure 3"
_RESEPTION = "Putyra, DeepFake, AGH 2020 (S2)"

# The `model` of cards of recurrent networks over clips. It is not in MODELS, whose networks take single faces.
CLIPS = "temporal"
# Frames of a clip: the default, and the most, which bounds the memory for a card from elsewhere.
CLIP_FRAMES, MAX_CLIP_FRAMES = 16, 256

# fmt: off
MODELS: dict[str, Network] = {
    "meso4": Network("meso:meso4", (256, 256, 3), 32, f"{_MESONET}, figure 4"),
    "meso_inception4": Network("meso:meso_inception4", (256, 256, 3), 32, f"{_MESONET}, figure 5"),
    "mobilenet_v1": Network(
        "mobilenet_v1:mobilenet_v1", (128, 128, 3), 32,
        "Howard et al., MobileNets, arXiv:1704.04861; S3, section IV", "MobileNet",
    ),
    "mobilenet_v2": Network(
        "max_pooled:mobilenet_v2", (128, 128, 3), 32, f"{_MOBILENET_V2}; S4, section 2.1", "MobileNetV2",
    ),
    "srm_mobilenet_v2": Network(
        "max_pooled:srm_mobilenet_v2", (128, 128, 3), 32, f"{_SRM}; {_MOBILENET_V2}; S4, section 2.1", "MobileNetV2",
    ),
    "mobilenet_v3": Network(
        "mobilenet_v3:mobilenet_v3", (224, 224, 3), 32, f"{_MOBILENET_V3}; S0, figure 4", "MobileNetV3Small",
    ),
    "mobilenet_v3_r1": Network(
        "mobilenet_v3:mobilenet_v3_r1", (224, 224, 3), 32, f"{_MOBILENET_V3}; S0, section 2.3", "MobileNetV3Small",
    ),
    "mobilenet_v3_r2": Network(
        "mobilenet_v3:mobilenet_v3_r2", (224, 224, 3), 32, f"{_MOBILENET_V3}; S0, section 2.3", "MobileNetV3Small",
    ),
    "mobilenet_v3_r3": Network(
        "mobilenet_v3:mobilenet_v3_r3", (224, 224, 3), 32, f"{_MOBILENET_V3}; S0, section 2.3", "MobileNetV3Small",
    ),
    "vgg16": Network("max_pooled:vgg16", (128, 128, 3), 32, f"{_VGG}; S4, section 2.2", "VGG16"),
    "srm_vgg16": Network("max_pooled:srm_vgg16", (128, 128, 3), 32, f"{_SRM}; {_VGG}; S4, section 2.2", "VGG16"),
    "resnet50v2": Network("max_pooled:resnet50v2", (128, 128, 3), 32, f"{_RESNET_V2}; S4, section 2.3", "ResNet50V2"),
    "srm_resnet50v2": Network(
        "max_pooled:srm_resnet50v2", (128, 128, 3), 32, f"{_SRM}; {_RESNET_V2}; S4, section 2.3", "ResNet50V2",
    ),
    "xception": Network(
        "xception:xception", (299, 299, 3), 71, "Chollet, arXiv:1610.02357, figure 5; S2, table 5.2", "Xception",
    ),
    "inception_v3": Network(
        "inception_v3:inception_v3", (299, 299, 3), 75,
        "Szegedy et al., arXiv:1512.00567, table 1; S2, table 5.2", "InceptionV3",
    ),
    "efficientnet_b5": Network(
        "efficientnet:efficientnet_b5", (224, 224, 3), 32,
        "Tan and Le, arXiv:1905.11946, table 1; S2, table 5.2", "EfficientNetB5",
    ),
    "efficientnet_lite0": Network(
        "efficientnet:efficientnet_lite0", (224, 224, 3), 32,
        "Tan and Le, arXiv:1905.11946, table 1; EfficientNet-Lite, Google 2020", "efficientnet_lite0",
    ),
    "resnet152": Network(
        "resnet:resnet152", (224, 224, 3), 32, "He et al., arXiv:1512.03385, table 1; S2, table 5.2", "ResNet152",
    ),
    "resnext101_32x8d": Network(
        "resnet:resnext101_32x8d", (224, 224, 3), 32,
        "Xie et al., arXiv:1611.05431, table 1; S2, table 5.2", "torchvision",
    ),
    "best_ensemble": Network(
        "ensembles:best_ensemble", (224, 224, 3), 32, "clip_vit_b16 and efficientnet_lite0, each by its own source",
    ),
    "reseption_v1": Network("reseption:reseption_v1", (299, 299, 3), 75, f"{_RESEPTION}, figures 6.1 to 6.11"),
    "reseption_v2": Network("reseption:reseption_v2", (299, 299, 3), 75, f"{_RESEPTION}, figures 6.1 to 6.11"),
    "reseption_ensemble": Network("ensembles:reseption_ensemble", (299, 299, 3), 75, f"{_RESEPTION}, section 7.3"),
    "clip_vit_b16": Network(
        "clip_vit:clip_vit_b16", (224, 224, 3), 32,
        "Radford et al., CLIP, arXiv:2103.00020; Dosovitskiy et al., arXiv:2010.11929, table 1",
    ),
}
# fmt: on


def list_models() -> list[str]:
    """The names that `build` accepts."""
    return list(MODELS)


def spec(name: str) -> ModelSpec:
    """The specification of a network and its weight sets.

    Raises:
        ValueError: the name is unknown, and similar names are suggested; or the network's counts are not recorded.
    """
    network, counts = _find(name), _read_counts().get(name)
    if counts is None:
        raise ValueError(f"the counts of {name} are not recorded; run `python -m tools.record {name}` in the checkout.")
    weights = tuple(record for record in list_records().values() if record.model == name)
    return ModelSpec(**{**vars(network), **counts, "weights": weights})


def build(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    input_shape: tuple[int, int, int] | None = None,
    **arguments: Any,
) -> keras.Model:
    """Builds a `keras.Model`: RGB faces, float32 in [0, 1], `(batch, height, width, 3)` -> P(fake), `(batch, 1)`.

    The network is meant for training: it takes images of `input_shape` only and does not check their pixels. For NaN,
    or pixels in [0, 255] or [-1, 1], its output is meaningless. The models that `tfdfd publish` and `tfdfd export`
    write, `tfdfd.HubLayer` and `tfdfd serve` return NaN for such images or refuse them.

    Args:
        name: one of `list_models()`.
        weights: None (random, for training, never for scoring), a handle such as `tfdfd/meso4.df`, a file with its
            card, `"imagenet"` (Keras's ImageNet features under a new head), `"imagenet:PATH"` (the same from a file in
            Keras's layout), `"clip:PATH"` (CLIP's weights for `clip_vit_b16`; see `tfdfd.weights.clip`), or
            `"slim:MODEL"` (for `mobilenet_v3_r1` to `r3` those of a trained `mobilenet_v3`; training must follow).
        input_shape: `(height, width, 3)`; None for the published size.
        **arguments: arguments of the builder, such as `alpha`, `freeze` or `receives`; or `svm`, the number of support
            vectors of an SVM instead of the last layer, for the weights of a network that was trained so.

    Raises:
        ValueError: unknown name or argument, an image too small for the network, or weights that are missing, altered
            or of another network.
    """
    if weights is None:
        return _build(name, input_shape, arguments)
    kind, _, file = os.fspath(weights).partition(":")
    if kind == "imagenet":
        return _build_on_imagenet(name, file or None, input_shape, arguments)
    if kind == "clip":
        return _build_on_clip(name, file, input_shape, arguments)
    if kind == "slim":
        return _build_slimmed(name, os.fspath(weights), input_shape, arguments)
    record, path = locate(weights)
    if record.model != name:
        raise ValueError(f"{os.fspath(weights)} holds weights of {record.model}, not of {name}.")
    return _build_with(record, path, input_shape, arguments)


def load(record: WeightRecord, path: Path) -> keras.Model:
    """Builds the network of a located weight set (`tfdfd.weights.store.locate`) and loads its weights.

    That of a clip model takes `(batch, frames, height, width, 3)`; see `clip_frames` and `refuse_clips`.
    """
    return _build_with(record, path, None, {})


def clip_frames(record: WeightRecord) -> int | None:
    """Frames of the clips that a model scores; None for a model of single faces.

    Raises:
        ValueError: the model card has another value.
    """
    if record.model != CLIPS:
        return None
    return check_clip_frames(record.arguments.get("frames", CLIP_FRAMES))


def check_clip_frames(frames: Any) -> int:
    """Returns the number of frames of a clip, or raises `ValueError` if it is not such a number."""
    if not isinstance(frames, int) or frames < 2:
        raise ValueError(f"a clip has at least 2 frames; received frames={frames!r}.")
    if frames > MAX_CLIP_FRAMES:
        raise ValueError(f"a clip has at most {MAX_CLIP_FRAMES} frames; received frames={frames!r}.")
    return frames


def refuse_clips(record: WeightRecord, work: str) -> None:
    """Raises `ValueError` for a model of clips, where `work` is on single faces."""
    if record.model == CLIPS:
        raise ValueError(
            f"{record.handle} scores clips of {clip_frames(record)} frames; {work} takes a network of single faces, "
            "such as the one that it is built on."
        )


def _build_with(
    record: WeightRecord, path: Path, input_shape: tuple[int, int, int] | None, arguments: dict[str, Any]
) -> keras.Model:
    from tfdfd.weights.loading import load_weights

    # A size or argument given here overrides the one that the weights were trained with.
    model = _build(record.model, input_shape or record.input_shape, {**record.arguments, **arguments})
    load_weights(model, record, path)
    return model


def _build_on_imagenet(
    name: str, file: str | None, input_shape: tuple[int, int, int] | None, arguments: dict[str, Any]
) -> keras.Model:
    network = _find(name)
    if network.imagenet is None:
        able = ", ".join(other for other, row in MODELS.items() if row.imagenet)
        raise ValueError(f"there are no ImageNet weights of {name}; there are of {able}.")
    from tfdfd.weights.initial import load_imagenet

    model = _build(name, input_shape, arguments)
    load_imagenet(model, network.imagenet, file)
    return model


def _build_on_clip(
    name: str, file: str, input_shape: tuple[int, int, int] | None, arguments: dict[str, Any]
) -> keras.Model:
    if name != "clip_vit_b16":
        _find(name)
        raise ValueError(f"CLIP's weights are of clip_vit_b16, not of {name}.")
    from tfdfd.weights.clip import load_clip

    model = _build(name, input_shape, arguments)
    load_clip(model, file)
    return model


def _build_slimmed(
    name: str, weights: str, input_shape: tuple[int, int, int] | None, arguments: dict[str, Any]
) -> keras.Model:
    from tfdfd.weights.initial import copy_shared_weights, locate_full_network

    record, path = locate_full_network(name, weights)
    model = _build(name, input_shape, arguments)
    copy_shared_weights(model, load(record, path))
    return model


def default_arguments(name: str) -> dict[str, Any]:
    """The arguments of a network's builder that have defaults, such as `alpha` or `freeze`.

    Raises:
        ValueError: the network is unknown.
    """
    parameters = inspect.signature(_builder(_find(name))).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def _builder(network: Network) -> Callable[..., keras.Model]:
    module, function = network.builder.split(":")
    return getattr(importlib.import_module(f"tfdfd.models.{module}"), function)


def _build(name: str, input_shape: tuple[int, int, int] | None, arguments: dict[str, Any]) -> keras.Model:
    if name == CLIPS and "frame_network" in arguments:
        from tfdfd.models.temporal import build_temporal

        return build_temporal(input_shape, **arguments)
    network, arguments = _find(name), dict(arguments)
    if input_shape is not None:
        arguments["input_shape"] = _checked(name, network, input_shape)
    support_vectors = arguments.pop("svm", None)
    builder = _builder(network)
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


def _checked(name: str, network: Network, input_shape: object) -> tuple[int, ...]:
    shape = tuple(input_shape) if isinstance(input_shape, tuple | list) else ()
    if len(shape) != 3 or shape[2] != 3 or not all(isinstance(side, int) for side in shape):
        raise ValueError(f"input_shape must be (height, width, 3); received {input_shape!r}.")
    if min(shape[:2]) < network.min_size:
        raise ValueError(
            f"{name} needs images of at least {network.min_size} x {network.min_size}, below which its grids vanish; "
            f"received input_shape={shape}."
        )
    return shape


@functools.cache
def _read_counts() -> dict[str, dict[str, int]]:
    return json.loads(COUNTS.read_text("utf-8"))


def _find(name: str) -> Network:
    if name in MODELS:
        return MODELS[name]
    if name == CLIPS:
        raise ValueError(
            f"a {CLIPS!r} network is a layer over the frames of another network; give its name as frame_network, "
            "as the model card does, or use tfdfd.models.temporal.temporal."
        )
    hint = did_you_mean(name, MODELS, otherwise=f"there are {', '.join(MODELS)}.")
    raise ValueError(f"no network is known as {name!r}; {hint}")
