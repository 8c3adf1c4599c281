"""Detector from the image encoder of CLIP ViT-B/16, cut after its first blocks.

A vision transformer (Dosovitskiy et al., arXiv:2010.11929) as CLIP trained it on images and their captions (Radford et
al., arXiv:2103.00020): RGB faces, float32 in [0, 1], `(batch, 224, 224, 3)` -> P(fake) `(batch, 1)`. By default only
the biases, the norms and the head are trained; GenD (Yermakov et al., arXiv:2508.06248) trains the norms and the head.

The image becomes 14 x 14 patches of 16 x 16 pixels. Each becomes a token of 768 values, and a class token precedes
them. Every block adds the output of self-attention to the tokens, then the output of two dense layers.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from tfdfd.models.blocks import fake_probability, standardized_for_clip
from tfdfd.models.blocks import freeze as freeze_layers

Shape = tuple[int | None, ...]
PATCH, WIDTH, HEADS, BLOCKS = 16, 768, 12, 12
_EPSILON = 1e-5


def clip_vit_b16(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    blocks: int = 9,
    freeze: str = "kernels",
    name: str = "clip_vit_b16",
) -> keras.Model:
    """CLIP ViT-B/16 with one output.

    The features are 3 x 768 values: the class token, and the mean and the standard deviation of the patch tokens, after
    a norm of the last kept block.

    Args:
        input_shape: `(height, width, 3)`, both multiples of 16 and at least 32. CLIP's positions are for 224 x 224;
            `tfdfd.weights.clip` resizes them to other grids.
        blocks: number of CLIP's 12 blocks that are kept, 1 to 12.
        freeze: `"kernels"` (matrices, patch embedding, class token and positions; biases, norms and the head are
            trained), `"none"`, `"all"` (all but the head, a linear probe), or the name of the last frozen layer.
        name: name of the model.

    Raises:
        ValueError: a side is not a multiple of 16, `blocks` is not in 1 to 12, or `freeze` is not one of these.
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


def _block(x: keras.KerasTensor, train_kernel: bool, name: str) -> keras.KerasTensor:
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


def _norm(name: str) -> layers.Layer:
    return layers.LayerNormalization(epsilon=_EPSILON, name=name)


@keras.saving.register_keras_serializable(package="tfdfd")
def quick_gelu(x: keras.KerasTensor) -> keras.KerasTensor:
    """CLIP's approximation of GELU, `x * sigmoid(1.702 x)`, with the shape and dtype of `x`."""
    return x * ops.sigmoid(1.702 * x)


@keras.saving.register_keras_serializable(package="tfdfd")
class BiasTunedDense(layers.Dense):
    """Dense layer whose kernel can stay frozen while its bias trains.

    Keras saves `trainable` per layer; this layer saves it for its kernel, too.

    Args:
        units: number of outputs.
        train_kernel: False freezes the kernel, even if `trainable` is set to True later.
        **kwargs: as for `keras.layers.Dense`.
    """

    def __init__(self, units: int, train_kernel: bool = True, **kwargs: Any) -> None:
        self.train_kernel = train_kernel
        super().__init__(units, **kwargs)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.kernel.trainable = self.trainable and self.train_kernel

    @property
    def trainable(self) -> bool:
        """Whether the layer trains; its kernel does only if `train_kernel`."""
        return layers.Dense.trainable.fget(self)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        layers.Dense.trainable.fset(self, value)
        if self.built:
            self.kernel.trainable = self.trainable and self.train_kernel

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"train_kernel": self.train_kernel}


@keras.saving.register_keras_serializable(package="tfdfd")
class Tokens(layers.Layer):
    """Patches `(batch, n, width)` -> tokens `(batch, n + 1, width)`: prepends the class token and adds positions.

    Weights: `class_token` `(width,)` and `positions` `(n + 1, width)`, both learned.
    """

    def build(self, input_shape: tuple[int, ...]) -> None:
        count, width = input_shape[1:]
        initializer = keras.initializers.RandomNormal(stddev=width**-0.5)
        self.class_token = self.add_weight(shape=(width,), initializer=initializer, name="class_token")
        self.positions = self.add_weight(shape=(count + 1, width), initializer=initializer, name="positions")
        self.built = True

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        # The class token is part of the added constant, so no operation depends on the batch size.
        first = ops.pad(self.class_token[None], ((0, x.shape[1]), (0, 0)))
        return ops.pad(x, ((0, 0), (1, 0), (0, 0))) + (first + self.positions)

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> Shape:
        return (input_shape[0], input_shape[1] + 1, input_shape[2])

    def macs(self, input_shape: tuple[int, ...]) -> int:
        """0: the layer only adds."""
        return 0


@keras.saving.register_keras_serializable(package="tfdfd")
class SelfAttention(layers.Layer):
    """Multi-head scaled dot-product self-attention without weights.

    Concatenated queries, keys and values, `(batch, n, 3 width)` -> `(batch, n, width)`. Each head takes `width / heads`
    values.

    Args:
        heads: number of heads; must divide the width.
        **kwargs: as for `keras.layers.Layer`.
    """

    def __init__(self, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        count, width = x.shape[1], x.shape[2] // 3
        depth = width // self.heads
        query, key, value = (
            ops.transpose(ops.reshape(part, (-1, count, self.heads, depth)), (0, 2, 1, 3))
            for part in ops.split(x, 3, axis=-1)
        )  # (batch, heads, n, depth)
        weights = ops.softmax(ops.matmul(query * depth**-0.5, ops.transpose(key, (0, 1, 3, 2))))
        gathered = ops.matmul(weights, value)
        return ops.reshape(ops.transpose(gathered, (0, 2, 1, 3)), (-1, count, width))

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> Shape:
        return (*input_shape[:-1], input_shape[-1] // 3)

    def macs(self, input_shape: tuple[int, ...]) -> int:
        """Multiply-accumulates of one image: queries by keys and weights by values, over all heads."""
        count, width = input_shape[1], input_shape[2] // 3
        return 2 * count * count * width

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"heads": self.heads}


@keras.saving.register_keras_serializable(package="tfdfd")
class TokenStatistics(layers.Layer):
    """Tokens `(batch, n + 1, width)` -> class token, mean and standard deviation of the others, `(batch, 3 width)`.

    Mean and deviation are computed in float32 under every policy. The deviation is `sqrt(variance + 1e-6)`, whose
    gradient is finite if all tokens are equal.
    """

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        patches = ops.cast(x[:, 1:], "float32")
        mean = ops.mean(patches, axis=1)
        deviation = ops.sqrt(ops.mean(ops.square(patches - mean[:, None]), axis=1) + 1e-6)
        return ops.concatenate([x[:, 0], ops.cast(mean, x.dtype), ops.cast(deviation, x.dtype)], axis=-1)

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> Shape:
        return (input_shape[0], 3 * input_shape[-1])
