"""MesoInception4 + SVM: scikit-learn's numbers from plain arrays and from one graph, and nothing from bad ones."""

import os
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import save_file
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from tfdfd.models import build
from tfdfd.models.svm import RbfSvm, SvmArrays, with_svm
from tfdfd.training.svm import fit_svm, from_sklearn

ARRAYS = {
    "mean": np.zeros(2),
    "scale": np.ones(2),
    "support_vectors": np.array([[0.0, 0.0], [3.0, 4.0]]),
    "dual_coef": np.array([1.0, -1.0]),
    "intercept": 0.25,
    "gamma": 0.1,
    "slope": 2.0,
    "offset": -0.5,
}


def clouds(per_class=60, dims=5, seed=0, shift=1.0):
    """Two classes that overlap; each feature with its own mean and size, as a network's have."""
    rng = np.random.default_rng(seed)
    labels = np.arange(2 * per_class) % 2
    features = rng.normal(shift * labels[:, None], 1, (2 * per_class, dims))
    return (features * np.geomspace(0.1, 30, dims) + np.linspace(-5, 90, dims)).astype(np.float32), labels


def fitted(features, labels, seed=0, **arguments):
    """scikit-learn's own objects, by the recipe that `fit_svm` states."""
    # Double precision from here on: StandardScaler keeps float32, and would be the less exact of the two.
    features = features.astype(np.float64)
    scaler = StandardScaler().fit(features)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    classifier = CalibratedClassifierCV(SVC(**arguments), method="sigmoid", cv=folds, ensemble=False)
    return scaler, classifier.fit(scaler.transform(features), labels)


def sklearn_probability(scaler, classifier, features):
    return classifier.predict_proba(scaler.transform(features.astype(np.float64)))[:, 1:]


@pytest.fixture(scope="module")
def network():
    return build("meso_inception4", weights="tfdfd/meso_inception4")


@pytest.fixture(scope="module")
def faces():
    """Eighty pictures of two kinds: smooth shading, and the same with a patch of another brightness and noise."""
    rng = np.random.default_rng(3)
    grid = np.linspace(0, 3, 256)
    images = np.empty((80, 256, 256, 3), np.float32)
    for index, image in enumerate(images):
        a, b, c = rng.uniform(0.5, 3, 3)
        image[:] = 0.5 + 0.3 * np.sin(a * grid[:, None, None] + b) * np.cos(c * grid[None, :, None] + rng.random(3))
        if index % 2:
            top, left = rng.integers(20, 120, 2)
            image[top : top + 100, left : left + 100] += rng.normal(rng.normal(0, 0.1), 0.05, (100, 100, 3))
    return images.clip(0, 1), np.arange(80) % 2


def features_of(network, images):
    tap = keras.Model(network.input, network.get_layer("features").output)
    return tap.predict(images, verbose=0, batch_size=16)


def shown(arrays, features, dtype="float32"):
    """What the layer makes of features; always float32."""
    scores = np.asarray(RbfSvm.from_arrays(arrays, dtype=dtype)(features))
    assert scores.dtype == np.float32
    return scores


def test_hand_computed():
    """Distances 0 and 5 from the origin: decision 1 - exp(-2.5) + 0.25."""
    arrays = SvmArrays(**ARRAYS)
    logit = 2 * (1 - np.exp(-2.5) + 0.25) - 0.5
    np.testing.assert_allclose(arrays.fake_probability([[0, 0]]), [[1 / (1 + np.exp(-logit))]], rtol=1e-12)
    np.testing.assert_allclose(shown(arrays, np.zeros((1, 2), np.float32)), [[1 / (1 + np.exp(-logit))]], rtol=1e-6)


@pytest.mark.parametrize("arguments", [{}, {"C": 30.0, "gamma": 0.02}, {"C": 0.1, "gamma": "auto"}, {"gamma": 3.0}])
def test_reloaded_arrays_equal_sklearn(tmp_path, arguments):
    features, labels = clouds()
    others, _ = clouds(seed=1)
    fit_svm(features, labels, seed=4, **arguments).save(tmp_path / "svm.safetensors")
    arrays = SvmArrays.load(tmp_path / "svm.safetensors")
    expected = sklearn_probability(*fitted(features, labels, seed=4, **arguments), others)
    found = arrays.fake_probability(others)
    assert found.shape == (120, 1) and found.dtype == np.float64
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-12, rtol=0)
    np.testing.assert_allclose(shown(arrays, others, "float64"), expected, atol=1e-7, rtol=0)
    np.testing.assert_allclose(
        shown(arrays, others), expected, atol=1e-5 if arguments.get("C", 1) > 1 else 1e-6, rtol=0
    )


def test_network_with_svm_equals_sklearn(network, faces, tmp_path):
    images, labels = faces
    features = features_of(network, images)
    fit_svm(features[:60], labels[:60]).save(tmp_path / "svm.safetensors")
    arrays = SvmArrays.load(tmp_path / "svm.safetensors")
    expected = sklearn_probability(*fitted(features[:60], labels[:60]), features)
    np.testing.assert_allclose(arrays.fake_probability(features), expected, atol=1e-12, rtol=0)
    model = with_svm(network, arrays)
    assert (model.name, model.output_shape) == ("meso_inception4_svm", (None, 1))
    assert model.get_layer("fake_probability").output is model.output
    np.testing.assert_allclose(model.predict(images, verbose=0, batch_size=16), expected, atol=1e-6, rtol=0)
    assert np.mean((expected[60:, 0] > 0.5) == labels[60:]) > 0.7


def test_real_crops(network, data):
    """Faces of DFDC: the SVM sees three of four, and all of them give scikit-learn's numbers."""
    files = sorted((data / "crops" / "dfdc").glob("*/*.png"))
    images = np.stack([keras.utils.img_to_array(keras.utils.load_img(f, target_size=(256, 256))) / 255 for f in files])
    labels = np.array([f.parent.name == "fake" for f in files])
    assert set(labels) == {True, False}
    features = features_of(network, images)
    kept = np.arange(len(files)) % 4 > 0
    scaler, classifier = fitted(features[kept], labels[kept].astype(int))
    expected = sklearn_probability(scaler, classifier, features)
    arrays = fit_svm(features[kept], labels[kept])
    np.testing.assert_allclose(arrays.fake_probability(features), expected, atol=1e-12, rtol=0)
    np.testing.assert_allclose(with_svm(network, arrays).predict(images, verbose=0), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("price", "tolerance"), [(1.0, 2e-6), (100.0, 2e-5)])
def test_large_svm(price, tolerance):
    """A thousand support vectors of classes that overlap: where float32 has most to lose."""
    features, labels = clouds(per_class=800, dims=16, shift=0.3)
    arrays = fit_svm(features, labels, C=price)
    assert len(arrays.dual_coef) > 1000
    expected = arrays.fake_probability(features)
    np.testing.assert_allclose(shown(arrays, features), expected, atol=tolerance, rtol=0)
    np.testing.assert_allclose(shown(arrays, features, "float64"), expected, atol=1e-7, rtol=0)


def test_distances_survive_features_far_from_zero():
    """A mean of 1e5 spreads: |x|^2 + |s|^2 - 2xs, and even scaling in float32, would lose every digit."""
    features, labels = clouds()
    features = (features + 1e5 * np.geomspace(0.1, 30, 5)).astype(np.float32)
    arrays = fit_svm(features, labels)
    np.testing.assert_allclose(shown(arrays, features), arrays.fake_probability(features), atol=1e-6, rtol=0)


def test_probability_is_of_fake():
    """Other labels turn the probability; and it rises towards the fakes."""
    features, labels = clouds(shift=2.0)
    scores = fit_svm(features, labels).fake_probability(features)[:, 0]
    assert scores[labels == 1].mean() > 0.9 and scores[labels == 0].mean() < 0.1
    turned = fit_svm(features, 1 - labels).fake_probability(features)[:, 0]
    np.testing.assert_allclose(turned, 1 - scores, atol=0.02)


@pytest.mark.parametrize(("names", "fake"), [(["real", "fake"], "fake"), (["genuine", "swapped"], "swapped")])
def test_other_names_and_the_opposite_convention_are_turned(names, fake):
    features, labels = clouds()
    named = np.array(names)[labels]
    scaler, classifier = fitted(features, named)
    column = classifier.classes_.tolist().index(fake)
    expected = classifier.predict_proba(scaler.transform(features.astype(np.float64)))[:, [column]]
    arrays = from_sklearn(scaler, classifier, fake=fake)
    np.testing.assert_allclose(arrays.fake_probability(features), expected, atol=1e-12, rtol=0)
    np.testing.assert_allclose(shown(arrays, features), expected, atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore:The `probability` parameter:FutureWarning")
@pytest.mark.parametrize("fake", [0, 1])
def test_svc_with_its_own_probability(fake):
    """libsvm iterates towards the sigmoid's value and stops early: the same number to its tolerance, no nearer."""
    features, labels = clouds()
    svc = SVC(probability=True, random_state=0)
    if "probability" not in svc.get_params():
        pytest.skip("this scikit-learn has no SVC(probability=True)")
    svc.fit(features, labels)
    arrays = from_sklearn(None, svc, fake=fake)
    np.testing.assert_allclose(arrays.fake_probability(features)[:, 0], svc.predict_proba(features)[:, fake], atol=5e-3)
    logit = arrays.slope * svc.decision_function(features) + arrays.offset
    np.testing.assert_allclose(arrays.fake_probability(features)[:, 0], 1 / (1 + np.exp(-logit)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("options", [{"with_mean": False}, {"with_std": False}])
def test_scalers_that_do_half(options):
    features, labels = clouds()
    features = features.astype(np.float64) / 10
    scaler = StandardScaler(**options).fit(features)
    classifier = CalibratedClassifierCV(SVC(), ensemble=False).fit(scaler.transform(features), labels)
    expected = classifier.predict_proba(scaler.transform(features))[:, 1:]
    np.testing.assert_allclose(
        from_sklearn(scaler, classifier).fake_probability(features), expected, atol=1e-12, rtol=0
    )


def test_a_constant_feature_is_no_division_by_zero():
    features, labels = clouds()
    features[:, 2] = 7
    arrays = fit_svm(features, labels)
    np.testing.assert_allclose(shown(arrays, features), arrays.fake_probability(features), atol=1e-6, rtol=0)


def test_groups_keep_the_probabilities_honest():
    """Eighty videos of eight nearly equal faces: without groups, the probability on others is worse than 0.5 always."""
    rng = np.random.default_rng(0)

    def videos(count, faces):
        labels = np.arange(count) % 2
        centres = rng.normal(0.4 * labels[:, None], 1, (count, 8))
        spread = rng.normal(0, 0.05, (count * faces, 8))
        return np.repeat(centres, faces, axis=0) + spread, *(np.repeat(x, faces) for x in (labels, np.arange(count)))

    features, labels, groups = videos(80, 8)
    others, truth, _ = videos(500, 1)

    def log_loss(arrays):
        scores = arrays.fake_probability(others)[:, 0]
        return -np.mean(np.log(np.where(truth, scores, 1 - scores)))

    assert log_loss(fit_svm(features, labels, groups=groups)) < np.log(2) < log_loss(fit_svm(features, labels))


def test_decisions_that_point_the_wrong_way_are_refused():
    """Each face has a twin of the other class and another video: every held-out decision is wrong."""
    features = np.repeat(np.random.default_rng(0).normal(size=(60, 5)), 2, axis=0)
    labels = np.arange(120) % 2
    with pytest.raises(ValueError, match=r"no better than chance: .*Expected a slope above 0; received: -"):
        fit_svm(features, labels)


def test_fit_is_repeatable():
    features, labels = clouds()
    first, second, other = (fit_svm(features, labels, seed=seed) for seed in (5, 5, 6))
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert first.slope != other.slope


def test_no_warning_of_scikit_learn_is_ours():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_svm(*clouds())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_model_survives_save_and_load(network, faces, tmp_path, dtype):
    images, labels = faces
    model = with_svm(network, fit_svm(features_of(network, images), labels), name="meso_svm", dtype=dtype)
    expected = model.predict(images[:6], verbose=0)
    model.save(tmp_path / "x.keras")
    again = keras.models.load_model(tmp_path / "x.keras")
    np.testing.assert_array_equal(again.predict(images[:6], verbose=0), expected)
    assert again.name == "meso_svm" and len(again.trainable_weights) == len(model.trainable_weights)
    model.save_weights(tmp_path / "x.weights.h5")
    again.get_layer("fake_probability").set_weights([w * 0 for w in again.get_layer("fake_probability").get_weights()])
    again.load_weights(tmp_path / "x.weights.h5")
    np.testing.assert_array_equal(again.predict(images[:6], verbose=0), expected)


def test_model_survives_export(network, faces, tmp_path):
    images, labels = faces
    model = with_svm(network, fit_svm(features_of(network, images), labels))
    model.export(tmp_path / "x", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "x"))
    np.testing.assert_allclose(exported.serve(images[:6]), model.predict(images[:6], verbose=0), atol=1e-6, rtol=0)


def test_svm_does_not_train_but_passes_the_gradient():
    layer = RbfSvm.from_arrays(fit_svm(*clouds()))
    assert layer.trainable_weights == [] and len(layer.non_trainable_weights) == 4
    x = tf.Variable(clouds(per_class=5)[0])
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(layer(x))
    assert np.all(tape.gradient(value, x).numpy() != 0)


def test_config_holds_the_arguments_of_the_constructor():
    config = RbfSvm(support_vectors=7, dims=3, dtype="float64", name="svm").get_config()
    assert (config["support_vectors"], config["dims"], config["name"]) == (7, 3, "svm")
    again = RbfSvm.from_config(config)
    assert again.get_config() == config and again.compute_dtype == "float64"


def test_unfitted_layer_scores_nothing():
    assert np.isnan(RbfSvm(4, 3)(np.zeros((2, 3), np.float32))).all()


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_output_stays_float32_under_mixed_precision(policy):
    features, labels = clouds(dims=16)
    arrays = fit_svm(features, labels)
    keras.config.set_dtype_policy(policy)
    try:
        model = with_svm(build("meso_inception4"), arrays)
        assert model.output.dtype == "float32"
        assert model.get_layer("features").compute_dtype != "float32"
        np.testing.assert_allclose(shown(arrays, features), arrays.fake_probability(features), atol=1e-6, rtol=0)
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"support_vectors": np.zeros(4)}, r"shape \(count, dims\).*received: \(4,\)"),
        ({"support_vectors": np.zeros((0, 2))}, r"received: \(0, 2\)"),
        ({"mean": np.zeros(3)}, r"mean must have the shape \(2,\).*received: \(3,\)"),
        ({"scale": np.ones((2, 1))}, r"scale must have the shape \(2,\).*received: \(2, 1\)"),
        ({"scale": np.array([1.0, 0.0])}, "scale must be above 0; received: 0.0"),
        ({"dual_coef": np.ones(3)}, r"dual_coef must have the shape \(2,\).*received: \(3,\)"),
        ({"intercept": np.ones(1)}, r"intercept must have the shape \(\).*received: \(1,\)"),
        ({"gamma": -1.0}, "gamma must be above 0; received: -1.0"),
        ({"slope": np.nan}, "slope must be finite; received: 1 NaN"),
        ({"dual_coef": np.array([np.inf, 1.0])}, "dual_coef must be finite"),
        ({"offset": "much"}, "offset must be an array of numbers; received: str"),
    ],
)
def test_arrays_that_are_no_svm(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        SvmArrays(**ARRAYS | change)
    if "offset" not in change:
        file = tmp_path / "bad.safetensors"
        save_file({name: np.asarray(value) for name, value in (ARRAYS | change).items()}, file)
        with pytest.raises(ValueError, match=rf"bad.safetensors holds no usable SVM: .*{message}"):
            SvmArrays.load(file)


def test_arrays_are_copies_and_read_only():
    mean = np.zeros(2)
    arrays = SvmArrays(**ARRAYS | {"mean": mean})
    mean[0] = 9
    assert arrays.mean[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        arrays.mean[0] = 1


def test_files_that_are_no_svm(tmp_path):
    SvmArrays(**ARRAYS).save(tmp_path / "svm.safetensors")
    whole = (tmp_path / "svm.safetensors").read_bytes()
    file = tmp_path / "x.safetensors"
    for data in (b"", whole[:4], whole[: len(whole) // 2], whole[:-1], b"\x80\x04K\x01.", b"\xff" * 64):
        file.write_bytes(data)
        with pytest.raises(ValueError, match="x.safetensors is not a safetensors file"):
            SvmArrays.load(file)
    save_file({"hidden/kernel": np.zeros((3, 2))}, file)
    with pytest.raises(ValueError, match=r"holds no SVM: it lacks \['dual_coef'.*\['hidden/kernel'\] besides"):
        SvmArrays.load(file)
    with pytest.raises(ValueError, match=r"absent.safetensors is not a safetensors file \(.*No such file"):
        SvmArrays.load(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x, y + 1), r"labels must be 0 \(real\) or 1 \(fake\); received: \[1, 2\]"),
        (lambda x, y: (x, np.where(y, 1.0, np.nan)), "labels must be 0"),
        (lambda x, y: (x, np.array(["real", "fake"])[y]), r"received: \['fake', 'real'\]"),
        (lambda x, y: (x, y * 0), r"at least 5 examples of each class; received: 120 real, 0 fake"),
        (lambda x, y: (x[:8], y[:8]), "received: 4 real, 4 fake"),
        (lambda x, y: (x[:, 0], y), r"features of shape \(n, d\).*received: \(120,\)"),
        (lambda x, y: (x, y[:-1]), r"received: \(120, 5\) and \(119,\)"),
        (lambda x, y: (x, y[:, None]), r"received: \(120, 5\) and \(120, 1\)"),
        (lambda x, y: (np.where(x == x[3, 1], np.nan, x), y), "received: NaN or infinite values in 1 rows, first 3"),
    ],
)
def test_bad_examples(change, message):
    with pytest.raises(ValueError, match=message):
        fit_svm(*change(*clouds()))


def test_groups_with_one_class_a_fold():
    features, labels = clouds()
    with pytest.raises(ValueError, match="one class only; expected real and fake in at least two groups each"):
        fit_svm(features, labels, groups=np.where(labels, "one", np.arange(120).astype(str)))


@pytest.mark.parametrize(
    ("scaler", "classifier", "message"),
    [
        (None, SVC(), r"fitted SVC\(kernel='rbf'\); received: SVC\(\)"),
        (None, SVC(kernel="linear").fit(*clouds()), r"received: SVC\(kernel='linear'\)"),
        (None, SVC().fit(*clouds()), "gives probabilities; received: SVC.*Wrap it before fitting"),
        (None, CalibratedClassifierCV(SVC(), ensemble=False), "received: CalibratedClassifierCV"),
        (None, CalibratedClassifierCV(SVC(), ensemble=True).fit(*clouds()), "ensemble=False.*with 5 SVMs"),
        (None, CalibratedClassifierCV(SVC(), method="isotonic", ensemble=False).fit(*clouds()), "method='sigmoid'"),
        (
            None,
            CalibratedClassifierCV(make_pipeline(StandardScaler(), SVC()), ensemble=False).fit(*clouds()),
            "received: Pipeline",
        ),
        (StandardScaler(), CalibratedClassifierCV(SVC(), ensemble=False).fit(*clouds()), "StandardScaler.*not fitted"),
    ],
)
def test_other_things_than_a_fitted_svm(scaler, classifier, message):
    with pytest.raises(ValueError, match=message):
        from_sklearn(scaler, classifier)


def test_classes_without_the_fake_one():
    features, labels = clouds()
    for named in (labels + 1, np.arange(120) % 3):
        classifier = CalibratedClassifierCV(SVC(), ensemble=False).fit(features, named)
        with pytest.raises(ValueError, match=r"one of them fake=0; received: \["):
            from_sklearn(None, classifier, fake=0)


def test_features_of_another_width(network):
    arrays = SvmArrays(**ARRAYS)
    for features in (np.zeros((4, 3)), np.zeros(2)):
        with pytest.raises(ValueError, match=r"shape \(m, 2\); received: \("):
            arrays.fake_probability(features)
    with pytest.raises(ValueError, match="features must be finite; received: 1 NaN"):
        arrays.fake_probability([[np.nan, 0]])
    with pytest.raises(ValueError, match=r"features of shape \(batch, 2\); received: \(None, 16\)"):
        with_svm(network, arrays)


def test_network_without_features():
    image = keras.Input((4,))
    with pytest.raises(ValueError, match="a layer named 'features'.*received: plain, which has none"):
        with_svm(keras.Model(image, keras.layers.Dense(1)(image), name="plain"), SvmArrays(**ARRAYS))


@pytest.mark.parametrize("sizes", [(0, 3), (3, -1), (2.0, 3), (True, 3)])
def test_bad_sizes(sizes):
    with pytest.raises(ValueError, match="must be a positive integer; received"):
        RbfSvm(*sizes)


@pytest.mark.parametrize("dtype", ["float16", "mixed_bfloat16"])
def test_bad_dtypes(dtype):
    with pytest.raises(ValueError, match=f"'float32' or 'float64'; received: '{dtype}'"):
        RbfSvm(2, 2, dtype=dtype)


@pytest.mark.slow
def test_jax_gives_the_same_numbers(tmp_path):
    pytest.importorskip("jax")
    features, labels = clouds()
    arrays = fit_svm(features, labels)
    arrays.save(tmp_path / "svm.safetensors")
    np.save(tmp_path / "in.npy", features)
    program = (
        "import sys, keras, numpy as np; from tfdfd.models.svm import RbfSvm, SvmArrays; "
        "assert keras.backend.backend() == 'jax'; layer = RbfSvm.from_arrays(SvmArrays.load(sys.argv[1])); "
        "np.save(sys.argv[3], layer(np.load(sys.argv[2])))"
    )
    paths = [str(tmp_path / name) for name in ("svm.safetensors", "in.npy", "out.npy")]
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", program, *paths], check=True, timeout=300, env=environment)
    np.testing.assert_allclose(np.load(paths[2]), arrays.fake_probability(features), atol=1e-6, rtol=0)


def test_absent_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    with pytest.raises(ValueError, match=r"pip install 'tfdfd\[train\]'"):
        fit_svm(*clouds())


def test_reading_and_scoring_import_neither_keras_nor_scikit_learn(tmp_path):
    SvmArrays(**ARRAYS).save(tmp_path / "svm.safetensors")
    program = (
        "import sys; from tfdfd.training import svm; from tfdfd.weights.svm_file import SvmArrays; "
        "print(SvmArrays.load(sys.argv[1]).fake_probability([[0, 0]])); "
        "sys.exit(bool({'keras', 'tensorflow', 'sklearn'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "svm.safetensors")], check=True, timeout=60)
