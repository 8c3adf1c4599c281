"""S4, "Celeb-DF deepfake detection": three frozen networks on the first frames of videos, with and without SRM noise.

128 pixels, ImageNet weights, max pooling, Adam at 1e-4, binary cross-entropy, batches of 32 (sections 1.6 and 1.7). The
document does not give the number of epochs; its curves end at about 20. All its networks call every image fake:
accuracy is 86 to 88 %, the share of fakes in the set, and AUC is 0.51 to 0.55.
"""

from tfdfd.training.recipe import Recipe

# AUC without and with SRM, Table 2.
_AUC = {"mobilenet_v2": (0.51, 0.51), "vgg16": (0.54, 0.53), "resnet50v2": (0.53, 0.55)}

RECIPES = [
    Recipe(
        name=f"s4-{network.replace('_', '-')}{'-srm' * srm}",
        source="S4, section 2, table 2",
        expected=f"AUC {auc[srm]} on Celeb-DF v2's test list, where everything is called fake",
        network=f"{'srm_' * srm}{network}",
        size=128,
        weights="imagenet",
        batch_size=32,
        epochs=20,
        optimizer="adam",
        learning_rate=1e-4,
        monitor="val_auc",
    )
    for network, auc in _AUC.items()
    for srm in (False, True)
]
