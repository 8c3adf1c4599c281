"""The image tower of CLIP ViT-B/16, cut after its first blocks, as a detector.

A vision transformer (Dosovitskiy et al., arXiv:2010.11929) as CLIP trained it on images and their captions (Radford et
al., arXiv:2103.00020): RGB faces, float32 in [0, 1], `(batch, 224, 224, 3)` -> P(fake) `(batch, 1)`. By default only
the biases, the norms and the head are trained, as in GenD (Yermakov et al., arXiv:2508.06248), which trains the norms
and the head.

The image becomes 14 x 14 patches of 16 x 16 pixels. Each is a token of 768 values; a class token comes before them.
Every block adds to each token what attention gathers from all tokens, and then what two dense layers make of the token.
"""

from __future__ import annotations

import keras
from keras import layers, ops

from tfdfd.models.blocks import fake_probability, standardized_for_clip
from tfdfd.models.blocks import freeze as freeze_layers

PATCH, WIDTH, HEADS, BLOCKS = 16, 768, 12, 12
_EPSILON = 1e-5


def clip_vit_b16(input_shape=(224, 224, 3), blocks=9, freeze="kernels", name="clip_vit_b16"):
    """CLIP ViT-B/16 with one output.

    The features are three sets of 768 values: the class token, and the mean and the standard deviation of the patch
    tokens, all after a norm over the last kept block.

    Args:
        input_shape: `(height, width, 3)`, both multiples of 16 and at least 32. CLIP's positions are for 224 x 224;
            `tfdfd.weights.clip` resizes them to other grids.
        blocks: how many of CLIP's 12 blocks are kept, 1 to 12.
        freeze: `"kernels"` (matrices, patch embedding, class token and positions; biases, norms and the head are
            trained), `"none"`, `"all"` (all but the head, a linear probe), or the last frozen layer's name.
        name: name of the model.

    Raises:
        ValueError: a side is no multiple of 16, `blocks` is not in 1 to 12, or `freeze` names nothing.
    """
    height, width = input_shape[:2]
    if height % PATCH or width % PATCH:
        raise ValueError(
            f"{name} cuts images into patches of {PATCH} x {PATCH} pixels, so both sides must be multiples of {PATCH}; "
            f"received input_shape={tuple(input_shape)}."
        )
    if isinstance(blocks, bool) or not isinstance(blocks, int) or not 1 <= blocks <= BLOCKS:
        raise ValueError(f"blocks must be an integer from 1 to {BLOCKS}; received {blocks!r}.")
    train_kernel = freeze != "kernels"
    grid = height // PATCH, width // PATCH
    image = keras.Input(input_shape, name="image")
    x = standardized_for_clip(image)
    x = layers.Conv2D(WIDTH, PATCH, PATCH, use_bias=False, name="patch_embedding")(x)  # (batch, 14, 14, 768)
    x = layers.Reshape((grid[0] * grid[1], WIDTH), name="patches")(x)  # (batch, 196, 768)
    x = Tokens(name="tokens")(x)  # (batch, 197, 768)
    x = _norm("ln_pre")(x)
    for i in range(1, blocks + 1):
        x = _block(x, train_kernel, f"block{i}_")
    x = _norm("norm")(x)
    x = TokenStatistics(name="features")(x)  # (batch, 2304)
    model = keras.Model(image, fake_probability(x), name=name)
    return freeze_layers(model, freeze, kernels=("patch_embedding", "tokens"))


def _block(x, train_kernel, name):
    """A pre-norm transformer block."""
    y = _norm(f"{name}ln1")(x)
    y = BiasTunedDense(3 * WIDTH, train_kernel, name=f"{name}qkv")(y)
    y = SelfAttention(HEADS, name=f"{name}attention")(y)
    y = BiasTunedDense(WIDTH, train_kernel, name=f"{name}projection")(y)
    x = layers.Add(name=f"{name}add1")([x, y])
    y = _norm(f"{name}ln2")(x)
    y = BiasTunedDense(4 * WIDTH, train_kernel, name=f"{name}fc1")(y)
    y = layers.Activation(quick_gelu, name=f"{name}gelu")(y)
    y = BiasTunedDense(WIDTH, train_kernel, name=f"{name}fc2")(y)
    return layers.Add(name=f"{name}add2")([x, y])


def _norm(name):
    return layers.LayerNormalization(epsilon=_EPSILON, name=name)


@keras.saving.register_keras_serializable(package="tfdfd")
def quick_gelu(x):
    """CLIP's approximation of GELU, `x * sigmoid(1.702 x)`; keeps shape and type."""
    return x * ops.sigmoid(1.702 * x)


@keras.saving.register_keras_serializable(package="tfdfd")
class BiasTunedDense(layers.Dense):
    """A dense layer whose kernel can stay frozen while its bias is trained.

    Keras saves what is frozen by layer; this layer saves it for its kernel.

    Args:
        units: number of outputs.
        train_kernel: False freezes the kernel, even where `trainable` is set to True later.
        **kwargs: as of `keras.layers.Dense`.
    """

    def __init__(self, units, train_kernel=True, **kwargs):
        self.train_kernel = train_kernel
        super().__init__(units, **kwargs)

    def build(self, input_shape):
        super().build(input_shape)
        self.kernel.trainable = self.trainable and self.train_kernel

    @property
    def trainable(self):
        """Whether the layer is trained: with its kernel only if `train_kernel`."""
        return layers.Dense.trainable.fget(self)

    @trainable.setter
    def trainable(self, value):
        layers.Dense.trainable.fset(self, value)
        if self.built:
            self.kernel.trainable = self.trainable and self.train_kernel

    def get_config(self):
        return super().get_config() | {"train_kernel": self.train_kernel}


@keras.saving.register_keras_serializable(package="tfdfd")
class Tokens(layers.Layer):
    """Patches `(batch, n, width)` -> tokens `(batch, n + 1, width)`: the class token first, positions added to all.

    Weights: `class_token` `(width,)` and `positions` `(n + 1, width)`, both learned.
    """

    def build(self, input_shape):
        count, width = input_shape[1:]
        initializer = keras.initializers.RandomNormal(stddev=width**-0.5)
        self.class_token = self.add_weight(shape=(width,), initializer=initializer, name="class_token")
        self.positions = self.add_weight(shape=(count + 1, width), initializer=initializer, name="positions")
        self.built = True

    def call(self, x):
        # The class token as a part of the constant, so that no operation depends on the size of the batch.
        first = ops.pad(self.class_token[None], ((0, x.shape[1]), (0, 0)))
        return ops.pad(x, ((0, 0), (1, 0), (0, 0))) + (first + self.positions)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[1] + 1, input_shape[2])

    def macs(self, input_shape):
        """None: it only adds."""
        return 0


@keras.saving.register_keras_serializable(package="tfdfd")
class SelfAttention(layers.Layer):
    """Scaled dot-product attention of tokens to each other, without weights.

    Queries, keys and values side by side, `(batch, n, 3 width)` -> `(batch, n, width)`; each head has its share of the
    width.

    Args:
        heads: number of heads; divides the width.
        **kwargs: as of `keras.layers.Layer`.
    """

    def __init__(self, heads, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads

    def call(self, x):
        count, width = x.shape[1], x.shape[2] // 3
        depth = width // self.heads
        query, key, value = (
            ops.transpose(ops.reshape(part, (-1, count, self.heads, depth)), (0, 2, 1, 3))
            for part in ops.split(x, 3, axis=-1)
        )  # (batch, heads, n, depth)
        weights = ops.softmax(ops.matmul(query * depth**-0.5, ops.transpose(key, (0, 1, 3, 2))))
        gathered = ops.matmul(weights, value)
        return ops.reshape(ops.transpose(gathered, (0, 2, 1, 3)), (-1, count, width))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], input_shape[-1] // 3)

    def macs(self, input_shape):
        """Of one image: queries by keys, and weights by values, over all heads; for `tfdfd.models.counting`."""
        count, width = input_shape[1], input_shape[2] // 3
        return 2 * count * count * width

    def get_config(self):
        return super().get_config() | {"heads": self.heads}


@keras.saving.register_keras_serializable(package="tfdfd")
class TokenStatistics(layers.Layer):
    """Tokens `(batch, n + 1, width)` -> class token, mean and standard deviation of the rest, `(batch, 3 width)`.

    Mean and deviation are computed in float32 under every policy; the deviation is `sqrt(variance + 1e-6)`, whose
    slope is finite where all tokens are equal.
    """

    def call(self, x):
        patches = ops.cast(x[:, 1:], "float32")
        mean = ops.mean(patches, axis=1)
        deviation = ops.sqrt(ops.mean(ops.square(patches - mean[:, None]), axis=1) + 1e-6)
        return ops.concatenate([x[:, 0], ops.cast(mean, x.dtype), ops.cast(deviation, x.dtype)], axis=-1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 3 * input_shape[-1])
