"""The training of a recurrent network over clips, on a frame network that is trained already.

Two fits of `epochs` epochs each (`tfdfd.models.temporal.training_stages`): the recurrent layer and the head on the
frozen frame network at the recipe's rate, then everything at a hundredth of it. Each has a folder of its own in the
run's, and goes on there after a stop. The better of their best epochs, on validation, is the result.
"""

from __future__ import annotations

import shutil
from dataclasses import replace

from tfdfd.models import CLIPS
from tfdfd.models.temporal import temporal, training_stages
from tfdfd.training.clip_set import ClipSet
from tfdfd.training.crop_set import CropSet
from tfdfd.training.curves import draw_curves
from tfdfd.training.engine import Report, fit
from tfdfd.training.finishing import finish
from tfdfd.training.members import members_of
from tfdfd.training.recipe import Recipe
from tfdfd.training.run_folder import RunFolder
from tfdfd.training.tensorboard import write_scalars
from tfdfd.training.validation import is_better


class _Stage:
    """The folder of one of the two fits, as `fit` takes it."""

    write_log = RunFolder.write_log

    def __init__(self, run, name):
        self.path = run.path / name
        self.path.mkdir(exist_ok=True)


def run(recipe: Recipe, crops: CropSet, run: RunFolder, report: Report) -> dict:
    """Trains a recurrent layer over clips of `recipe.frames` crops on the recipe's one member.

    Returns:
        The result, in which `best_epoch` counts the epochs of both stages and `clips` says how many videos have one.
        The card is of a model `temporal`: `tfdfd.models.temporal.load_temporal` takes it, and `tfdfd detect`, which
        scores single faces, refuses it.

    Raises:
        ValueError: a missing or another member, or a set without clips.
        TrainingError: it cannot go on; the last saved state stays.
    """
    (member,) = members_of(recipe, crops.size, (recipe.network,))
    clips = ClipSet(crops, recipe)
    for name, counts in clips.counts.items():
        report.note(f"{name}: " + ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in counts.items()))
    model = temporal(member.network, recipe.frames, **recipe.arguments)
    history, best, stages, first_rate = [], None, [], None
    for name, rate in training_stages(model):
        first_rate = first_rate or rate
        report.note(f"stage: {name}")
        stages.append(_Stage(run, name))
        at_rate = replace(recipe, learning_rate=recipe.learning_rate * rate / first_rate)
        place = fit(model, at_rate, clips, stages[-1], report)
        row = place.history[place.best_epoch]
        if best is None or is_better(row, history[best], recipe.monitor):
            best, weights = len(history) + place.best_epoch, model.get_weights()
        history += [row | {"epoch": len(history) + row["epoch"]} for row in place.history]
    model.set_weights(weights)
    run.write_log(history)
    write_scalars(run.path / "tensorboard", history)
    draw_curves(run.path / "curves.png", history, recipe.name)
    of_network = {key: value for key, value in member.arguments.items() if key != "freeze"}
    arguments = {"frame_network": member.name, "frame_arguments": of_network, "frames": recipe.frames}
    card = {
        "model": CLIPS,
        "handle": f"tfdfd/{CLIPS}.{recipe.name}",
        "input_shape": [crops.size, crops.size, 3],
        "protocol": f"validation split of {crops.digests()['folder']}: a clip of {recipe.frames} crops a video; epoch, "
        "calibration and thresholds chosen here",
        "limits": [
            f"Scores clips of {recipe.frames} equally spaced crops of one face, not single faces: 'tfdfd detect' does "
            "not take it.",
            "Not forensic proof.",
            "The figures are of the split that epoch and threshold were chosen on.",
        ],
    }
    members = {member.name: member.told}
    told = {"epochs": len(history), "best_epoch": best + 1, "clips": clips.counts, "members": members}
    result = finish(model, recipe, clips, run, told, arguments | recipe.arguments, card)
    for stage in stages:
        shutil.rmtree(stage.path)
    return result
