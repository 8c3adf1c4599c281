"""S1, "What AI has broken can be fixed by AI": Meso4, MesoInception4, and an SVM on its features, on the combined set.

Section 4: batches of 32 images of 256 pixels, the squared error, Adam (0.9, 0.999) from 1e-3 divided by 10 every 1,000
iterations down to 1e-6, 10 epochs. The same section describes a second schedule, whose decay steps are computed from
the lowest rate and the number of epochs: planned over 30 epochs, of which 10 are run. Its second model has batches of
64 and a rate divided by 10 every 5 epochs, 10 of 18 epochs. The document's loss is half of the squared error, which
leaves Adam's steps as they are.
"""

from typing import Any

from tfdfd.training.recipe import Recipe

_SOURCE = "S1, section 4, tables 4 to 7 and figures 5 and 6"
_COMMON: dict[str, Any] = {
    "source": _SOURCE,
    "augment": "s1",
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "loss": "mean_squared_error",
    "epochs": 10,
}

RECIPES = [
    Recipe(
        name="s1-meso4",
        expected="63.16 % accuracy, AUC 0.80 on the combined set",
        network="meso4",
        batch_size=32,
        schedule="divided",
        **_COMMON,
    ),
    Recipe(
        name="s1-meso-inception4",
        expected="66.7 % accuracy on the combined set",
        network="meso_inception4",
        batch_size=32,
        schedule="divided",
        **_COMMON,
    ),
    Recipe(
        name="s1-meso-inception4-computed-decay",
        expected="96.25 % test accuracy (the document's first model, of one data set)",
        network="meso_inception4",
        batch_size=32,
        schedule="computed",
        # It was to run for 30 epochs and was stopped after 10: the rate stays at its first value.
        planned_epochs=30,
        **_COMMON,
    ),
    Recipe(
        name="s1-meso-inception4-5-epochs",
        expected="90.79 % test accuracy (the document's second model, before the SVM)",
        network="meso_inception4",
        batch_size=64,
        schedule="divided-5-epochs",
        planned_epochs=18,
        **_COMMON,
    ),
    Recipe(
        name="s1-meso-inception4-svm",
        expected="90.79 % test accuracy (the document's second model, of one data set); 66.33 % on the combined set",
        network="meso_inception4",
        procedure="svm",
        batch_size=64,
        schedule="divided-5-epochs",
        **_COMMON,
    ),
]
