"""Fitting the SVM of "MesoInception4 + SVM" with scikit-learn, and taking its arrays out. scikit-learn stays here."""

from __future__ import annotations

import numpy as np

from tfdfd.weights.svm_file import SvmArrays

FOLDS = 5


def fit_svm(features, labels, C=1.0, gamma="scale", seed=0, groups=None) -> SvmArrays:
    """A scaler and an SVM with RBF kernel and probability (Platt) fitted to a network's features.

    It is `StandardScaler`, then `CalibratedClassifierCV(SVC(kernel="rbf"), method="sigmoid", ensemble=False)`: what
    scikit-learn gives for `SVC(probability=True)`, which it deprecates from 1.9 on and drops with 1.11. One SVM is
    fitted to everything; the probability's two numbers come from the decisions of five more, each on the fifth that it
    did not see.

    Args:
        features: (n, d) numbers, such as the output of a network's layer `features`.
        labels: (n,) of 0 and 1, 1 = fake; at least five of each.
        C: price of an error, above 0.
        gamma: inverse squared width of the kernel for scaled features, or `"scale"`, or `"auto"` for 1/d.
        seed: of the split into fifths.
        groups: (n,) names of what the fifths must not share (the `source_id` of each face). Without, faces of one
            video lie on both sides, and the probabilities come out too sure.

    Raises:
        ValueError: any of these otherwise, features that tell nothing of the labels, or scikit-learn is not installed.
    """
    features, labels = _checked(features, labels)
    try:
        from sklearn.calibration import CalibratedClassifierCV
        from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC
    except ImportError as error:
        raise ValueError(
            "fitting an SVM needs scikit-learn, which is not installed: run pip install 'tfdfd[train]'."
        ) from error
    scaler = StandardScaler().fit(features)
    split = StratifiedKFold if groups is None else StratifiedGroupKFold
    folds = list(split(FOLDS, shuffle=True, random_state=seed).split(features, labels, groups))
    if any(len(set(labels[kept])) < 2 for kept, _ in folds):
        raise ValueError(
            f"groups leave a fold with one class only; expected real and fake in at least two groups each; received: "
            f"{len(set(groups))} groups. Leave groups out, or give more videos."
        )
    svc = SVC(kernel="rbf", C=C, gamma=gamma)
    classifier = CalibratedClassifierCV(svc, method="sigmoid", cv=folds, ensemble=False)
    arrays = from_sklearn(scaler, classifier.fit(scaler.transform(features), labels))
    if arrays.slope <= 0:
        raise ValueError(
            "on examples that the SVM did not see, its decisions are no better than chance: the probability would turn "
            f"them round. Expected a slope above 0; received: {arrays.slope:.3g}. Give more examples or other features."
        )
    return arrays


def from_sklearn(scaler, classifier, fake=1) -> SvmArrays:
    """The arrays of a fitted scikit-learn scaler and SVM of two classes.

    Args:
        scaler: fitted `StandardScaler`, or None for features taken as they are.
        classifier: fitted on scaled features: `CalibratedClassifierCV(SVC(kernel="rbf"), method="sigmoid",
            ensemble=False)`, or `SVC(kernel="rbf", probability=True)`. Of the latter, the arrays give the sigmoid that
            was fitted; its `predict_proba` solves for the same number by iteration and stops within about 0.005 of it.
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
        gamma=svc._gamma,  # the number that gamma="scale" came to; scikit-learn tells it nowhere else
        slope=slope,
        offset=offset,
    )


def _parts(classifier):
    """SVM, its classes, and the slope and offset that give the second class's logit."""
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
    # libsvm counts its decision towards the first class, scikit-learn towards the second.
    return svc, classes, -svc._probA[0], svc._probB[0]


def _checked(features, labels):
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
