"""Keras layer for SRM noise residuals, with the values of `cv2.filter2D`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfdfd.srm_kernels import DIVISORS, WHOLE

SRM_KERNELS = {name: np.array(rows, np.float32) / DIVISORS[name] for name, rows in WHOLE.items()}
for _kernel in SRM_KERNELS.values():
    _kernel.setflags(write=False)

_MARGIN = 2
_SIDE = 2 * _MARGIN + 1
_SMALLEST = _MARGIN + 1


@keras.saving.register_keras_serializable(package="tfdfd")
class SRM(keras.layers.Layer):
    """Image -> noise residuals through fixed SRM kernels; has no weights, differentiable with respect to the image.

    The residual is linear in the image and has its units. For an image in [0, 1], a channel contributes at most 2 (KB),
    4 (KV) or 1 (second) in magnitude; nine in ten values of a photograph lie within 0.04. `truncate` clips the output,
    in the same units: the T = 2 gray levels of the rich models are `truncate=2 / 255` for an image in [0, 1]. SRM also
    rounds; this layer does not, because the gradient of rounding is zero.

    Kernels combine with channels in two ways:

    - `combine="sum"` (default), as in Zhou et al.: output k is kernel k applied to every channel, summed over the
      channels: three outputs from a color or gray image, as many as an ImageNet network takes.
    - `combine="each"`: each kernel on each channel, as `cv2.filter2D` treats a color image; output c·K + k is
      kernel k on channel c. One kernel keeps the number of channels, as in the Celeb-DF study that filters its images
      with "the SRM kernel": `SRM("KV", combine="each")`. Three kernels give nine channels from a color image.

    The values are those of `cv2.filter2D(image, cv2.CV_32F, kernel)` with its default border, BORDER_REFLECT_101: the
    image is mirrored about its outermost pixels, which are not repeated. `filter2D` on a uint8 image with `ddepth=-1`
    clips the residual to [0, 255] and loses its negative half; this layer does not.

    Residuals are small differences of large numbers, so they are computed and returned in float32 under every policy.
    bfloat16 resolves a pixel near 1 to 1/256, which changes the residuals of a photograph resized to 256 pixels by 5 to
    8 % of their median.

    Under the TensorFlow backend, the layer works in `tf.data`, on batches and on single images.

    Args:
        kernels: one or more names from `SRM_KERNELS`: `"KB"`, `"KV"`, `"second"`.
        combine: `"sum"` or `"each"`.
        truncate: T > 0 clips the outputs to [-T, T]; None for no limit.
        **kwargs: `name` and the other arguments of a Keras layer.

    Input shape: `(batch, height, width, channels)` or `(height, width, channels)`, 1 or 3 channels, sides of at least
        3 pixels, any numeric type.

    Output shape: the same with K channels for `"sum"` and channels·K for `"each"`, K being the number of kernels.

    Raises:
        ValueError: arguments or shapes other than these, or a policy other than float32.
    """

    def __init__(
        self,
        kernels: str | Sequence[str] = tuple(SRM_KERNELS),
        combine: str = "sum",
        truncate: float | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs["dtype"] = kwargs.get("dtype") or "float32"
        super().__init__(**kwargs)
        if self.compute_dtype != "float32":
            raise ValueError(
                f"SRM computes in float32 whatever the policy: leave dtype out; received: {kwargs['dtype']!r}"
            )
        if keras.config.image_data_format() != "channels_last":
            raise ValueError(
                "SRM takes images with the channels last; received: keras.config.image_data_format() == "
                f"{keras.config.image_data_format()!r}. Call keras.config.set_image_data_format('channels_last')."
            )
        self.kernels = (kernels,) if isinstance(kernels, str) else tuple(kernels)
        unknown = [name for name in self.kernels if name not in SRM_KERNELS]
        if unknown or not self.kernels:
            raise ValueError(f"kernels must be one or more of {', '.join(SRM_KERNELS)}; received: {kernels!r}")
        if combine not in ("sum", "each"):
            raise ValueError(f"combine must be 'sum' or 'each'; received: {combine!r}")
        if truncate is not None and not _is_positive(truncate):
            raise ValueError(f"truncate must be None or a positive number in the image's units; received: {truncate!r}")
        self.combine = combine
        self.truncate = truncate

    def call(self, image: keras.KerasTensor) -> keras.KerasTensor:
        self.compute_output_shape(image.shape)
        if len(image.shape) == 3:
            return self._residuals(image[None])[0]
        return self._residuals(image)

    def _residuals(self, image: keras.KerasTensor) -> keras.KerasTensor:
        image = ops.cast(image, "float32")
        if self.combine == "sum":
            # The kernels are linear and the same for all channels; summing channels first saves two thirds of the work.
            image = ops.sum(image, axis=-1, keepdims=True)
        bank = np.stack([SRM_KERNELS[name] for name in self.kernels], axis=-1)[:, :, None, :]
        bank = np.repeat(bank, image.shape[-1], axis=2)  # (5, 5, channels, K)
        image = ops.pad(image, [[0, 0], [_MARGIN, _MARGIN], [_MARGIN, _MARGIN], [0, 0]], mode="reflect")
        residual = ops.depthwise_conv(image, bank, padding="valid", data_format="channels_last")
        return residual if self.truncate is None else ops.clip(residual, -self.truncate, self.truncate)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        if len(input_shape) not in (3, 4) or input_shape[-1] not in (1, 3):
            raise ValueError(
                f"{self.name} takes images of shape ([batch,] height, width, 1 or 3); received: {tuple(input_shape)}"
            )
        if any(side is not None and side < _SMALLEST for side in input_shape[-3:-1]):
            raise ValueError(
                f"{self.name} mirrors {_MARGIN} pixels at each border and so needs images of at least {_SMALLEST}x"
                f"{_SMALLEST}; received: {tuple(input_shape)}. Resize or pad them first."
            )
        channels = 3 if self.combine == "each" and input_shape[-1] == 3 else 1
        return (*input_shape[:-1], channels * len(self.kernels))

    def macs(self, input_shape: tuple[int, ...]) -> int:
        """Multiply-accumulates of one image, counting all taps of the 5x5 kernels; used by `tfdfd.models.counting`."""
        height, width, channels = input_shape[-3:]
        return height * width * channels * len(self.kernels) * _SIDE**2

    def get_config(self) -> dict[str, Any]:
        own = {"kernels": list(self.kernels), "combine": self.combine, "truncate": self.truncate}
        return super().get_config() | own


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
