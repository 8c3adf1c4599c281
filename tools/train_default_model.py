"""Trains and judges the detector that the package carries: MesoInception4 on self-blended images.

    python tools/train_default_model.py landmarks --data ../shared/data --work /tmp/tfdfd-training
    python tools/train_default_model.py train     --data ../shared/data --work /tmp/tfdfd-training --epochs 6
    python tools/train_default_model.py judge     --data ../shared/data --work /tmp/tfdfd-training

`landmarks` finds the faces once. `train` starts from the MesoNet authors' weights, takes 4 to 6 minutes an epoch on two
cores (without `--epochs` it plans as many as fit into `--minutes`) and continues where it stopped when run again.
`judge` scores the weights of the best epoch, chosen by validation AUC, on photographs it never saw and writes weights,
model card and log into the repository.

The photographs are UTKFace's (research use, non-commercial) and stay where they are. `--data` is the folder that
holds `faces/utkface_adults`, `crops/` and `mesonet/`; it defaults to `$TFDFD_TEST_DATA`, then `../shared/data`.
"""

import argparse
import collections
import hashlib
import itertools
import json
import os
import platform
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import cv2
import keras
import numpy as np
from scipy.sparse.csgraph import connected_components
from sklearn.metrics import roc_auc_score, roc_curve

from tfdfd.data import self_blended
from tfdfd.faces.crop import resize_crop
from tfdfd.models.meso import meso_inception4
from tfdfd.weights.loading import load_weights
from tfdfd.weights.records import find_record
from tfdfd.weights.saving import save_weights
from tfdfd.weights.store import check_digest

REPOSITORY = Path(__file__).resolve().parents[1]
WEIGHTS = REPOSITORY / "tfdfd/weights/files/meso_inception4.safetensors"
VALIDATION = "utkface_adults, self-blended, validation split (thresholds chosen here)"
TEST = "utkface_adults, self-blended, test split"
CARD = WEIGHTS.with_name("meso_inception4.json")
LOG = REPOSITORY / "docs/training/meso_inception4_log.csv"
DATE = "2026-11-20"
PARTS = {"train": 0.8, "validation": 0.1, "test": 0.1}
# The MesoNet authors' weights for deepfakes (Apache-2.0), from which the training starts.
INITIAL = "tfdfd/meso_inception4.df"
# Their NOTICE file, which the Apache licence asks derived works to pass on.
NOTICE = """Apache Mesonet - Facial Video Forgery Detection Network
Copyright 2018 The Apache Software Foundation
Copyright 2018, Darius Afchar, École des Ponts Paristech (France)
Copyright 2018, Vincent Nozick, JFLI (UMI-3527, Japan) and UPEM-LIGM (UMR-8049, France)
Copyright 2018, National Institute of Informatics
All rights reserved.

This product includes software developed at
The Apache Software Foundation (http://www.apache.org/)."""
PAIRS_PER_BATCH = 8
# A detector's crop is 1.3 times the face's box. On these chips of 200 pixels the box is about 194 pixels high and ends
# at the chip's border; beside the distance of the eyes it is as large as boxes on whole photographs. So at 1.3 about 25
# pixels a side are mirrored in; wider crops would show a second pair of eyes.
CROP_MARGIN = (0.95, 1.4)
BOOTSTRAPS = 2000


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("landmarks", "train", "judge"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TFDFD_TEST_DATA", "../shared/data")))
    parser.add_argument("--work", type=Path, required=True, help="folder for landmarks, checkpoints and the log")
    parser.add_argument("--minutes", type=float, default=50, help="time the training may take")
    parser.add_argument("--epochs", type=int, help="number of epochs, instead of as many as fit into --minutes")
    parser.add_argument("--seed", type=int, default=20261120)
    arguments = parser.parse_args(argv)
    arguments.work.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)  # the pairs are made in several threads already
    {"landmarks": landmarks, "train": train, "judge": judge}[arguments.step](arguments)


# Photographs -----------------------------------------------------------------------------------------------------


def landmarks(arguments):
    """Finds each photograph's face with MTCNN and stores names, boxes and points in `<work>/landmarks.npz`."""
    from mtcnn import MTCNN

    files = photographs(arguments.data)
    detector, found = MTCNN(), []
    for start in range(0, len(files), 64):
        batch = [read_rgb(file) for file in files[start : start + 64]]
        for file, faces in zip(files[start : start + 64], detector.detect_faces(batch), strict=True):
            if faces:
                face = max(faces, key=lambda face: face["confidence"])
                order = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
                points = np.array([face["keypoints"][name] for name in order], np.float32)
                found.append((file.name, np.array(face["box"], np.float32), points))
        print(f"{start + len(batch)}/{len(files)} photographs, {len(found)} faces", flush=True)
    names, boxes, points = zip(*found, strict=True)
    np.savez(arguments.work / "landmarks.npz", names=names, boxes=boxes, points=points, photographs=len(files))


def photographs(data):
    folder = data / "faces/utkface_adults"
    files = sorted(folder.glob("*.jpg"))
    if not files:
        raise ValueError(f"{folder.resolve()} holds no .jpg photographs; give the folder above faces/ with --data")
    return files


def read_rgb(file):
    image = cv2.imread(str(file), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{file} is no image OpenCV can read; remove it or fetch the data again")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def load_photographs(arguments):
    """The photographs with a face: `{"names", "images", "boxes", "points", "part"}`, one entry a photograph."""
    cache = arguments.work / "landmarks.npz"
    if not cache.exists():
        raise ValueError(f"{cache} does not exist; run the step `landmarks` with the same --work first")
    faces = dict(np.load(cache))
    faces["images"] = [read_rgb(arguments.data / "faces/utkface_adults" / name) for name in faces["names"]]
    faces["part"] = parts_of(faces["names"], near_duplicates(faces["images"]))
    return faces


def near_duplicates(images):
    """A group number for each image: the same picture, recompressed, recoloured or mirrored, gets the same number.

    Two images belong together when their 64-bit perceptual hashes (signs of the low DCT frequencies about their
    median) differ in at most 4 bits, or their 16x16 thumbnails correlate by at least 0.95. On aligned faces that is
    where the pairs of one picture end and look-alikes begin.
    """
    bits, thumbnails, mirrored = [], [], []
    for image in images:
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        low = cv2.dct(cv2.resize(gray, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32))[:9, :9].ravel()[1:65]
        bits.append(low > np.median(low))
        small = cv2.resize(gray, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float32)
        small = (small - small.mean()) / max(float(np.linalg.norm(small - small.mean())), 1e-6)
        thumbnails.append(small.ravel())
        mirrored.append(small[:, ::-1].ravel())
    bits, thumbnails, mirrored = np.float32(bits), np.float32(thumbnails), np.float32(mirrored)
    distance = bits @ (1 - bits.T) + (1 - bits) @ bits.T
    alike = (distance <= 4) | (thumbnails @ thumbnails.T >= 0.95) | (thumbnails @ mirrored.T >= 0.95)
    return connected_components(alike)[1]


def parts_of(names, groups):
    """The part of the split each photograph belongs to: a hash of the first file name of its group decides."""
    first = {}
    for name, group in zip(names, groups, strict=True):
        first[group] = min(str(name), first.get(group, str(name)))
    ends = list(itertools.accumulate(PARTS.values()))
    parts = []
    for group in groups:
        share = int(hashlib.sha256(first[group].encode()).hexdigest()[:8], 16) / 2**32
        parts.append(list(PARTS)[min(np.searchsorted(ends, share, side="right"), len(ends) - 1)])
    return np.array(parts)


# Pairs -----------------------------------------------------------------------------------------------------------


def make_pair(faces, index, seed):
    """A real crop and its self-blended fake, uint8 `(2, 256, 256, 3)`, and the mask, float32 `(256, 256)`.

    The same seed gives the same pair.
    """
    rng = np.random.default_rng([*seed, index])
    real, fake, mask = self_blended.self_blend(faces["images"][index], faces["points"][index], rng)
    real, fake = self_blended.degrade_pair(real, fake, rng)
    real, fake, mask = self_blended.crop_alike((real, fake, mask), faces["boxes"][index], rng, CROP_MARGIN)
    return np.stack([real, fake]), mask


def training_batches(faces, seed, first_step):
    """Endless `(images, targets)` from step `first_step` on, each real face beside its own fake; labels 0, 1, 0, 1, ...

    Every batch is a function of the seed and its step, so that a run that was stopped goes on with the batches it
    would have seen.
    """
    chosen = np.flatnonzero(faces["part"] == "train")
    steps = len(chosen) // PAIRS_PER_BATCH

    def batch(step):
        epoch, position = divmod(step, steps)
        order = np.random.default_rng([seed, epoch]).permutation(chosen)
        indices = order[position * PAIRS_PER_BATCH : (position + 1) * PAIRS_PER_BATCH]
        pairs, masks = zip(*(make_pair(faces, index, (seed, epoch)) for index in indices), strict=True)
        return np.concatenate(pairs).astype(np.float32) / 255, targets_of(masks)

    with ThreadPoolExecutor(2) as pool:
        upcoming = collections.deque(pool.submit(batch, step) for step in range(first_step, first_step + 6))
        for step in itertools.count(first_step + 6):
            yield upcoming.popleft().result()
            upcoming.append(pool.submit(batch, step))


def traces_of(mask):
    """What a fake's `traces` should say, `(32, 32, 2)`: how much of the place is blended in, and how much is border.

    The border is 4 m (1 - m) of the mask m, as in Face X-ray (Li et al., CVPR 2020, arXiv:1912.13458).
    """
    mask = mask / max(float(mask.max()), 1e-6)
    return cv2.resize(np.dstack([mask, 4 * mask * (1 - mask)]), (32, 32), interpolation=cv2.INTER_AREA)


class StoredImages(keras.utils.PyDataset):
    """Images kept as uint8 and handed out as float32 in [0, 1] with their targets, in order, each exactly once."""

    def __init__(self, images, targets=None, batch=32):
        super().__init__()
        self.images, self.targets, self.batch = images, targets or {}, batch

    def __len__(self):
        return -(-len(self.images) // self.batch)

    def __getitem__(self, index):
        rows = slice(index * self.batch, (index + 1) * self.batch)
        return self.images[rows].astype(np.float32) / 255, {name: all_[rows] for name, all_ in self.targets.items()}


def held_out_pairs(faces, part, seed):
    """One pair for each photograph of a part: images, training targets and the photograph each image comes from."""
    indices = np.flatnonzero(faces["part"] == part)
    with ThreadPoolExecutor(2) as pool:
        pairs = list(pool.map(lambda index: make_pair(faces, index, (seed, 10**6)), indices))
    return np.concatenate([pair for pair, _ in pairs]), targets_of([m for _, m in pairs]), np.repeat(indices, 2)


def targets_of(masks):
    """What the network should say of real, fake, real, fake, ... where `masks` are the fakes'."""
    labels = np.tile(np.float32([[0], [1]]), (len(masks), 1))
    traces = [side for mask in masks for side in (np.zeros((32, 32, 2), np.float32), traces_of(mask))]
    return {"fake_probability": labels, "traces": np.stack(traces)}


# Training --------------------------------------------------------------------------------------------------------


def train(arguments):
    """Fits the network; leaves `best.weights.h5`, `last.keras`, `plan.json` and `log.csv` in the work folder."""
    keras.utils.set_random_seed(arguments.seed)
    faces = load_photographs(arguments)
    print({part: int((faces["part"] == part).sum()) for part in PARTS}, "of", int(faces["photographs"]), "photographs")
    steps = int((faces["part"] == "train").sum()) // PAIRS_PER_BATCH
    validation = StoredImages(*held_out_pairs(faces, "validation", arguments.seed)[:2])
    last, log, plan_file = (arguments.work / name for name in ("last.keras", "log.csv", "plan.json"))
    score = "val_fake_probability_auc"
    if last.exists():
        plan = json.loads(plan_file.read_text())
        model, rows = keras.models.load_model(last), log.read_text().splitlines()
        best = max(float(row.split(",")[rows[0].split(",").index(score)]) for row in rows[1:])
    else:
        network, best = meso_inception4(dropout=0.2), None
        load_weights(network, find_record(INITIAL), initial_file(arguments.data))
        model = with_traces(network)
        plan = plan_epochs(arguments, faces, steps)
        plan_file.write_text(json.dumps(plan))
        compile_for_training(model, keras.optimizers.schedules.CosineDecay(1e-3, plan["epochs"] * steps, alpha=0.01))
    done = int(model.optimizer.iterations)
    print(f"plan {plan}; {steps} steps an epoch; starting at step {done}", flush=True)
    checkpoint = keras.callbacks.ModelCheckpoint
    model.fit(
        training_batches(faces, arguments.seed, done),
        steps_per_epoch=steps,
        initial_epoch=done // steps,
        epochs=plan["epochs"],
        validation_data=validation,
        verbose=2,
        callbacks=[
            keras.callbacks.CSVLogger(log, append=last.exists()),
            checkpoint(
                arguments.work / "best.weights.h5",
                monitor=score,
                mode="max",
                save_best_only=True,
                save_weights_only=True,
                initial_value_threshold=best,
            ),
            # The last to run: a run stopped before it repeats the epoch as a whole.
            checkpoint(last),
        ],
    )


def initial_file(data):
    """The authors' file, checked against its record."""
    record, file = find_record(INITIAL), data / "mesonet/weights/MesoInception_DF.h5"
    check_digest(file, record.sha256, record.handle)
    return file


def with_traces(network):
    """The network with a second output for training, `traces` (batch, 32, 32, 2); see `traces_of`.

    It tells so small a network where a face was blended in, which one bit an image teaches too slowly: from random
    weights, without this output and on a little weaker fakes, validation AUC was 0.57 after two epochs.
    """
    traces = keras.layers.Conv2D(2, 1, activation="sigmoid", name="traces")(network.get_layer("block4_bn").output)
    return keras.Model(network.input, {"fake_probability": network.output, "traces": traces})


def compile_for_training(model, rate):
    model.compile(
        keras.optimizers.Adam(rate),
        loss={"fake_probability": "binary_crossentropy", "traces": "binary_crossentropy"},
        loss_weights={"fake_probability": 1.0, "traces": 2.0},
        metrics={"fake_probability": [keras.metrics.AUC(num_thresholds=1000, name="auc")]},
        jit_compile=False,
    )


def plan_epochs(arguments, faces, steps):
    """Measures images a second on a network that is then thrown away, and how many epochs fit into the minutes."""
    trial = with_traces(meso_inception4())
    compile_for_training(trial, 1e-3)
    batches = training_batches(faces, arguments.seed, 0)
    for _ in range(10):
        trial.train_on_batch(*next(batches))
    start, count = time.perf_counter(), 40
    for _ in range(count):
        trial.train_on_batch(*next(batches))
    seconds = (time.perf_counter() - start) / count
    # Scoring a validation pair costs about a third of a training step; there are an eighth as many of them.
    epoch_seconds = steps * seconds * (1 + 1 / 24)
    epochs = arguments.epochs or max(1, int(arguments.minutes * 60 / epoch_seconds))
    return {
        "images_per_second": round(2 * PAIRS_PER_BATCH / seconds, 1),
        "seconds_per_epoch": round(epoch_seconds, 1),
        "epochs": epochs,
        "seed": arguments.seed,
    }


# Judgement -------------------------------------------------------------------------------------------------------


def judge(arguments):
    """Chooses the thresholds on validation, scores the rest, writes weights, card and log into the repository."""
    best, plan = arguments.work / "best.weights.h5", json.loads((arguments.work / "plan.json").read_text())
    model = meso_inception4()
    with_traces(model).load_weights(best)
    WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
    LOG.parent.mkdir(parents=True, exist_ok=True)
    save_weights(model, WEIGHTS)
    shutil.copyfile(arguments.work / "log.csv", LOG)

    faces = load_photographs(arguments)
    sets = held_out_sets(faces, plan["seed"], arguments.data)
    images, labels, _ = sets[VALIDATION]
    thresholds = choose_thresholds(labels, predict(model, images))
    scores = judge_on(sets, model, "these", thresholds["threshold"])
    # What the training changed: its start, at the start's own threshold, on the same images.
    start = find_record(INITIAL)
    network = meso_inception4()
    load_weights(network, start, initial_file(arguments.data))
    scores += judge_on(sets, network, "the start", start.threshold)
    counts = {part: int((faces["part"] == part).sum()) for part in PARTS}
    dropped = int(faces["photographs"]) - len(faces["names"])
    CARD.write_text(json.dumps(card(thresholds, scores, counts, dropped, plan), indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(scores, indent=1))


def held_out_sets(faces, seed, data):
    """`{name: (images, labels, groups or None)}` of all that is judged on."""
    sets = {}
    for name, part in ((VALIDATION, "validation"), (TEST, "test")):
        images, targets, groups = held_out_pairs(faces, part, seed)
        sets[name] = images, labels_of(targets), groups
    for name in ("dfdc", "ffpp"):
        files, labels = crop_files(data / "crops" / name)
        sets[f"crops/{name}"] = np.stack([resize_crop(read_rgb(file), 256) for file in files]), labels, None
    return sets


def judge_on(sets, model, weights, threshold):
    """A row of the card for each set."""
    return [
        {"set": name, "weights": weights, "level": "image"} | measure(labels, predict(model, images), threshold, groups)
        for name, (images, labels, groups) in sets.items()
    ]


def predict(model, images):
    return model.predict(StoredImages(images), verbose=0)[:, 0].astype(np.float64)


def labels_of(targets):
    return targets["fake_probability"][:, 0].astype(int)


def crop_files(folder):
    files, labels = [], []
    for label, name in enumerate(("real", "fake")):
        found = sorted((folder / name).glob("*.png"))
        if not found:
            raise ValueError(f"{(folder / name).resolve()} holds no .png crops; check --data")
        files, labels = files + found, labels + [label] * len(found)
    return files, np.array(labels)


def choose_thresholds(labels, scores):
    """Threshold, inconclusive band and operating points; a score equal to a threshold or above it means fake."""
    fpr, tpr, steps = roc_curve(labels, scores, drop_intermediate=False)
    # Between two neighbouring scores every threshold decides alike; the middle is the least brittle.
    between = np.r_[1.0, (steps[1:-1] + steps[2:]) / 2, 0.0]

    def point(index):
        return {
            "threshold": round(float(between[index]), 6),
            "fpr": round(float(fpr[index]), 4),
            "tpr": round(float(tpr[index]), 4),
        }

    threshold = float(between[np.argmax(tpr - fpr)])
    low = min(float(np.quantile(scores[labels == 1], 0.2)), threshold)
    high = max(point(np.flatnonzero(fpr <= 0.05)[-1])["threshold"], threshold)
    return {
        "threshold": round(threshold, 6),
        "inconclusive_band": [round(low, 6), round(high, 6)],
        "operating_points": {
            "fpr_0.01": point(np.flatnonzero(fpr <= 0.01)[-1]),
            "fpr_0.05": point(np.flatnonzero(fpr <= 0.05)[-1]),
            "eer": point(np.argmin(np.abs(fpr - (1 - tpr)))),
        },
    }


def measure(labels, scores, threshold, groups=None):
    """Metrics of scores against labels (1 = fake), each with a 95 % percentile bootstrap interval.

    Resampled are the groups (a photograph with its fake) where given, else the images within each class. With fewer
    than ten images of a class there is no interval: what cannot vary when resampled would read as certain.
    """
    rng = np.random.default_rng(0)
    values = metrics(labels, scores, threshold)
    draws = collections.defaultdict(list)
    if groups is None:
        members = [np.flatnonzero(labels == label) for label in (0, 1)]
    else:
        members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    for _ in range(BOOTSTRAPS):
        if groups is None:
            rows = np.concatenate([rng.choice(side, len(side)) for side in members])
        else:
            rows = np.concatenate([members[index] for index in rng.integers(0, len(members), len(members))])
        for name, value in metrics(labels[rows], scores[rows], threshold).items():
            draws[name].append(value)
    result = {"n_real": int((labels == 0).sum()), "n_fake": int((labels == 1).sum())}
    few = min(result.values()) < 10
    for name, value in values.items():
        ends = np.percentile(draws[name], [2.5, 97.5])
        result[name] = round(value, 4)
        result[f"{name}_ci95"] = None if few else [round(float(end), 4) for end in ends]
    result["majority_baseline"] = round(max(result["n_real"], result["n_fake"]) / len(labels), 4)
    return result


def metrics(labels, scores, threshold):
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    fake, real = scores[labels == 1] >= threshold, scores[labels == 0] < threshold
    crossing = np.argmin(np.abs(fpr - (1 - tpr)))
    return {
        "auc": float(roc_auc_score(labels, scores)),
        "eer": float((fpr[crossing] + 1 - tpr[crossing]) / 2),
        "balanced_accuracy": float((fake.mean() + real.mean()) / 2),
        "tpr_at_threshold": float(fake.mean()),
        "fpr_at_threshold": float(1 - real.mean()),
        "tpr_at_fpr_0.05": float(tpr[fpr <= 0.05].max()),
    }


def card(thresholds, scores, counts, dropped, plan):
    """The model card of the weights in `WEIGHTS`, as a dict for JSON."""
    data = WEIGHTS.read_bytes()
    test, dfdc = (next(score for score in scores if name in score["set"]) for name in ("test split", "crops/dfdc"))
    return {
        "handle": "tfdfd/meso_inception4",
        "model": "meso_inception4",
        "file": WEIGHTS.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "licence": "research use only, non-commercial (UTKFace terms)",
        "licence_note": "The weights are derived from research-only data; they are changed from the MesoNet authors' "
        "weights, which are under Apache-2.0.",
        "initial_weights": {"handle": INITIAL, "sha256": find_record(INITIAL).sha256, "notice": NOTICE},
        "training_data": "Starts from the MesoNet authors' weights MesoInception_DF (Apache-2.0, Darius Afchar and "
        "co-authors, trained on their Deepfake set of 2018), then UTKFace aligned photographs of adults, self-blended "
        "by tfdfd.data.self_blended: "
        f"{counts['train']} training, {counts['validation']} validation, {counts['test']} test photographs; "
        f"{dropped} without a face found by MTCNN left out",
        "polarity": "fake=1",
        **thresholds,
        "inconclusive_rule": "on validation: from the score below which 20 % of the fakes lie to the score that 5 % of "
        "the real images reach, widened to contain the threshold",
        "protocol": "One real crop and its self-blended fake per photograph, both degraded alike (light, blur, size, "
        f"noise, JPEG 40-100), square crops of {CROP_MARGIN[0]} to {CROP_MARGIN[1]} times the longer side of the MTCNN "
        "box, 256x256. Photographs are split 80/10/10 by a hash of the file name after near-duplicate pictures were "
        "grouped; UTKFace names no identities, so one person in different pictures may be in several parts. Weights: "
        "best epoch by validation AUC. Threshold: best balanced accuracy on validation. Weights and "
        "threshold were chosen before the test split and crops were scored; the inconclusive band ended at "
        "validation's 20 % FPR first, and was widened to its 5 % FPR after test scores and eight video clips had "
        "been seen, which changes no figure here. "
        "Intervals: 95 % percentile bootstrap, 2000 draws, over photographs for the "
        "self-blended sets, over images within each class for the crops, whose images of one video are not independent "
        "(all real DFDC crops come from one video), so that their intervals are too narrow, and none where a class "
        "has fewer than 10 images. Crops are scored as stored, scaled to 256x256.",
        "scores": scores,
        "limits": [
            "A score is a hint for a person who looks further, not forensic proof.",
            f"On crops of DFDC videos its AUC is {dfdc['auc']} {dfdc['auc_ci95']}, where 0.5 is chance; the crops "
            "scored here are too few to say more. Fine-tuned on self-blended photographs, it may be far weaker on "
            "videos made by real face swaps than the figures on the test split suggest.",
            "It looks for blending: faces generated as a whole, lip-syncing without a seam and retouching by hand are "
            "outside what it was trained for.",
            f"At its threshold {test['fpr_at_threshold']:.0%} of the genuine photographs of the test split are called "
            f"fake, and {1 - test['tpr_at_threshold']:.0%} of the fakes are missed, not counting the inconclusive "
            "band.",
            "Small, blurred or strongly compressed faces lose the traces it looks for; filters, beauty retouching and "
            "local light on a genuine face may look like them. Neither was measured apart.",
            "UTKFace is unevenly spread over age, gender and skin colour; scores by group were not measured.",
        ],
        "seed": plan["seed"],
        "command": f"python tools/train_default_model.py train --data ../shared/data --work /tmp/tfdfd-training "
        f"--epochs {plan['epochs']} --seed {plan['seed']}",
        "date": DATE,
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in ("keras", "tensorflow", "numpy", "opencv-python", "mtcnn")},
    }


if __name__ == "__main__":
    main()
