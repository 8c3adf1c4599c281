"""S2: five networks with ImageNet weights (chapter 5), and Reseption V1, V2 and their ensemble (chapter 7).

Where the thesis leaves something open, its author's program decides (github.com/stygio/DeepFake-Detection): the plateau
watches the training loss, RAdam adapts where ρ is above 5, and ten blocks of EfficientNet-B5 are frozen (table 5.2
prints nine). The kept epoch is the one of the highest balanced accuracy of validation videos (tables 7.2, 7.3 and 7.5);
tables 5.3 and 5.4 are of the last one, whose scores are in `last_val_scores.csv`. Validation takes 7 frames of a video,
the test 12 (`tfdfd evaluate --frames 12`).

Chapter 5: 30 epochs of batches of 12 from various pairs of videos, RAdam and SGD with momentum at 1e-3, halved after
two epochs without improvement (section 5.3, tables 5.2 to 5.4, figure 5.8).

Chapter 7: from scratch, RAdam from 1e-3, times 0.94 every second epoch and halved as above, batches of 24, a scaled
loss; 50 epochs, the ensemble 30. Noise on the gradients "ultimately proved too difficult to use stably" (section
7.1.2): it is off, and `gradient_noise=0.01` turns it on. Figure 7.2 compares RAdam with SGD at 1e-2, with and without
the scaled loss, over 14 epochs.

The data are FaceForensics++ c23 with DeepFakeDetection and the official split.
"""

from typing import Any

from tfdfd.training.recipe import Recipe

TRANSFER_NETWORKS = ("xception", "inception_v3", "efficientnet_b5", "resnet152", "resnext101_32x8d")
# The last of ten blocks; "thesis" ends with the ninth.
_FROZEN = {"efficientnet_b5": "block3b_add"}
_COMMON: dict[str, Any] = {
    "order": "various",
    "augment": "s2",
    "monitor": "val_video_balanced_accuracy",
    "val_frames": 7,
    "radam_threshold": 5.0,
}
_RESEPTION: dict[str, Any] = _COMMON | {
    "batch_size": 24,
    "optimizer": "radam",
    "learning_rate": 1e-3,
    "schedule": "decay-plateau-training",
    "loss_scale": True,
    "gradient_flow": True,
}
_SGDM: dict[str, Any] = _RESEPTION | {"optimizer": "sgdm", "learning_rate": 1e-2, "schedule": "decay", "epochs": 14}

RECIPES = [
    *(
        Recipe(
            name=f"s2-{network.replace('_', '-')}-{optimizer}",
            source="S2, section 5.3, tables 5.1 to 5.5, figure 5.8",
            expected="tables 5.3 and 5.4: loss and video accuracy by manipulation on FaceForensics++ c23",
            network=network,
            arguments={"freeze": _FROZEN.get(network, "thesis")},
            weights="imagenet",
            batch_size=12,
            epochs=30,
            optimizer=optimizer,
            learning_rate=1e-3,
            schedule="plateau-training",
            **_COMMON,
        )
        for network in TRANSFER_NETWORKS
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
        source="S2, section 7.1.7, table 7.5, figures 7.8 and 7.9",
        expected="93.22 % video accuracy, 93.04 % balanced, on the test split of FaceForensics++ c23; best epoch 19",
        network="reseption_ensemble",
        procedure="ensemble",
        epochs=30,
        **_RESEPTION,
    ),
    *(
        Recipe(
            name=f"s2-{network.replace('_', '-')}-sgdm{'' if scaled else '-unscaled'}",
            source="S2, section 7.1.3, figure 7.2",
            expected="a training loss 0.15 to 0.2 above RAdam's over 14 epochs; a cleaner curve with the scaled loss",
            network=network,
            **_SGDM | {"loss_scale": scaled},
        )
        for network in ("reseption_v1", "reseption_v2")
        for scaled in (True, False)
    ),
]
