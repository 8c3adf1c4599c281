"""S4, "Celeb-DF deepfake detection": three frozen networks on the first frames of videos, with and without SRM noise.

128 pixels, ImageNet weights, max pooling, Adam at 1e-4, binary cross-entropy, batches of 32 (sections 1.6 and 1.7). The
document does not give the number of epochs; its curves end at about 20. All its networks call every image fake:
accuracy is 86 to 88 %, the share of fakes in the set, and AUC is 0.51 to 0.55.
"""

from typing import Any

from tfdfd.training.recipe import Recipe

# AUC without and with SRM, Table 2.
AUC = {"mobilenet_v2": (0.51, 0.51), "vgg16": (0.54, 0.53), "resnet50v2": (0.53, 0.55)}
_COMMON: dict[str, Any] = {
    "size": 128,
    "weights": "imagenet",
    "batch_size": 32,
    "epochs": 20,
    "optimizer": "adam",
    "learning_rate": 1e-4,
    "monitor": "val_auc",
}

RECIPES = [
    Recipe(
        name=f"s4-{network.replace('_', '-')}{'-srm' * srm}",
        source="S4, section 2, table 2",
        expected=f"AUC {auc[srm]} on Celeb-DF v2's test list, where everything is called fake",
        network=f"{'srm_' * srm}{network}",
        **_COMMON,
    )
    for network, auc in AUC.items()
    for srm in (False, True)
] + [
    # What the document's reference had and it had not: ten frames of a video ('tfdfd extract --frames 10') and flips.
    Recipe(
        name=f"s4-vgg16{'-srm' * srm}-flips",
        source="S4, table 1 and section 2.2",
        expected=f"AUC {0.732 if srm else 0.564} on Celeb-DF in the reference, whose VGG16 was trained from end to end",
        network=f"{'srm_' * srm}vgg16",
        augment="flip",
        **_COMMON,
    )
    for srm in (False, True)
]
