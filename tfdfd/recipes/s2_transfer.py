"""S2, chapter 5: five networks with ImageNet weights, partly frozen, each with RAdam and with SGD.

30 epochs of batches of 12 from various pairs of videos, 1e-3, halved when two epochs bring nothing (section 5.4, tables
5.1 to 5.5, figure 5.8). Made for FaceForensics++ c23 with the official split.
"""

from tfdfd.training.recipe import Recipe

_EXPECTED = "tables 5.3 and 5.4: loss and video accuracy by manipulation on FaceForensics++ c23"
_NETWORKS = ("xception", "inception_v3", "efficientnet_b5", "resnet152", "resnext101_32x8d")

RECIPES = [
    Recipe(
        name=f"s2-{network.replace('_', '-')}-{optimizer}",
        source="S2, section 5.4, tables 5.1 to 5.5, figure 5.8",
        expected=_EXPECTED,
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
    for network in _NETWORKS
    for optimizer in ("radam", "sgdm")
]
