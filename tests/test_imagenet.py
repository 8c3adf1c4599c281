"""ImageNet features: each network equals Keras's (or torchvision's names) once its weights are in, and says why not."""

import urllib.request

import keras
import numpy as np
import pytest
from keras.applications import imagenet_utils
from safetensors.numpy import save_file

from tests.seeded import fill
from tfdfd.models import build, list_models, spec
from tfdfd.weights.saving import named_weights

ON_KERAS = [name for name in list_models() if hasattr(keras.applications, spec(name).imagenet or "")]
SHAPE = (96, 96, 3)
# What keras.applications states for its own `preprocess_input`; the others have it inside.
SCALING = {"VGG16": "caffe", "ResNet152": "caffe"}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """`(Keras's network, file of its weights)` by the name in `keras.applications`, with seeded weights."""
    made = {}

    def make(application):
        if application not in made:
            arguments = {"alpha": 0.5} if application == "MobileNet" else {}
            model = getattr(keras.applications, application)(
                weights=None, include_top=application == "MobileNetV3Small", input_shape=SHAPE, **arguments
            )
            fill_by_place(model)
            file = tmp_path_factory.mktemp("imagenet") / f"{application}.weights.h5"
            model.save_weights(file)
            made[application] = model, file
        return made[application]

    return make


def fill_by_place(model):
    """Keras numbers some layers by what was built before; their place in the network depends on nothing."""
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.Normalization)]
    fill((f"layer{i}/{weight.name}", weight) for i, layer in enumerate(layers) for weight in layer.weights)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in ("resnet152", "efficientnet_b5") else ()) for n in ON_KERAS],
)
def test_features_are_those_of_keras(name, reference):
    application = spec(name).imagenet
    theirs, file = reference(application)
    model = build(name, weights=f"imagenet:{file}", input_shape=SHAPE)
    if name.startswith("srm_") or name[-3:] in ("_r1", "_r2", "_r3"):
        # What their bodies are fed, or go without, has no twin in Keras; the layers have, by name.
        known = {layer.name: layer for layer in theirs.layers if layer.weights}
        ours = [layer for layer in model.layers if layer.name in known]
        assert len(ours) > 10
        for layer in ours[1:]:
            np.testing.assert_array_equal(layer.get_weights()[0], known[layer.name].get_weights()[0])
        return
    images = np.random.default_rng(2).random((2, *SHAPE), dtype=np.float32)
    ours = keras.Model(model.input, model.get_layer("features").output)(images, training=False)
    expected = keras_features(theirs, application, model, images)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def keras_features(theirs, application, model, images):
    if application == "MobileNetV3Small":
        maps = np.asarray(keras.Model(theirs.input, theirs.get_layer("conv_2").output)(images * 255, training=False))
        return (maps * np.clip(maps / 6 + 0.5, 0, 1)).reshape(len(images), -1)
    if application == "EfficientNetB5":
        # Keras's own normalisation is part of its weights file; untouched, it divides by 255 and does nothing else.
        scaled = (images - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225]) * 255
    else:
        scaled = imagenet_utils.preprocess_input(images * 255, mode=SCALING.get(application, "tf"))
    maps = np.asarray(theirs(scaled.astype(np.float32), training=False))
    maximum = isinstance(model.get_layer("features"), keras.layers.GlobalMaxPooling2D)
    return maps.max(axis=(1, 2)) if maximum else maps.mean(axis=(1, 2))


def test_both_streams_take_the_same_features(reference):
    model = build(
        "srm_mobilenet_v2",
        weights=f"imagenet:{reference('MobileNetV2')[1]}",
        input_shape=SHAPE,
        receives="rgb+noise",
    )
    stream = model.get_layer("noise_stream")
    for layer in (layer for layer in stream.layers if layer.weights):
        for ours, theirs in zip(layer.get_weights(), model.get_layer(layer.name).get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert model.get_layer("features").output.shape == (None, 2 * 1280)


def test_class_scores_come_from_kerass_classifier(tmp_path):
    theirs = keras.applications.MobileNet((128, 128, 3), alpha=0.25, weights=None)
    fill_by_place(theirs)
    theirs.save_weights(tmp_path / "top.weights.h5")
    model = build("mobilenet_v1", f"imagenet:{tmp_path / 'top.weights.h5'}", alpha=0.25, bottleneck="classes")
    images = np.random.default_rng(2).random((2, 128, 128, 3), dtype=np.float32)
    scores = np.asarray(keras.Model(model.input, model.get_layer("bottleneck").output)(images, training=False))
    assert scores.shape == (2, 1000)
    exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
    expected = theirs(images * 2 - 1, training=False)
    np.testing.assert_allclose(exponents / exponents.sum(axis=1, keepdims=True), expected, rtol=1e-4)


def test_torchvisions_state_fills_resnext(tmp_path):
    """A made state with torchvision's names and axes: each array lands where it belongs, turned as it must be."""
    model = build("resnext101_32x8d", input_shape=(64, 64, 3))
    draw = np.random.default_rng(4)
    state = {}
    for layer in model.layers:
        if not layer.weights or layer.name == "fake_probability":
            continue
        if isinstance(layer, keras.layers.Conv2D):
            height, width, inputs, filters = layer.kernel.shape
            state[f"{torch_name(layer.name)}.weight"] = draw.random((filters, inputs, height, width), dtype=np.float32)
        else:
            for part in ("weight", "bias", "running_mean", "running_var"):
                state[f"{torch_name(layer.name)}.{part}"] = draw.random(layer.gamma.shape, dtype=np.float32)
    assert {"conv1.weight", "bn1.bias", "layer1.0.downsample.0.weight", "layer4.2.bn3.running_var"} <= state.keys()
    file = tmp_path / "resnext.safetensors"
    save_file(state, file)
    filled = build("resnext101_32x8d", weights=f"imagenet:{file}", input_shape=(64, 64, 3))
    kernel = filled.get_layer("conv3_block2_2_conv").kernel
    np.testing.assert_array_equal(kernel[1, 2, 3, 4], state["layer2.1.conv2.weight"][4, 3, 1, 2])
    np.testing.assert_array_equal(filled.get_layer("conv2_block1_0_bn").beta, state["layer1.0.downsample.1.bias"])
    np.testing.assert_array_equal(filled.get_layer("conv1_bn").moving_mean, state["bn1.running_mean"])
    del state["layer3.22.conv3.weight"]
    save_file(state, file)
    with pytest.raises(ValueError, match=r"resnext.safetensors lacks layer3\.22\.conv3\.weight; expected the state of"):
        build("resnext101_32x8d", weights=f"imagenet:{file}", input_shape=(64, 64, 3))


def torch_name(name):
    """`conv4_block23_3_bn` -> `layer3.22.bn3`, written apart from the package's."""
    if name in ("conv1_conv", "conv1_bn"):
        return {"conv1_conv": "conv1", "conv1_bn": "bn1"}[name]
    stage, block, step, kind = name.split("_")
    where = f"layer{int(stage[4:]) - 1}.{int(block[5:]) - 1}"
    if step == "0":
        return f"{where}.downsample.{0 if kind == 'conv' else 1}"
    return f"{where}.{kind}{step}"


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.75])
def test_real_imagenet_weights_give_kerass_features_and_fit_no_other_width(data, alpha, astronaut):
    file = data / "imagenet" / f"mobilenet_v1_{alpha}_no_top.weights.h5"
    model = build("mobilenet_v1", weights=f"imagenet:{file}", alpha=alpha)
    stored = keras.applications.MobileNet((128, 128, 3), alpha=alpha, include_top=False, weights=None)
    stored.load_weights(file)
    face = astronaut[60:188, 160:288].astype(np.float32)[None] / 255
    features = keras.Model(model.input, model.get_layer("bottleneck").output)(face, training=False)
    np.testing.assert_allclose(
        features, np.asarray(stored(face * 2 - 1, training=False)).mean(axis=(1, 2)), rtol=1e-4, atol=1e-5
    )
    other = 0.5 if alpha != 0.5 else 0.25
    with pytest.raises(ValueError, match=rf"does not fit keras.applications.MobileNet\(.*alpha={other}"):
        build("mobilenet_v1", weights=f"imagenet:{file}", alpha=other)


def test_real_imagenet_features_know_a_mirrored_face_again(data):
    """A mirrored face is nearest to itself among forty."""
    import cv2

    files = sorted((data / "faces" / "utkface_adults").glob("*.jpg"))[:400:10]
    images = np.stack([cv2.resize(cv2.imread(str(file))[..., ::-1], (128, 128)) for file in files])
    images = images.astype(np.float32) / 255
    file = data / "imagenet" / "mobilenet_v1_0.5_no_top.weights.h5"
    model = build("mobilenet_v1", weights=f"imagenet:{file}", alpha=0.5)
    extract = keras.Model(model.input, model.get_layer("bottleneck").output)
    plain, mirrored = (np.asarray(extract(batch, training=False)) for batch in (images, images[:, :, ::-1]))
    unit = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in (plain, mirrored)]
    assert np.mean((unit[0] @ unit[1].T).argmax(axis=1) == np.arange(len(files))) > 0.9


def test_without_network_the_error_says_both_ways(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    # urllib keeps the proxies that it first saw.
    monkeypatch.setattr(urllib.request, "_opener", None)
    for scheme in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")
    for scheme in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(scheme, raising=False)
    message = r"could not fetch.*VGG16.*With network.*~/.keras/models.*without.*weights='imagenet:PATH'"
    with pytest.raises(ValueError, match=message):
        build("vgg16", weights="imagenet")


def test_what_has_no_imagenet_weights_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"there are no ImageNet weights of reseption_v1; there are of mobilenet_v1,"):
        build("reseption_v1", weights="imagenet")
    with pytest.raises(ValueError, match=r"Keras has no ImageNet weights of resnext101_32x8d.*torchvision's"):
        build("resnext101_32x8d", weights="imagenet")
    with pytest.raises(ValueError, match=r"there is no file '/absent.h5'"):
        build("vgg16", weights="imagenet:/absent.h5")


def test_a_file_of_another_network_is_refused(reference, tmp_path):
    with pytest.raises(ValueError, match=r"VGG16.weights.h5 does not fit keras.applications.MobileNetV2\("):
        build("mobilenet_v2", weights=f"imagenet:{reference('VGG16')[1]}")
    noise = tmp_path / "noise.weights.h5"
    noise.write_bytes(b"not HDF5 at all")
    with pytest.raises(ValueError, match=r"noise.weights.h5 cannot be read as HDF5 weights"):
        build("vgg16", weights=f"imagenet:{noise}")


def test_the_head_stays_new(reference):
    file = reference("MobileNetV2")[1]
    heads = [
        named_weights(build("mobilenet_v2", f"imagenet:{file}", input_shape=SHAPE))["fake_probability/kernel"]
        for _ in range(2)
    ]
    assert not np.allclose(*heads)
