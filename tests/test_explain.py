"""Explanations: each method against an independent reference, the measures on known cases, and the command."""

import gc
import json
import os
import re
import shutil
import subprocess
import sys
import weakref
from types import SimpleNamespace

import cv2
import keras
import numpy as np
import pytest
from keras import layers

from tests.seeded import recorded
from tfdfd.data.crops import faces_of
from tfdfd.data.landmarks import landmarks_of
from tfdfd.data.pair_sets import BlendedPairs
from tfdfd.explain import (
    OF_CROPS,
    Explainer,
    Explanation,
    check_methods,
    lime,
    occlusion,
    quickshift_segments,
    telling_frame,
)
from tfdfd.explain import measure as measuring
from tfdfd.explain.gradients import (
    choose_neurons,
    first_kernels,
    grad_cam,
    head_weights,
    integrated_gradients,
    last_maps,
    logits,
    maximize,
    run,
)
from tfdfd.explain.page import Subject, kernel_sheet, overlay, render_page
from tfdfd.models import build, list_models, spec
from tfdfd.models.svm import SvmArrays, with_svm
from tfdfd.weights.loading import mask_head_file, save_mask_head
from tfdfd.weights.store import locate

SIZE = 32
rng = np.random.default_rng(7)
CROP = rng.integers(1, 256, (SIZE, SIZE, 3), dtype=np.uint8)
# 16 squares of 8 x 8 pixels.
SQUARES = np.arange(16).reshape(4, 4).repeat(8, axis=0).repeat(8, axis=1)


def shown_squares(crops):
    """Which squares are not painted over, float64 `(n, 16)`."""
    return (crops[:, 4::8, 4::8].reshape(len(crops), 16, 3).sum(axis=-1) > 0).astype(np.float64)


def linear_score(weights):
    return lambda crops: (0.2 + shown_squares(crops) @ weights).astype(np.float64)


def tiny(channels=4, seed=0, size=SIZE):
    """A network small enough to compute by hand: 1x1 convolution, mean over places, one output."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((size, size, 3), name="image")
    x = layers.Conv2D(channels, 1, activation="relu", name="conv")(image)
    x = layers.GlobalAveragePooling2D(name="features")(x)
    return keras.Model(image, layers.Dense(1, activation="sigmoid", name="fake_probability")(x), name="tiny")


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(1).random((SIZE, SIZE, 3)).astype(np.float32)


def test_lime_finds_the_weights_of_a_linear_model():
    weights = np.linspace(-0.02, 0.03, 16)
    found = lime(CROP, linear_score(weights), samples=600, segments=SQUARES)
    # The closed form of a weighted ridge with a free intercept.
    draws = np.random.RandomState(0).randint(0, 2, 600 * 16).reshape(600, 16)
    draws[0] = 1
    sample_weights = np.exp(-((1 - np.sqrt(draws.sum(axis=1) / 16)) ** 2) / (2 * 0.25**2))
    scores = 0.2 + draws @ weights
    mean, mean_score = (np.average(values, axis=0, weights=sample_weights) for values in (draws, scores))
    x, y = draws - mean, scores - mean_score
    expected = np.linalg.solve(x.T @ (sample_weights[:, None] * x) + np.eye(16), x.T @ (sample_weights * y))
    np.testing.assert_allclose(found.weights, expected, atol=1e-9)
    assert found.strongest(3).tolist() == [15, 14, 13] and found.r2 > 0.99
    assert (found.heat[SQUARES == 15] == np.float32(found.weights[15])).all()


def test_lime_is_that_of_the_lime_package():
    lime_image = pytest.importorskip("lime.lime_image", reason="pip install lime")
    weights = np.random.default_rng(3).normal(0, 0.02, 16)
    score = linear_score(weights)
    theirs = lime_image.LimeImageExplainer(random_state=5).explain_instance(
        CROP,
        lambda crops: np.stack([1 - score(np.asarray(crops)), score(np.asarray(crops))], axis=1),
        labels=(1,),
        top_labels=None,
        hide_color=0,
        num_samples=300,
        random_seed=5,
        segmentation_fn=lambda _: SQUARES,
    )
    ours = lime(CROP, score, samples=300, seed=5, segments=SQUARES)
    np.testing.assert_allclose(ours.weights, [dict(theirs.local_exp[1])[i] for i in range(16)], atol=1e-9)


def test_lime_hides_segments_in_black_or_in_their_mean_and_batches():
    seen = []

    def score(crops):
        seen.append(crops.copy())
        return np.linspace(0, 1, len(crops))

    lime(CROP, score, samples=70, segments=SQUARES)
    assert [len(crops) for crops in seen] == [64, 6] and (seen[0][0] == CROP).all()
    hidden = shown_squares(seen[0][1:2])[0] == 0
    assert hidden.any() and (seen[0][1][np.isin(SQUARES, np.flatnonzero(hidden))] == 0).all()
    seen.clear()
    lime(CROP, score, samples=4, segments=SQUARES, hide_color=None)
    means = seen[0][1][~(seen[0][1] == CROP).all(axis=-1)]
    assert len(np.unique(means, axis=0)) <= 16 and (means > 0).all()


def test_lime_refuses_what_has_nothing_to_compare():
    with pytest.raises(ValueError, match="is a single segment, so LIME has nothing"):
        lime(CROP, linear_score(np.zeros(16)), segments=np.zeros_like(SQUARES))
    with pytest.raises(ValueError, match="at least 2 samples; received 1"):
        lime(CROP, linear_score(np.zeros(16)), samples=1, segments=SQUARES)


def test_quickshift_segments_have_no_gaps(astronaut):
    crop = cv2.resize(astronaut[50:170, 150:290], (64, 64))
    segments = quickshift_segments(crop)
    assert segments.shape == (64, 64) and np.unique(segments).tolist() == list(range(segments.max() + 1))
    assert (segments == quickshift_segments(crop)).all()


def test_occlusion_finds_the_place_a_network_looks_at():
    def score(crops):  # the brighter this corner, the more fake
        return crops[:, 20:24, 4:8].astype(np.float64).mean(axis=(1, 2, 3)) / 255

    crop = np.full((SIZE, SIZE, 3), 60, np.uint8)
    crop[20:24, 4:8] = 250
    heat = occlusion(crop, score)
    place = np.unravel_index(heat.argmax(), heat.shape)
    assert 18 <= place[0] < 26 and 2 <= place[1] < 10 and heat.max() > 1
    assert (heat[:, 16:] == 0).all() and heat.dtype == np.float32
    assert occlusion(crop, lambda crops: 1 - score(crops)).min() < -1


def test_activations_are_freed_at_once(image):
    """Not by the next garbage collection, which counts objects and not bytes: gigabytes over a hundred maps."""
    gc.collect()
    gc.disable()
    try:
        output = weakref.ref(run(tiny(), image[None])[1].output)
        assert output() is None
    finally:
        gc.enable()


def test_grad_cam_of_a_network_computed_by_hand(image):
    model = tiny()
    kernel, bias = (np.array(value) for value in model.get_layer("conv").get_weights())
    activation = np.maximum(image @ kernel[0, 0] + bias, 0)
    expected = activation @ model.get_layer("fake_probability").get_weights()[0][:, 0] / SIZE**2
    np.testing.assert_allclose(grad_cam(model, image), expected, atol=1e-7)
    assert expected.min() < 0 < expected.max()


def test_grad_cam_is_that_of_tf_keras_vis():
    gradcam = pytest.importorskip("tf_keras_vis.gradcam", reason="pip install tf-keras-vis")
    from tf_keras_vis.utils.model_modifiers import ReplaceToLinear

    keras.utils.set_random_seed(0)
    model = build("meso4", input_shape=(64, 64, 3))
    image = np.random.default_rng(1).random((64, 64, 3)).astype(np.float32)
    (number,) = last_maps(model)
    theirs = gradcam.Gradcam(model, model_modifier=ReplaceToLinear(), clone=True)(
        lambda output: output[:, 0],
        image[None],
        penultimate_layer=run(model, image[None])[number].name,
        seek_penultimate_conv_layer=False,
        expand_cam=False,
        normalize_cam=False,
    )[0]
    theirs = np.asarray(theirs)
    corners = np.maximum(grad_cam(model, image)[::63, ::63], 0)  # of a map of 2 x 2 places
    assert theirs.shape == (2, 2) and theirs.max() > 0
    np.testing.assert_allclose(corners, theirs, rtol=1e-4, atol=1e-7)


def test_integrated_gradients_of_a_linear_network_are_weight_times_input(image):
    inputs = keras.Input(image.shape, name="image")
    x = layers.Flatten(name="features")(inputs)
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid", name="fake_probability")(x))
    contributions, error = integrated_gradients(model, image, steps=1)
    weights = model.get_layer("fake_probability").get_weights()[0].reshape(image.shape)
    np.testing.assert_allclose(contributions, weights * image, atol=1e-6)
    assert error < 1e-4


@pytest.mark.parametrize("name", ["meso4", "meso_inception4", "mobilenet_v3_r3", "srm_mobilenet_v2"])
def test_integrated_gradients_are_complete(name, image):
    keras.utils.set_random_seed(0)
    model = build(name, input_shape=(SIZE, SIZE, 3))
    contributions, error = integrated_gradients(model, image)
    before, after = logits(model, np.stack([np.zeros_like(image), image]))
    assert abs(contributions.sum() - (after - before)) == pytest.approx(error, abs=1e-3)
    assert error <= 0.05 * max(abs(after - before), 1)


def small_shape(name):
    side = 2 * spec(name).min_size  # at the smallest a grid may have one place
    return side, side, 3


def is_large(name):
    return spec(name).params > 4e6


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if is_large(name) else name for name in list_models()]
)
def test_every_network_runs_layer_by_layer_and_has_a_map_or_says_why_not(name):
    keras.utils.set_random_seed(0)
    model = build(name, input_shape=small_shape(name))
    image = np.random.default_rng(0).random(small_shape(name)).astype(np.float32)
    probability = np.array(model(image[None]))[0, 0]
    assert 1 / (1 + np.exp(-logits(model, image[None])[0])) == pytest.approx(probability, abs=1e-5)
    count = recorded()[name]["gradcam_maps"]
    if count is None:
        with pytest.raises(ValueError, match="gradcam needs a network with spatial maps up to its head"):
            last_maps(model)
        return
    maps = last_maps(model)
    heat = grad_cam(model, image, maps)
    assert heat.shape == image.shape[:2] and np.isfinite(heat).all()
    assert len(maps) == count


def test_a_network_of_tokens_has_no_spatial_maps():
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Reshape((16, 64))(layers.Conv2D(64, 8, strides=8, name="patches")(inputs))
    x = layers.GlobalAveragePooling1D(name="features")(x)
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid", name="fake_probability")(x), name="vit")
    with pytest.raises(ValueError, match="vit has none: reshape.* has tokens, not a grid. Use lime, occlusion"):
        last_maps(model)


def test_maps_of_models_within_models_are_added(image):
    inner = [tiny(seed=seed) for seed in (1, 2)]
    inputs = keras.Input(image.shape)
    bodies = [
        keras.Model(model.input, model.get_layer("features").output, name=f"b{i}") for i, model in enumerate(inner)
    ]
    x = layers.Concatenate(name="features")([body(inputs) for body in bodies])
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid", name="fake_probability")(x))
    assert len(last_maps(model)) == 2
    weights = model.get_layer("fake_probability").get_weights()[0][:, 0]
    maps = []
    for body in bodies:
        kernel, bias = body.get_layer("conv").get_weights()
        maps.append(np.maximum(image @ kernel[0, 0] + bias, 0))
    np.testing.assert_allclose(grad_cam(model, image), np.concatenate(maps, axis=-1) @ weights / SIZE**2, atol=1e-7)


def test_an_svm_is_differentiated_before_its_sigmoid(image):
    draw = np.random.default_rng(0)
    arrays = SvmArrays(
        mean=np.zeros(4),
        scale=np.ones(4),
        support_vectors=draw.normal(0, 1, (5, 4)),
        dual_coef=draw.normal(0, 1, 5),
        intercept=0.1,
        gamma=0.5,
        slope=3.0,
        offset=-0.2,
    )
    model = with_svm(tiny(), arrays)
    probability = float(np.array(model(image[None]))[0, 0])
    assert 1 / (1 + np.exp(-logits(model, image[None])[0])) == pytest.approx(probability, abs=1e-6)
    assert np.abs(grad_cam(model, image)).max() > 0
    with pytest.raises(ValueError, match="with a dense head; the head of .* is RbfSvm"):
        head_weights(model)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_gradients_are_the_same_under_each_backend(backend, tmp_path, image):
    pytest.importorskip(backend, reason=f"pip install {backend}")
    model = build("meso4", input_shape=(SIZE, SIZE, 3))
    model.save_weights(tmp_path / "w.weights.h5")
    np.save(tmp_path / "image.npy", image)
    code = """if True:
    import sys, numpy as np
    from tfdfd.explain.gradients import grad_cam, integrated_gradients
    from tfdfd.models import build
    model = build("meso4", input_shape=(32, 32, 3))
    model.load_weights("w.weights.h5")
    image = np.load("image.npy")
    np.savez("maps.npz", cam=grad_cam(model, image), ig=integrated_gradients(model, image, steps=3)[0])
    """
    environment = os.environ | {"KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment, timeout=300)
    maps = np.load(tmp_path / "maps.npz")
    np.testing.assert_allclose(maps["cam"], grad_cam(model, image), atol=1e-5)
    np.testing.assert_allclose(maps["ig"], integrated_gradients(model, image, steps=3)[0], atol=1e-4)


def test_activation_rises_and_neurons_are_told_apart_by_sign():
    keras.utils.set_random_seed(0)
    model = build("meso4", input_shape=(SIZE, SIZE, 3))
    weights = head_weights(model)
    neurons = choose_neurons(model, 2)
    assert [np.sign(weights[neuron]) for neuron in neurons] == [1, 1, -1, -1]
    assert abs(weights[neurons[0]]) >= abs(weights[neurons[1]])
    made = maximize(model, neurons, steps=15, penalty=0.0)
    assert all(one.end > one.start for one in made)
    assert all(one.image.min() >= 0 and one.image.max() <= 1 for one in made)
    features = keras.Model(model.input, model.get_layer("features").output)
    values = np.array(features(np.stack([one.image for one in made])))
    np.testing.assert_allclose([one.end for one in made], values[range(4), neurons], rtol=1e-4, atol=1e-5)
    # Towards fake: a rise of the neuron raises the logit by its weight.
    assert [one.weight for one in made] == [float(weights[neuron]) for neuron in neurons]


def test_the_penalty_pulls_the_picture_to_black():
    model = tiny()
    free, held = (maximize(model, [0], steps=10, penalty=penalty)[0] for penalty in (0.0, 1e4))
    assert held.image.mean() < free.image.mean()
    with pytest.raises(ValueError, match=r"neurons 0 to 3; received \[9\]"):
        maximize(model, [9])


def test_first_kernels_are_those_that_see_the_picture():
    kernels = first_kernels(build("meso4", input_shape=(SIZE, SIZE, 3)))
    assert {name: kernel.shape for name, kernel in kernels.items()} == {"block1_conv": (3, 3, 3, 8)}
    branches = first_kernels(build("meso_inception4", input_shape=(SIZE, SIZE, 3)))
    assert len(branches) == 4 and {kernel.shape[2] for kernel in branches.values()} == {3}
    sheet = kernel_sheet(np.random.default_rng(0).normal(size=(3, 3, 5, 8)))
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3 and (sheet[0] == 255).all()


def square_mask():
    mask = np.zeros((SIZE, SIZE), bool)
    mask[8:16, 12:24] = True
    return mask


def masked_pair():
    mask = square_mask()
    real = np.full((SIZE, SIZE, 3), 50, np.uint8)
    fake = real.copy()
    fake[mask] = 200
    return measuring.MaskedPair(real, fake, mask)


def share_of_fake_pixels(crops):
    return (crops[..., 0] == 200).sum(axis=(1, 2)) / square_mask().sum()


def test_measures_of_a_perfect_a_wrong_and_a_flat_map():
    pair = masked_pair()
    perfect, wrong, flat = pair.mask.astype(np.float32), -pair.mask.astype(np.float32), np.zeros((SIZE, SIZE))
    assert [measuring.pointing(heat, pair.mask) for heat in (perfect, wrong)] == [1, 0]
    assert measuring.pointing(flat, pair.mask) == pair.mask.mean()
    share = pair.mask.mean()
    curve = measuring.ious(perfect, pair.mask)
    assert curve.argmax() == round(100 * share) - 1 and curve.max() > 0.93
    np.testing.assert_allclose(measuring.ious(wrong, pair.mask)[:50], 0)
    np.testing.assert_allclose(curve[-1], pair.mask.sum() / (round(0.99 * SIZE**2)), rtol=1e-6)
    inserted, deleted = measuring.insertion_and_deletion(perfect, pair, share_of_fake_pixels)
    assert inserted > 0.93 and deleted < 0.07
    inserted, deleted = measuring.insertion_and_deletion(wrong, pair, share_of_fake_pixels)
    assert inserted < 0.07 and deleted > 0.93
    assert measuring.rank_correlation(perfect, perfect) == pytest.approx(1)
    assert measuring.rank_correlation(perfect, flat) == 0
    ellipse = measuring.centered_ellipse(SIZE)
    assert abs(ellipse - ellipse[::-1, ::-1]).max() == 0 and ellipse[SIZE // 2, SIZE // 2] == ellipse.max()
    assert ellipse[0, SIZE // 2] > ellipse[SIZE // 2, 0]


class KnownExplainer:
    """Its `lime` finds the mask, its `occlusion` all but the mask."""

    size, seed = SIZE, 0
    record = SimpleNamespace(threshold=0.5)
    score = staticmethod(share_of_fake_pixels)

    def explain(self, crop, method):
        mask = square_mask().astype(np.float32)
        noise = 1e-3 * np.random.default_rng(self.seed).random(mask.shape)
        return SimpleNamespace(heat=(mask if method == "lime" else 1 - mask) + noise)


def test_a_method_is_better_than_the_ellipse_only_if_the_interval_says_so():
    explainer = KnownExplainer()
    figures = measuring.measure(explainer, iter([masked_pair()] * 6), ("lime", "occlusion"))
    assert (figures["crops"], figures["called_fake"], explainer.seed) == (6, 6, 0)
    good, bad, ellipse = (figures["methods"][name] for name in ("lime", "occlusion", "ellipse"))
    assert good["pointing"] == 1 and good["iou"] > 0.9 and bad["iou"] < ellipse["iou"] < good["iou"]
    assert all(good["against_ellipse"][name]["better"] for name in ("iou", "insertion", "deletion"))
    assert not any(against["better"] for against in bad["against_ellipse"].values())
    assert 0 < good["stability"] < 1 and bad["stability"] == 1
    with pytest.raises(ValueError, match="nothing to measure"):
        measuring.measure(explainer, iter([]), ("lime",))


def test_a_stopped_measurement_goes_on_and_another_pair_is_measured_anew(tmp_path):
    explained = []

    class Counting(KnownExplainer):
        def explain(self, crop, method):
            explained.append(method)
            return super().explain(crop, method)

    pairs = [masked_pair() for _ in range(3)]

    def stopped_after(count):
        yield from pairs[:count]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measuring.measure(Counting(), stopped_after(2), ("occlusion",), work=tmp_path)
    assert explained == ["occlusion"] * 2
    resumed = measuring.measure(Counting(), iter(pairs), ("occlusion", "lime"), work=tmp_path)
    assert explained.count("occlusion") == 3 and explained.count("lime") == 6  # with another seed, too
    whole = measuring.measure(KnownExplainer(), iter(pairs), ("occlusion", "lime"))
    for figures in (resumed, whole):
        for row in figures["methods"].values():
            del row["seconds"], row["cpu_seconds"]
    assert resumed == whole
    pairs[1] = measuring.MaskedPair(pairs[1].real, pairs[1].fake, ~pairs[1].mask)
    explained.clear()
    measuring.measure(Counting(), iter(pairs), ("occlusion",), work=tmp_path)
    assert explained == ["occlusion"]


def test_what_was_measured_is_said_and_what_was_not_too(monkeypatch):
    figures = measuring.measure(KnownExplainer(), iter([masked_pair()] * 6), ("lime", "occlusion"))
    measured = {"model": {"handle": "tfdfd/x", "sha256": "1"}, "fakes": "blended", **figures}
    monkeypatch.setattr(measuring, "stored", lambda: [measured])
    assert "6 blended faces: It beat an ellipse" in measuring.verdict_on("lime", "tfdfd/x", "1")
    assert "did not beat an ellipse" in measuring.verdict_on("occlusion", "tfdfd/x", "1")
    for method, digest in (("gradcam", "1"), ("lime", "2")):
        assert measuring.verdict_on(method, "tfdfd/x", digest).startswith("Not measured with tfdfd/x")


def test_stored_figures_are_of_carried_weights():
    for figures in measuring.stored():
        record, _ = locate(figures["model"]["handle"])
        assert {"handle": record.handle, "sha256": record.sha256} == figures["model"]
        assert figures["fakes"] in measuring.FAKES and set(figures["methods"]) - {"ellipse"} <= set(OF_CROPS)


@pytest.fixture(scope="module")
def faces(tmp_path_factory, astronaut):
    """A folder with six real crops of one portrait."""
    folder = tmp_path_factory.mktemp("faces")
    (folder / "real").mkdir()
    for number in range(6):
        cv2.imwrite(str(folder / "real" / f"{number}.png"), astronaut[50 + number : 170 + number, 150:290, ::-1])
    return folder


def test_masks_of_blended_pairs_are_where_the_fake_differs(faces):
    chosen = measuring.choose_faces(faces, "blended", 3, split=None)
    pairs = list(measuring.masked_pairs(chosen, "blended", 3, 64))
    assert len(pairs) == 3 and all(pair.mask.dtype == bool and pair.mask.any() for pair in pairs)
    for pair in pairs:
        difference = np.abs(pair.real.astype(int) - pair.fake).mean(axis=-1)
        assert difference[pair.mask].mean() > 2 * difference[~pair.mask].mean()
    whole = BlendedPairs(chosen, 64, split=None)
    for number in range(2):
        pair, mask = whole.pair_and_mask(number, None)
        assert (pair == whole.pair(number, None)).all() and 0 <= mask.min() <= mask.max() <= 1
    assert {found.status for found in landmarks_of(faces_of(chosen)).values()} == {"ok"}


def test_wrong_sets_are_refused_before_any_work(faces):
    for arguments, message in (
        (("mixed", 3), "fakes must be blended or swapped; received 'mixed'"),
        (("blended", 1), "at least 2 crops"),
        (("swapped", 3), "donors from the same split"),
    ):
        with pytest.raises(ValueError, match=message):
            measuring.choose_faces(faces, *arguments, split=None)


def explained(segments=None):
    heat = np.linspace(-1, 1, SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE)
    features = [(15, 0.3), (0, -0.2)] if segments is not None else []
    return Explanation("occlusion" if segments is None else "lime", CROP, 0.7, heat, 0.1, segments, features)


def test_overlays_are_red_towards_fake_and_green_towards_real():
    gray = np.full_like(CROP, 128)
    for explanation in (explained(), explained(SQUARES)):
        explanation.crop = gray
        picture = overlay(explanation).astype(int)
        fake, real = picture[28, 28], picture[3, 3]
        assert fake[0] > fake[1] + 40 and real[1] > real[0] + 40
    assert (overlay(explained(SQUARES))[12, 12] == CROP[12, 12]).all()  # no feature, no color


def test_the_page_escapes_and_asks_for_nothing():
    record, _ = locate("tfdfd/meso_inception4")
    subject = Subject("<script>x</script>.png", "face", 0.7, [explained(), explained(SQUARES)])
    page = render_page(
        [subject], [], record, ["occlusion", "lime"], failed=[("<b>", "no & face")], settings={"seed": 0}
    )
    assert "<script>" not in page and "&lt;script&gt;" in page and "&lt;b&gt;" in page and "no &amp; face" in page
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page) and "http" not in page.replace("http-equiv", "")
    assert page.count("<img") == 3 and "ellipse in the middle" in page


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("lmie", "one of lime, gradcam, .*; received 'lmie'; did you mean lime"),
        ("grad-cam", "did you mean gradcam"),
        ("lime,lime", "each method may be given once"),
    ],
)
def test_unknown_methods_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        check_methods(names)


def test_a_missing_extra_is_named_before_anything_is_opened(monkeypatch):
    monkeypatch.setattr("tfdfd.explain.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"lime needs scikit-image and scikit-learn.*pip install 'tfdfd\[explain\]'"):
        check_methods("lime")
    assert check_methods("gradcam,occlusion") == ("gradcam", "occlusion")


def test_naming_methods_imports_nothing_heavy():
    code = (
        "import sys; import tfdfd.explain; from tfdfd.cli.main import main\n"
        "heavy = {'keras', 'tensorflow', 'skimage', 'sklearn', 'scipy'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_telling_frame_is_on_the_side_of_the_track():
    frames = [SimpleNamespace(crop=CROP, fake_probability=p) for p in (0.2, 0.9, 0.6)]
    track = SimpleNamespace(fake_probability=0.57, frames=frames)
    assert telling_frame(track, 0.5) is frames[1] and telling_frame(track, 0.6) is frames[0]


def test_explanations_are_the_same_for_the_same_seed(toy_weights, astronaut):
    crop = cv2.resize(astronaut[50:170, 150:290], (256, 256))
    explainer = Explainer(toy_weights, ("lime", "gradcam"), samples=20, features=3)
    first, again = explainer.explain(crop), explainer.explain(crop)
    assert (first.heat == again.heat).all() and len(first.features) == 3
    assert first.fake_probability == pytest.approx(float(explainer.score(crop[None])[0]))
    with pytest.raises(ValueError, match="received uint8 .32, 32, 3"):
        explainer.explain(CROP)


def test_the_mask_head_of_a_model_is_shown_as_it_is_or_said_to_be_missing(toy_weights, astronaut, tmp_path):
    weights = tmp_path / toy_weights.name
    for name in (weights.name, "toy.json"):
        shutil.copy(toy_weights.with_name(name), tmp_path / name)
    with pytest.raises(ValueError, match="toy has no mask head: there is no .*; use another method or model"):
        Explainer(weights, ("mask",))
    head = {
        "mask_head/kernel": np.random.default_rng(0).normal(size=(1, 1, 16, 1)).astype(np.float32),
        "mask_head/bias": np.float32([0.1]),
    }
    save_mask_head(head, weights)
    explainer = Explainer(weights, ("mask",))
    crop = cv2.resize(astronaut[50:170, 150:290], (256, 256))
    explanation = explainer.explain(crop, "mask")
    # The coarsest grid of meso4 is its last: 8 x 8 places.
    steps = run(explainer.model, crop[None].astype(np.float32) / 255)
    grid = [np.array(step.output) for step in steps if len(step.output.shape) == 4 and step.output.shape[1] == 8][-1]
    mask = 1 / (1 + np.exp(-(grid[0] @ head["mask_head/kernel"][0, 0, :, 0] + 0.1)))
    np.testing.assert_allclose(explanation.heat, cv2.resize(mask, (256, 256)), atol=1e-5)
    explanation.heat = np.full((256, 256), 0.01, np.float32)
    assert np.abs(overlay(explanation).astype(int) - crop).max() <= 2  # not scaled by its own maximum
    save_mask_head({"mask_head/bias": np.float32([0.1])}, weights)
    with pytest.raises(ValueError, match="does not fit tfdfd/meso4.toy"):
        Explainer(weights, ("mask",))
    mask_head_file(weights).write_bytes(mask_head_file(locate("tfdfd/efficientnet_lite0")[1]).read_bytes())
    with pytest.raises(ValueError, match="is of other weights"):
        Explainer(weights, ("mask",))


@pytest.fixture(scope="module")
def crop_file(tmp_path_factory, astronaut):
    file = tmp_path_factory.mktemp("crops") / "<i>face.png"
    cv2.imwrite(str(file), astronaut[50:170, 150:290, ::-1])
    return file


def test_the_command_writes_a_page(run_tfdfd, toy_weights, crop_file, tmp_path):
    page = tmp_path / "page.html"
    code, out, err = run_tfdfd(
        "explain", crop_file, "--detector", "none", "--model", toy_weights, "--samples", 20, "-o", page,
        "--method", "lime,gradcam,occlusion,kernels",
    )  # fmt: skip
    assert code == 0, err
    assert "lime" in out and "gradcam" in out and "page.html" in err
    text = page.read_text("utf-8")
    assert text.count("<img") == 5 and "&lt;i&gt;face.png" in text and "Not measured with tfdfd/meso4.toy" in text


def test_the_six_crops_of_s2s_figure_are_one_page(run_tfdfd, toy_weights, data, tmp_path):
    folder = data / "crops" / "ffpp"
    crops = sorted(folder.rglob("*.png"))
    page = tmp_path / "page.html"
    words = ("--detector", "none", "--model", toy_weights, "--samples", 20, "--method", "lime", "-o", page)
    assert run_tfdfd("explain", folder, *words)[0] == 0
    assert len(crops) == 6 and all(crop.name in page.read_text("utf-8") for crop in crops)


def test_the_report_of_detect_has_heat_maps(run_tfdfd, toy_weights, crop_file, tmp_path):
    words = ["detect", crop_file, "--detector", "none", "--model", toy_weights]
    code, out, err = run_tfdfd(*words, "--report", tmp_path / "with.html", "--explain", "gradcam", "--json", "-")
    assert code == 0, err
    plain = run_tfdfd(*words, "--report", tmp_path / "without.html", "--json", "-")[1]
    seconds = re.compile(r'"elapsed_s": [0-9.]+')
    assert seconds.sub("", out) == seconds.sub("", plain)
    pages = [(tmp_path / name).read_text("utf-8") for name in ("with.html", "without.html")]
    assert [page.count("<img") for page in pages] == [3, 2]  # and the whole frame
    assert "Grad-CAM: red points toward fake, green toward real. Not measured with tfdfd/meso4.toy" in pages[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--explain", "lime"), "give --report FILE.html, too"),
        (("--explain", "lmie", "--report", "p.html"), "did you mean lime"),
        (("--explain", "kernels", "--report", "p.html"), "received 'kernels'"),
        (("--explain", "lime,gradcam", "--report", "p.html"), "takes one method"),
        (("--explain", "lime", "--report", "p.html", "--server", "h:1"), "omit --server or --explain"),
    ],
)
def test_wrong_explanations_of_detect_are_refused(run_tfdfd, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run_tfdfd("detect", "x.png", *words)
    assert (code, out) == (2, "") and message in err


def test_a_picture_without_a_face_is_an_outcome(run_tfdfd, toy_weights, tmp_path):
    cv2.imwrite(str(tmp_path / "sea.png"), np.full((200, 200, 3), 90, np.uint8))
    code, out, err = run_tfdfd(
        "explain", tmp_path / "sea.png", "--model", toy_weights, "--method", "gradcam", "-o", tmp_path / "page.html"
    )
    assert code == 1 and "no face" in err and not (tmp_path / "page.html").exists()


def test_a_crop_that_cannot_be_explained_is_an_outcome(run_tfdfd, toy_weights, crop_file, tmp_path, monkeypatch):
    whole = lambda crop, seed: np.zeros(crop.shape[:2], int)  # noqa: E731
    monkeypatch.setattr("tfdfd.explain.quickshift_segments", whole)
    words = crop_file, "--detector", "none", "--model", toy_weights
    code, out, err = run_tfdfd("explain", *words, "-o", tmp_path / "page.html")
    assert (code, out) == (1, "") and "face.png: the crop is a single segment" in err
    code, out, err = run_tfdfd("detect", *words, "--report", tmp_path / "page.html", "--explain", "lime")
    assert code == 0 and "face.png: not explained: the crop is a single segment" in err and "1 face" in out


def test_the_network_alone_is_shown_without_inputs(run_tfdfd, toy_weights, tmp_path):
    code, _, err = run_tfdfd("explain", "--model", toy_weights, "--method", "kernels", "-o", tmp_path / "page.html")
    assert code == 0, err
    assert "8 kernels of 3 x 3 x 3" in (tmp_path / "page.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("x.png",), "-o PAGE.html is missing: the page to write"),
        (("-o", "p.html"), "lime explains faces: give an image"),
        (("x.png", "--method", "kernels", "-o", "p.html"), "shows the network and takes no INPUT"),
        (("x.png", "--method", "shap", "-o", "p.html"), "received 'shap'"),
        (("x.png", "-o", "nowhere/p.html"), "cannot write nowhere/p.html"),
        (("--measure", "nowhere"), "nowhere holds no face crops"),
        (("--measure", "nowhere", "--method", "kernels"), "received 'kernels'"),
        (("--measure", "nowhere", "-o", "p.html"), "--measure writes no page"),
        (("x.png", "--samples", "1", "-o", "p.html"), "at least 2 samples"),
    ],
)
def test_wrong_usage_is_said_before_any_work(run_tfdfd, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run_tfdfd("explain", *words)
    assert (code, out) == (2, "") and message in err


def test_measuring_prints_a_table_and_writes_figures(run_tfdfd, toy_weights, faces, tmp_path):
    code, out, err = run_tfdfd(
        "explain", "--measure", faces, "--split", "none", "--count", 2, "--method", "gradcam", "--model", toy_weights,
        "--json", tmp_path / "figures.json", "--work", tmp_path / "work",
    )  # fmt: skip
    assert code == 0, err
    assert re.search(r"^2 blended faces, \d called fake", out) and "ellipse" in out
    assert re.search(r"^gradcam +[01]\.\d{3}[ *] \([+-][01]\.\d\d to [+-][01]\.\d\d\)", out, re.MULTILINE)
    assert {file.name for file in (tmp_path / "work").glob("*.json")} == {"000000.json", "000001.json", "run.json"}
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert set(figures["methods"]) == {"gradcam", "ellipse"} and figures["crops"] == 2 and figures["protocol"]
    words = "--split", "none", "--count", 2, "--method", "gradcam", "--model", toy_weights, "--work", tmp_path / "work"
    code, out, err = run_tfdfd("explain", "--measure", faces, *words, "--seed", 1)
    assert (code, out) == (2, "") and "was started with other settings: seed was 0, now 1" in err
