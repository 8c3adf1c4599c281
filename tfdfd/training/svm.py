"""RBF support vector machine of "MesoInception4 + SVM", fitted with scikit-learn and exported as plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from tfdfd.text import optional_import
from tfdfd.weights.svm_file import SvmArrays

if TYPE_CHECKING:
    import numpy.typing as npt

FOLDS = 5


def fit_svm(
    features: npt.ArrayLike,
    labels: npt.ArrayLike,
    C: float = 1.0,
    gamma: float | str = "scale",
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> SvmArrays:
    """Fits a scaler and an SVM with RBF kernel and Platt scaling to a network's features.

    The model is `StandardScaler`, then `CalibratedClassifierCV(SVC(kernel="rbf"), method="sigmoid", ensemble=False)`,
    which replaces `SVC(probability=True)`: scikit-learn deprecates it from 1.9 on and removes it in 1.11. One SVM is
    fitted to all examples; slope and offset of the probability come from the held-out decisions of five more.

    Args:
        features: (n, d) numbers, such as the output of a network's layer `features`.
        labels: (n,) of 0 and 1, 1 = fake; at least five of each.
        C: penalty of an error, above 0.
        gamma: inverse squared width of the kernel for scaled features, or `"scale"`, or `"auto"` for 1/d.
        seed: seed of the split into five folds.
        groups: (n,) names that folds must not share (the `source_id` of each face). Without groups, faces of one video
            are on both sides, and the probabilities are overconfident.

    Raises:
        ValueError: an argument is invalid, the features do not predict the labels, or scikit-learn is not installed.
    """
    features, labels = _checked(features, labels)
    with optional_import("fitting an SVM needs scikit-learn", "train"):
        from sklearn.calibration import CalibratedClassifierCV
        from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC
    scaler = StandardScaler().fit(features)
    split = StratifiedKFold if groups is None else StratifiedGroupKFold
    folds = list(split(FOLDS, shuffle=True, random_state=seed).split(features, labels, groups))
    if any(len(set(labels[kept])) < 2 for kept, _ in folds):
        raise ValueError(
            f"groups leave a fold with one class only; expected real and fake in at least two groups each; received: "
            f"{len(set(groups))} groups. Leave groups out, or give more videos."  # type: ignore[arg-type]
        )
    svc = SVC(kernel="rbf", C=C, gamma=gamma)
    classifier = CalibratedClassifierCV(svc, method="sigmoid", cv=folds, ensemble=False)
    arrays = from_sklearn(scaler, classifier.fit(scaler.transform(features), labels))
    if arrays.slope <= 0:
        raise ValueError(
            "on held-out examples, the SVM's decisions are no better than chance: the probability would invert them. "
            f"Expected a slope above 0; received: {arrays.slope:.3g}. Give more examples or other features."
        )
    return arrays


def from_sklearn(scaler: Any, classifier: Any, fake: object = 1) -> SvmArrays:
    """Returns the arrays of a fitted scikit-learn scaler and SVM of two classes.

    Args:
        scaler: fitted `StandardScaler`, or None for unscaled features.
        classifier: fitted on scaled features: `CalibratedClassifierCV(SVC(kernel="rbf"), method="sigmoid",
            ensemble=False)`, or `SVC(kernel="rbf", probability=True)`. For the latter, the arrays contain the fitted
            sigmoid; its `predict_proba` approximates the same number by iteration, within about 0.005.
        fake: the class that means fake, for an SVM with other labels than 1 = fake.

    Raises:
        ValueError: not fitted, another kernel or calibration, or classes without `fake`.
    """
    svc, classes, slope, offset = _parts(classifier)
    if len(classes) != 2 or fake not in classes:
        raise ValueError(f"expected two classes, one of them fake={fake!r}; received: {classes}. Name the fake one.")
    if classes[0] == fake:
        slope, offset = -slope, -offset
    mean, scale = np.zeros(svc.support_vectors_.shape[1]), np.ones(svc.support_vectors_.shape[1])
    if scaler is not None:
        if not hasattr(scaler, "n_features_in_"):
            raise ValueError(f"expected a fitted StandardScaler; received: {scaler!r}, not fitted.")
        mean = scaler.mean_ if scaler.with_mean else mean
        scale = scaler.scale_ if scaler.with_std else scale
    return SvmArrays(
        mean=mean,
        scale=scale,
        support_vectors=svc.support_vectors_,
        dual_coef=svc.dual_coef_[0],
        intercept=svc.intercept_[0],
        gamma=svc._gamma,  # the value of gamma="scale", which scikit-learn has in no public attribute
        slope=slope,
        offset=offset,
    )


def _parts(classifier: Any) -> tuple[Any, np.ndarray, Any, Any]:
    """Returns the SVM, its classes, and slope and offset of the second class's logit."""
    svc = classifier
    if hasattr(classifier, "calibrated_classifiers_"):
        calibrated = classifier.calibrated_classifiers_
        if len(calibrated) != 1 or not hasattr(calibrated[0].calibrators[0], "a_"):
            raise ValueError(
                "expected CalibratedClassifierCV(SVC(), method='sigmoid', ensemble=False); received: "
                f"{classifier!r} with {len(calibrated)} SVMs."
            )
        svc = calibrated[0].estimator
    if getattr(svc, "kernel", None) != "rbf" or not hasattr(svc, "support_vectors_"):
        raise ValueError(f"expected a fitted SVC(kernel='rbf'); received: {svc!r}")
    classes = classifier.classes_.tolist()
    if svc is not classifier:
        sigmoid = calibrated[0].calibrators[0]
        return svc, classes, -sigmoid.a_, -sigmoid.b_
    # Underscored: the public names warn in scikit-learn 1.9, while SVC still computes them.
    if len(getattr(svc, "_probA", ())) == 0:
        raise ValueError(
            f"expected an SVC that gives probabilities; received: {svc!r}. Wrap it before fitting: "
            "CalibratedClassifierCV(SVC(), method='sigmoid', ensemble=False)."
        )
    # libsvm's decision is positive for the first class, scikit-learn's for the second.
    return svc, classes, -svc._probA[0], svc._probB[0]


def _checked(features: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    features, labels = np.asarray(features), np.asarray(labels)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"expected features of shape (n, d) and labels of shape (n,); received: {features.shape} and {labels.shape}"
        )
    features = features.astype(np.float64)
    if not np.isfinite(features).all():
        bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
        raise ValueError(
            f"features must be finite; received: NaN or infinite values in {len(bad)} rows, first {bad[0]}"
        )
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels must be 0 (real) or 1 (fake); received: {np.unique(labels)[:10].tolist()}")
    labels = labels.astype(np.int64)
    counts = np.bincount(labels, minlength=2)
    if counts.min() < FOLDS:
        raise ValueError(
            f"expected at least {FOLDS} examples of each class; received: {counts[0]} real, {counts[1]} fake"
        )
    return features, labels
