"""Probe of self-blended fakes: simple statistics must not separate them from real crops.

    python -m benchmarks.self_blend_probe [--data FOLDER] [--photographs N] [--size N] [--seed N]

A logistic regression on mean, variance and JPEG size of each channel of real and blended crops, made as for training,
scored on held-out photographs (five folds; both crops of a photograph in the same fold). UTKFace names no people, so a
photograph stands for a person. Bound: AUC 0.65. `make bench` does not run it; 1,000 photographs take a minute.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import cv2
import numpy as np

from benchmarks.common import verdict
from benchmarks.self_blend import MARGIN, found_faces, photographs
from tfdfd.data.crops import crop_alike
from tfdfd.data.degrade import degrade_pair
from tfdfd.data.self_blending import self_blend

ALLOWED = 0.65
QUALITY = 90
FOLDS = 5


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TFDFD_TEST_DATA", "../shared/data")))
    parser.add_argument("--photographs", type=int, default=1000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    faces = found_faces(photographs(arguments.data, arguments.photographs))
    if len(faces) < 2 * FOLDS:
        raise ValueError(
            f"{len(faces)} photographs with a face under {arguments.data}; {2 * FOLDS} are needed at least"
        )
    real, fake = statistics_of_pairs(faces, arguments.size, arguments.seed)
    auc = probe_auc(real, fake)
    ok = auc <= ALLOWED
    print(
        f"{len(faces)} photographs, crops of {arguments.size}: AUC {auc:.3f} of mean, variance and JPEG size; wanted "
        f"<= {ALLOWED}: {verdict(ok)}"
    )
    return 0 if ok else 1


def statistics_of_pairs(faces, size, seed):
    """Statistics of the real and of the blended crop of each photograph, two arrays `(photographs, 9)`."""
    rows = []
    for number, (image, face) in enumerate(faces):
        rng = np.random.default_rng([seed, number])
        real, fake, _ = self_blend(image, face.landmarks, rng)
        pair = crop_alike(degrade_pair(real, fake, rng), face.box, rng, MARGIN, size=size)
        rows.append([statistics(crop) for crop in pair])
    return np.array(rows).transpose(1, 0, 2)


def statistics(crop):
    """Mean, variance and bytes as a JPEG of each channel, `(9,)`, of an RGB uint8 crop."""
    channels = [np.ascontiguousarray(channel) for channel in np.moveaxis(crop, 2, 0)]
    setting = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    sizes = [len(cv2.imencode(".jpg", channel, setting)[1]) for channel in channels]
    return [*(c.mean() for c in channels), *(c.var() for c in channels), *sizes]


def probe_auc(real, fake):
    """AUC of a logistic regression on held-out photographs; 0.5 is chance."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    values, labels = np.concatenate([real, fake]), np.repeat([0, 1], len(real))
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=100, max_iter=2000))
    photograph = np.tile(np.arange(len(real)), 2)
    scores = cross_val_predict(
        probe, values, labels, groups=photograph, cv=GroupKFold(FOLDS), method="decision_function"
    )
    return float(roc_auc_score(labels, scores))


if __name__ == "__main__":
    raise SystemExit(main())
