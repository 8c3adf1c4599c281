"""S2, chapter 7: Reseption V1 and V2 from nothing, then the ensemble of both.

RAdam from 1e-3, times 0.94 every second epoch and halved when two bring nothing, batches of 24 from various pairs of
videos, a scaled loss, noise on the gradients (section 7.1); 50 epochs, the ensemble 30. η of the noise is not told;
0.01 is the lower end of the range that its source names.
"""

from tfdfd.training.recipe import Recipe

_COMMON = {
    "order": "various",
    "augment": "s2",
    "batch_size": 24,
    "optimizer": "radam",
    "learning_rate": 1e-3,
    "schedule": "decay-plateau",
    "loss_scale": True,
    "gradient_noise": 0.01,
    "gradient_flow": True,
}

RECIPES = [
    Recipe(
        name="s2-reseption-v1",
        source="S2, sections 7.1 and 7.2, tables 7.1 to 7.4, figures 7.1 to 7.4",
        expected="93.04 % video accuracy, 91.81 % balanced, on the test split of FaceForensics++ c23",
        network="reseption_v1",
        epochs=50,
        **_COMMON,
    ),
    Recipe(
        name="s2-reseption-v2",
        source="S2, sections 7.1 and 7.2, tables 7.1 to 7.4, figures 7.5 and 7.6",
        expected="91.68 % video accuracy, 90.79 % balanced, on the test split of FaceForensics++ c23",
        network="reseption_v2",
        epochs=50,
        **_COMMON,
    ),
    Recipe(
        name="s2-reseption-ensemble",
        source="S2, section 7.3, table 7.5, figures 7.8 and 7.9",
        expected="93.22 % video accuracy, 93.04 % balanced, on the test split of FaceForensics++ c23",
        network="reseption_ensemble",
        procedure="ensemble",
        epochs=30,
        **_COMMON,
    ),
]
