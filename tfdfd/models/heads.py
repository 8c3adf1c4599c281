"""The one output every classification network ends in."""

from keras import layers


def fake_probability(features, dropout=0.0, **initializers):
    """`(batch, n)` features -> P(fake), `(batch, 1)` in [0, 1], 1 = fake.

    The output stays float32 under mixed precision: a half-precision sigmoid loses the small probabilities
    on which operating points are set.

    Args:
        features: `(batch, n)`.
        dropout: share of features dropped in training, in [0, 1).
        **initializers: `kernel_initializer`, `bias_initializer`.
    """
    if dropout:
        features = layers.Dropout(dropout, name="head_dropout")(features)
    return layers.Dense(1, activation="sigmoid", dtype="float32", name="fake_probability", **initializers)(features)
