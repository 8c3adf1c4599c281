"""S0, "Lighten the face forgery detection network by using MobileNet": MesoInception4 against MobileNetV3 and R1 to R3.

20 epochs (section 3.1, figures 5 to 8), with 10 % of the training data for validation: `tfdfd split --preset s0`. The
document names neither optimizer nor batch size; Adam at 1e-3 and 32 are MesoNet's. The recurrent layer over the frames
of a clip, on a trained frame network, is future work there (section 4.2).
"""

from tfdfd.training.recipe import Recipe

_SOURCE = "S0, sections 2.3 and 3, confusion matrices and ROC curves"
_TEST = "of the 7,104 images of MesoNet's test set"
_EXPECTED = {
    "meso_inception4": f"confusion 2325/520/103/4156 {_TEST}: 91.2 % accuracy",
    "mobilenet_v3": f"confusion 2334/511/858/3401 {_TEST}: 80.7 % accuracy; 6.78 % fewer cycles than MesoInception4",
    "mobilenet_v3_r1": "80 % accuracy, 19.56 % fewer cycles than MesoInception4",
    "mobilenet_v3_r2": "80 % accuracy, 23.75 % fewer cycles than MesoInception4",
    "mobilenet_v3_r3": "79 % accuracy, 29.44 % fewer cycles than MesoInception4",
}

RECIPES = [
    *(
        Recipe(
            name=f"s0-{network.replace('_', '-')}",
            source=_SOURCE,
            expected=expected,
            network=network,
            epochs=20,
            batch_size=32,
            optimizer="adam",
            learning_rate=1e-3,
        )
        for network, expected in _EXPECTED.items()
    ),
    Recipe(
        name="temporal-lstm",
        source="S0, section 4.2",
        expected="not reported: a wish of the document",
        network="meso_inception4",
        procedure="temporal",
        members=("tfdfd/meso_inception4",),
        arguments={"cell": "lstm", "units": 64},
        frames=16,
        batch_size=8,
        epochs=10,
        optimizer="adam",
        learning_rate=1e-3,
    ),
]
