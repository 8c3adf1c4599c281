"""Networks trained on real faces and self-blended fakes of them, which show the artifacts of no forgery method.

The method is Shiohara and Yamasaki's (CVPR 2022, arXiv:2204.08376): EfficientNet-B4 trained this way on
FaceForensics++'s real faces reaches 0.93 video AUC on Celeb-DF v2 and 0.72 on DFDC. Optimizer, schedule and sizes are
ours, for few faces and few cores; each real crop and its fake are in one batch.
"""

from typing import Any

from tfdfd.models import MODELS
from tfdfd.recipes.s2_thesis import TRANSFER_NETWORKS
from tfdfd.recipes.s4_noise import AUC
from tfdfd.training.recipe import BLENDED, Recipe

_NOISE = tuple(AUC)
_ENSEMBLE = "reseption_ensemble"
_CLIP = "clip_vit_b16"
# Networks without a training of their own: their members are trained one by one.
MEMBERS_ONLY = ("best_ensemble",)


def _arguments(network: str) -> dict[str, Any]:
    """Returns the builder's arguments. ImageNet features do not detect blending, so all layers are trained."""
    trained = (*TRANSFER_NETWORKS, *_NOISE, *(f"srm_{name}" for name in _NOISE), "mobilenet_v1")
    return ({"freeze": "none"} if network in trained else {}) | ({"alpha": 0.5} if network == "mobilenet_v1" else {})


def _weights(network: str) -> str | None:
    """Returns the initial weights. CLIP's need `weights=clip:PATH`; without it, the error names the file."""
    return "clip" if network == _CLIP else "imagenet" if MODELS[network].imagenet else None


RECIPES = [
    Recipe(
        name=f"sbi-{network.replace('_', '-')}",
        source="Shiohara and Yamasaki, CVPR 2022, arXiv:2204.08376",
        expected="see the model card",
        network=network,
        arguments=_arguments(network),
        size=160 if network == "mobilenet_v1" else None,
        weights=_weights(network),
        data=BLENDED,
        augment=None,
        batch_size=32,
        procedure="ensemble" if network == _ENSEMBLE else "fit",
        # Only the dense layers of an ensemble are trained.
        epochs=5 if network == _ENSEMBLE else 20,
        optimizer="adam",
        learning_rate=1e-3 if _weights(network) is None else 3e-4,
        schedule="cosine",
        ema=0.99,
        monitor="val_auc",
    )
    for network in MODELS
    if network not in MEMBERS_ONLY
]
