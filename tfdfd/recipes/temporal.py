"""A recurrent layer over the frames of a clip, on a trained frame network (future work in S0, section 4.2)."""

from tfdfd.training.recipe import Recipe

RECIPES = [
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
    )
]
