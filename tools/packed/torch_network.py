"""A Keras network computed by PyTorch: what makes a packed training fast on CPUs.

On two cores, PyTorch trains EfficientNet-Lite0 three times as fast as TensorFlow, and XLA's gradients of depthwise
convolutions are slower still. The weights stay those of the Keras network, which says what is computed: this module
walks its graph. Maps are `(batch, channels, height, width)` tensors whose memory is channels last.
"""

from __future__ import annotations

import math

import keras
import numpy as np
import torch
from torch.nn import functional as F

from tfdfd.process import keep_freed_memory

_ACTIVATIONS = {
    "linear": lambda x: x, "relu": F.relu, "relu6": F.relu6, "sigmoid": torch.sigmoid, "hard_sigmoid": F.hardsigmoid,
    "hard_swish": F.hardswish, "hard_silu": F.hardswish,
}  # fmt: skip


class TorchNetwork:
    """Computes a Keras network with given weights.

    Args:
        network: a functional network, channels last.
        dtype: dtype of the maps; weights and statistics are float32.

    Raises:
        ValueError: a layer of the network is of a type that is not known here.
    """

    def __init__(self, network: keras.Model, dtype: torch.dtype):
        self._network, self._dtype = network, dtype
        unknown = sorted(
            {type(each).__name__ for each in network.operations if not isinstance(each, keras.layers.InputLayer)}
            - _LAYERS.keys()
        )
        if unknown:
            raise ValueError(f"engine=torch does not know the layers {', '.join(unknown)} of {network.name}.")
        self._places = {id(v): i for i, v in enumerate(network.trainable_variables)}
        self._other_places = {id(v): i for i, v in enumerate(network.non_trainable_variables)}

    def __call__(self, trained, other, pictures, training: bool):
        """The network's outputs, float32, and its non-trainable variables after the step.

        Args:
            trained, other: tensors of the trainable and non-trainable variables, in Keras's order.
            pictures: `(batch, height, width, 3)`, float32.
            training: as in Keras.
        """
        state = _State(self._places, self._other_places, trained, list(other), training)
        x = pictures.permute(0, 3, 1, 2).to(self._dtype, memory_format=torch.channels_last)
        outputs = self._network._run_through_graph(
            [x], operation_fn=lambda layer: lambda x, **_: _LAYERS[type(layer).__name__](layer, x, state)
        )
        return [_last(each).float() for each in outputs], state.other


class _State:
    """The variables of one call."""

    def __init__(self, places, other_places, trained, other, training):
        self._places, self._other_places, self._trained = places, other_places, trained
        self.other, self.training = other, training

    def __getitem__(self, variable):
        place = self._places.get(id(variable))
        return self.other[self._other_places[id(variable)]] if place is None else self._trained[place]

    def update(self, variable, value):
        self.other[self._other_places[id(variable)]] = value


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution whose gradients avoid what is slow in oneDNN's bfloat16.

    Gradients of the input with strides are a convolution of a spread out gradient, a fifth of the time; gradients of
    kernels of 5 pixels are computed in float32, half of it.
    """

    @staticmethod
    def forward(ctx, x, kernel, stride, padding):
        ctx.save_for_backward(x, kernel)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, kernel, None, stride, padding, 1, kernel.shape[0])

    @staticmethod
    def backward(ctx, gradient):
        x, kernel = ctx.saved_tensors
        count, size, stride, padding = kernel.shape[0], kernel.shape[2], ctx.stride, ctx.padding

        def gradients(gradient, x, kernel, *which):
            return torch.ops.aten.convolution_backward(
                gradient, x, kernel, None, [stride] * 2, padding, [1, 1], False, [0, 0], count, [*which, False]
            )

        if stride == 1:
            of_input = gradients(gradient, x, kernel, True, False)[0]
        else:
            shape = x.shape[0], x.shape[2] + size - 1, x.shape[3] + size - 1, count
            spread = torch.zeros(shape, dtype=x.dtype).permute(0, 3, 1, 2)
            first = [size - 1 - each for each in padding]
            ends = [at + (length - 1) * stride + 1 for at, length in zip(first, gradient.shape[2:], strict=True)]
            spread[:, :, first[0] : ends[0] : stride, first[1] : ends[1] : stride] = gradient
            of_input = F.conv2d(spread, kernel.flip(2, 3), None, 1, 0, 1, count)
        if size > 3:
            x, gradient, kernel = x.float(), gradient.float(), kernel.float()
        return of_input, gradients(gradient, x, kernel, False, True)[1].to(of_input.dtype), None, None


def _same(length, size, stride, dilation):
    """Pixels that padding "same" adds before and after an axis, as Keras and TensorFlow do."""
    missing = max((-(-length // stride) - 1) * stride + (size - 1) * dilation + 1 - length, 0)
    return missing // 2, missing - missing // 2


def _padded(layer, x, sizes, value=0.0):
    """`x` padded as a layer's padding asks as far as its sides differ, and what both sides get besides."""
    if layer.padding == "valid":
        return x, [0, 0]
    dilations = getattr(layer, "dilation_rate", (1, 1))
    (top, bottom), (left, right) = (
        _same(*each) for each in zip(x.shape[2:], sizes, layer.strides, dilations, strict=True)
    )  # fmt: skip
    if bottom > top or right > left:
        x = F.pad(x, (0, right - left, 0, bottom - top), value=value)
    return x, [top, left]


def _activated(layer, x):
    return _ACTIVATIONS[layer.activation.__name__](x)


def _conv(layer, x, state):
    kernel = state[layer.kernel].permute(3, 2, 0, 1).to(x.dtype)
    bias = state[layer.bias].to(x.dtype) if layer.use_bias else None
    x, padding = _padded(layer, x, layer.kernel_size)
    return _activated(layer, F.conv2d(x, kernel, bias, layer.strides, padding, layer.dilation_rate, layer.groups))


def _depthwise(layer, x, state):
    kernel = state[layer.kernel].permute(2, 3, 0, 1).to(x.dtype)
    x, padding = _padded(layer, x, layer.kernel_size)
    x = _Depthwise.apply(x, kernel, layer.strides[0], padding)
    if layer.use_bias:
        x = x + state[layer.bias].to(x.dtype)[:, None, None]
    return _activated(layer, x)


def _norm(layer, x, state):
    gamma, beta = (state[v] if on else None for v, on in ((layer.gamma, layer.scale), (layer.beta, layer.center)))
    mean, variance = state[layer.moving_mean], state[layer.moving_variance]
    if not (state.training and layer.trainable):
        return F.batch_norm(x, mean, variance, gamma, beta, False, 0.0, layer.epsilon)
    x, batch_mean, inverse = torch.native_batch_norm(x, gamma, beta, None, None, True, 0.0, layer.epsilon)
    keep = layer.momentum
    state.update(layer.moving_mean, keep * mean + (1 - keep) * batch_mean.detach().float())
    batch_variance = inverse.detach().float().pow(-2) - layer.epsilon
    state.update(layer.moving_variance, keep * variance + (1 - keep) * batch_variance)
    return x


def _dropout(layer, x, state):
    if not (state.training and layer.rate > 0):
        return x
    shape = x.shape
    if layer.noise_shape is not None:
        given = [layer.noise_shape[i] for i in ((0, 3, 1, 2) if x.ndim == 4 else range(x.ndim))]
        shape = [have if ask is None else ask for have, ask in zip(x.shape, given, strict=True)]
    kept = (torch.rand(shape) >= layer.rate).to(x.dtype)
    return x * (kept / (1 - layer.rate))


def _mean(layer, x, state):
    return x.mean((2, 3), keepdim=layer.keepdims)


def _dense(layer, x, state):
    x = F.linear(x.float(), state[layer.kernel].T, state[layer.bias] if layer.use_bias else None)
    return _activated(layer, x)


def _last(x):
    """A map with its channels last, as Keras has it."""
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


def _max_pool(layer, x, state):
    x, padding = _padded(layer, x, layer.pool_size, float("-inf"))
    return F.max_pool2d(x, layer.pool_size, layer.strides, padding)


def _relu(layer, x, state):
    if layer.threshold or layer.negative_slope:
        raise ValueError(f"{layer.name} is a leaky or thresholded ReLU; expected a plain one.")
    return F.relu(x) if layer.max_value is None else F.hardtanh(x, 0.0, float(layer.max_value))


# Each takes a layer, its input and the variables.
_LAYERS = {
    "Activation": lambda layer, x, state: _activated(layer, x),
    "Add": lambda layer, x, state: sum(x[1:], x[0]),
    "BatchNormalization": _norm,
    "Concatenate": lambda layer, x, state: torch.cat(x, 1),
    "Conv2D": _conv,
    "Dense": _dense,
    "DepthwiseConv2D": _depthwise,
    "Dropout": _dropout,
    "Flatten": lambda layer, x, state: torch.flatten(_last(x), 1),
    "GlobalAveragePooling2D": _mean,
    "Identity": lambda layer, x, state: x,
    "LeakyReLU": lambda layer, x, state: F.leaky_relu(x, layer.negative_slope),
    "MaxPooling2D": _max_pool,
    "Multiply": lambda layer, x, state: math.prod(x),
    "ReLU": _relu,
    "Rescaling": lambda layer, x, state: x * layer.scale + layer.offset,
    "ZeroPadding2D": lambda layer, x, state: F.pad(x, (*layer.padding[1], *layer.padding[0])),
}


class TorchStep:
    """Training steps and scores of a network with its mask head, as `tools.packed.trainer.Trainer` has them.

    Args:
        network: the network with its mask head.
        settings: settings of the training.
        averaged_others: places among the non-trainable variables of the statistics that are averaged.
    """

    def __init__(self, network: keras.Model, settings, averaged_others: list[int]):
        keep_freed_memory(everything=True)
        dtype = torch.bfloat16 if settings.precision == "mixed_bfloat16" else torch.float32
        self._network, self._settings = TorchNetwork(network, dtype), settings
        self._averaged_others = averaged_others

    @staticmethod
    def array(values) -> torch.Tensor:
        """A tensor with a copy of an array's values."""
        return torch.from_numpy(np.array(values))

    def update(self, trained, other, moments, ema, ema_others, pictures, masks, known, targets, step, rate):
        """See `Trainer._update_weights`; all values are tensors, or arrays that become some."""
        settings = self._settings
        pictures, masks, known, targets = map(torch.from_dlpack, (pictures, masks, known, targets))
        count = int(step) + 1
        torch.manual_seed(settings.seed * 1_000_003 + int(step))
        leaves = [value.detach().requires_grad_() for value in trained]
        (fake, mask), other = self._network(leaves, other, pictures, True)
        fake = fake[:, 0]
        label_loss = _cross_entropy(fake, targets).mean()
        mask_loss = _cross_entropy(mask[..., 0], masks).mean((1, 2))
        mask_loss = (mask_loss * known).sum() / known.sum().clamp(min=1)
        gradients = torch.autograd.grad(label_loss + settings.mask_weight * mask_loss, leaves)
        with torch.no_grad():
            norm = torch.sqrt(sum(gradient.square().sum() for gradient in gradients))
            gradients = torch._foreach_mul(gradients, float(min(1.0, 1.0 / (norm + 1e-6))))
            first = torch._foreach_lerp(moments[0], gradients, 0.1)
            second = torch._foreach_lerp(moments[1], torch._foreach_mul(gradients, gradients), 0.001)
            spread = torch._foreach_sqrt(torch._foreach_div(second, 1 - 0.999**count))
            change = torch._foreach_div(torch._foreach_div(first, 1 - 0.9**count), torch._foreach_add(spread, 1e-8))
            updated = [
                value - float(rate) * (delta + settings.weight_decay * (value.ndim > 1) * value)
                for value, delta in zip(trained, change, strict=True)
            ]
            decay = min(settings.ema, count / (count + 9))
            ema = torch._foreach_lerp(ema, updated, 1 - decay)
            if ema_others:
                ema_others = torch._foreach_lerp(ema_others, [other[i] for i in self._averaged_others], 1 - decay)
        moments = list(first), list(second)
        return updated, other, moments, list(ema), list(ema_others), label_loss.item(), fake.detach()

    def score(self, trained, other, pictures):
        """The network's outputs on pictures, a NumPy or JAX array."""
        with torch.no_grad():
            outputs, _ = self._network(trained, other, torch.from_dlpack(pictures), False)
        return [each.numpy() for each in outputs]


def _cross_entropy(probability, targets):
    # PyTorch's own refuses targets that rounding put above 1.
    probability = probability.clamp(1e-6, 1 - 1e-6)
    return -(targets * probability.log() + (1 - targets) * (1 - probability).log())
