"""S2: five networks with ImageNet weights (chapter 5), and Reseption V1, V2 and their ensemble (chapter 7).

Chapter 5: each network is partly frozen, and trained with RAdam and with SGD. 30 epochs of batches of 12 from various
pairs of videos, 1e-3, halved after two epochs without improvement (section 5.4, tables 5.1 to 5.5, figure 5.8). The
data are FaceForensics++ c23 with the official split.

Chapter 7: the networks are trained from scratch. RAdam from 1e-3, times 0.94 every second epoch and halved after two
epochs without improvement, batches of 24 from various pairs of videos, a scaled loss, noise on the gradients (section
7.1); 50 epochs, the ensemble 30. The document does not give η of the noise; 0.01 is the lower end of the range in its
source.
"""

from typing import Any

from tfdfd.training.recipe import Recipe

_TRANSFER_NETWORKS = ("xception", "inception_v3", "efficientnet_b5", "resnet152", "resnext101_32x8d")
_RESEPTION: dict[str, Any] = {
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
    *(
        Recipe(
            name=f"s2-{network.replace('_', '-')}-{optimizer}",
            source="S2, section 5.4, tables 5.1 to 5.5, figure 5.8",
            expected="tables 5.3 and 5.4: loss and video accuracy by manipulation on FaceForensics++ c23",
            network=network,
            arguments={"freeze": "thesis"},
            weights="imagenet",
            order="various",
            augment="s2",
            batch_size=12,
            epochs=30,
            optimizer=optimizer,
            learning_rate=1e-3,
            schedule="plateau",
            monitor="val_video_auc",
        )
        for network in _TRANSFER_NETWORKS
        for optimizer in ("radam", "sgdm")
    ),
    Recipe(
        name="s2-reseption-v1",
        source="S2, sections 7.1 and 7.2, tables 7.1 to 7.4, figures 7.1 to 7.4",
        expected="93.04 % video accuracy, 91.81 % balanced, on the test split of FaceForensics++ c23",
        network="reseption_v1",
        epochs=50,
        **_RESEPTION,
    ),
    Recipe(
        name="s2-reseption-v2",
        source="S2, sections 7.1 and 7.2, tables 7.1 to 7.4, figures 7.5 and 7.6",
        expected="91.68 % video accuracy, 90.79 % balanced, on the test split of FaceForensics++ c23",
        network="reseption_v2",
        epochs=50,
        **_RESEPTION,
    ),
    Recipe(
        name="s2-reseption-ensemble",
        source="S2, section 7.3, table 7.5, figures 7.8 and 7.9",
        expected="93.22 % video accuracy, 93.04 % balanced, on the test split of FaceForensics++ c23",
        network="reseption_ensemble",
        procedure="ensemble",
        epochs=30,
        **_RESEPTION,
    ),
]
