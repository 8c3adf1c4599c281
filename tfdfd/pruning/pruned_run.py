"""From a trained network and a face set to a pruned one in a run folder, with a report of what it gained and lost."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence

import keras
import numpy as np

from tfdfd.data.crops import faces_of
from tfdfd.files import write_atomically
from tfdfd.models import load
from tfdfd.pruning.child import answers, check_libraries, give, run_twin
from tfdfd.pruning.judged import judged
from tfdfd.pruning.options import PruneOptions
from tfdfd.pruning.proof import differences
from tfdfd.pruning.source import is_run, recipe_for, refuse_known
from tfdfd.pruning.zeros import lacks_pattern, prunable, zeros
from tfdfd.runtime.opening import proof_crops
from tfdfd.training import TrainingError
from tfdfd.training.calibrate import finish
from tfdfd.training.crop_set import TRAIN, VAL, CropSet
from tfdfd.training.engine import Report
from tfdfd.training.run_folder import RunFolder
from tfdfd.training.training_fingerprints import write_fingerprints
from tfdfd.weights.loading import load_safetensors, read_safetensors
from tfdfd.weights.store import digest, locate
from tfdfd.weights.terms import BEGUN_WITH, inherit

REPORT = "pruning.json"
WORK = "pruning"
SCHEMA = 1
# By how much the share of zeros may miss what was asked for: kernels of a few values cannot have any share.
SHORT_OF = 0.01
_REAL_CROPS = 16


def prune(
    source: str | os.PathLike,
    where: str | os.PathLike,
    folder: str | os.PathLike,
    report: Report,
    options: PruneOptions | None = None,
    settings: Sequence[str] = (),
    allow_leaks: bool = False,
) -> dict:
    """Prunes a network, or goes on where that was stopped; with a finished folder, tells its report again.

    The folder becomes a run as those of `tfdfd.training.procedures.train`, which everything takes that takes a run,
    with `pruning.json` besides.

    Args:
        source: handle, weights file or folder of a finished run.
        where: a face set with splits; fine-tuned on `train`, judged on `val`.
        folder: of the pruned run; made where it is not there.
        report: who is told how it goes.
        options: how much is pruned, and when; None for the defaults.
        settings: `KEY=VALUE` of the fine-tuning, see `tfdfd.pruning.source.SETTINGS`.
        allow_leaks: whether a set whose splits share sources, people or files, or a validation split that the network
            was trained on, is taken all the same.

    Returns:
        The report, as `pruning.json` has it: `source`, `options`, `proof` (how far the twin is from the network,
        before and after), `zeros` of each prunable kernel and in all, `sizes` of both files as they are and compressed,
        `auc` of both on validation with the interval of their difference, `protocol`, and `warnings`.

    Raises:
        ValueError: a source, set, folder or setting of no use, or a twin that is not the network.
        TrainingError: it cannot go on, or fewer values than asked for are zero; the last saved state stays.
        OSError: the folder cannot be written.
    """
    check_libraries()
    options = options or PruneOptions()
    record, weights = locate(source)
    recipe = recipe_for(source, record, settings)
    faces = faces_of(where)
    crops = CropSet(faces, recipe, recipe.size, allow_leaks)
    parts = {split: faces_of(faces, split).rows for split in (TRAIN, VAL)}
    warning = refuse_known(source, faces, parts[VAL], allow_leaks)
    told = {"source": {"handle": record.handle, "sha256": digest(weights)}, "options": options.settings()}
    data = crops.digests()
    with RunFolder(folder, recipe, data, keras.backend.backend(), {"pruning": told}, "tfdfd prune") as run:
        if run.result is None:
            write_fingerprints(run.path, parts, faces.root, initial_models=[source] if is_run(source) else [])
            try:
                run.built_on = inherit(BEGUN_WITH, record)
                _make(record, weights, os.path.abspath(where), crops, recipe, options, run, report)
            except ValueError:
                shutil.rmtree(run.path / WORK, ignore_errors=True)
                run.abandon()
                raise
        else:
            report.note(f"{folder} was finished before")
        if not (run.path / REPORT).exists():
            found = {"schema": SCHEMA} | told | judged(load(record, weights), crops, run)
            found |= {"warnings": [*run.result["warnings"], *filter(None, [warning])]}
            write_atomically(run.path / REPORT, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        shutil.rmtree(run.path / WORK, ignore_errors=True)
        return json.loads((run.path / REPORT).read_text("utf-8"))


def _make(record, weights, where, crops, recipe, options, run, report):
    """The pruned network as the finished run."""
    work = run.path / WORK
    model = load(record, weights)
    proof = _proof_crops(crops)
    give(model, proof, work)
    job = {"recipe": recipe.settings(), "options": options.settings(), "data": where}
    job |= {"size": crops.size, "digests": crops.digests()}
    write_atomically(work / "job.json", json.dumps(job) + "\n")
    proved, done = run_twin([work], report)
    load_safetensors(model, work / "pruned.safetensors")
    after = differences(read_safetensors(work / "pruned_proof.safetensors"), answers(model, proof))
    described = json.loads((work / "graph.json").read_text("utf-8"))
    counted = _counted(described, read_safetensors(work / "pruned.safetensors"), options)
    result = done["done"] | {"zeros": counted["share"]}
    result |= {"proof": {"before": proved["apart"], "after": after}}
    finish(model, recipe, crops, run, result, card=_card(record, options))


def _proof_crops(crops):
    """Real crops of the validation split, and noise of rising strength."""
    real = []
    for image, _ in crops.images(VAL)[0]:
        real.extend(np.asarray(image))
        if len(real) >= _REAL_CROPS:
            break
    return np.concatenate([np.stack(real[:_REAL_CROPS]), proof_crops(crops.size).astype(np.float32) / 255])


def _counted(described, weights, options):
    kernels = prunable(described)
    counted = zeros(weights, kernels)
    if options.two_of_four:
        without = lacks_pattern(weights, kernels)
        if without:
            raise TrainingError(f"{', '.join(without)} have no two zeros in each four values.")
    elif counted["share"] < options.sparsity - SHORT_OF:
        raise TrainingError(
            f"{counted['share']:.4f} of the kernels' values are zero, less than the {options.sparsity} asked for: "
            f"the kernels are too small for that share."
        )
    return counted


def _card(record, options):
    """What the model card says otherwise than that of a training."""
    how = "two of four" if options.two_of_four else f"{options.sparsity:g} ({options.schedule})"
    return {
        "initial_weights": {"handle": record.handle, "sha256": record.sha256},
        "pruning": {"zeros": how} | options.settings(),
    }
