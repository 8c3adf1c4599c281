"""Keras layer for an SVM with RBF kernel, and networks with it as their head (MesoInception4 + SVM, for example).

The arrays come from `tfdfd.training.svm.fit_svm` or from a file, `SvmArrays.load(path)`.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tfdfd.weights.svm_file import SvmArrays

__all__ = ["RbfSvm", "SvmArrays", "with_svm", "with_unfitted_svm"]

Shape = tuple[int | None, ...]


def with_svm(model: keras.Model, arrays: SvmArrays, name: str | None = None, dtype: str = "float32") -> keras.Model:
    """`model` with an SVM on its layer `features` instead of its head: image -> P(fake), `(batch, 1)` float32.

    The layers and weights are shared with `model`. The weights of the SVM do not train.

    Args:
        model: a model from `tfdfd.models.build` with a layer `features` of shape `(batch, d)`, on whose features the
            SVM was fitted.
        arrays: `SvmArrays` for d features.
        name: name of the new model; None for `<model>_svm`.
        dtype: precision of the SVM, `"float32"` or `"float64"` (see `RbfSvm`).

    Raises:
        ValueError: `model` has no layer `features`, or the SVM takes features of another width.
    """
    return _on_features(model, RbfSvm.from_arrays(arrays, name="fake_probability", dtype=dtype), name)


def with_unfitted_svm(model: keras.Model, support_vectors: int) -> keras.Model:
    """`model` with an SVM of `support_vectors` vectors whose weights are loaded later; until then it returns NaN.

    Raises:
        ValueError: `model` has no layer `features`, or `support_vectors` is not a positive integer.
    """
    width = _features_of(model).shape[-1]
    return _on_features(model, RbfSvm(support_vectors, width, name="fake_probability"))


def _on_features(model: keras.Model, svm: RbfSvm, name: str | None = None) -> keras.Model:
    return keras.Model(model.input, svm(_features_of(model)), name=name or f"{model.name}_svm")


def _features_of(model: keras.Model) -> keras.KerasTensor:
    if "features" not in [layer.name for layer in model.layers]:
        raise ValueError(
            f"with_svm takes a network with a layer named 'features', as tfdfd.models.build makes them; received: "
            f"{model.name}, which has none."
        )
    return model.get_layer("features").output


@keras.saving.register_keras_serializable(package="tfdfd")
class RbfSvm(keras.layers.Layer):
    """SVM with RBF kernel: features `(batch, d)` -> P(fake) `(batch, 1)`, float32 in [0, 1], 1 = fake.

    The arrays are weights that do not train; `from_arrays` sets them. Until then they are NaN, and so is the output,
    because an unfitted SVM must not score.

    The layer computes in float32, or in float64 with `dtype="float64"`, under every policy. Where C is high or the
    classes overlap, the decision value is a small difference of large sums, and float32 rounding shows: with 1,100
    support vectors of 16 features, the result is within 2e-6 of scikit-learn's for C = 1 and within 1e-5 for C = 100;
    in float64 it is within 1e-7. JAX (by default) and LiteRT have no float64.

    The intermediate tensor has `batch * support_vectors * dims` values, because distances are sums of squared
    differences. The shorter |x|^2 + |s|^2 - 2xs loses small distances in float32, and its product runs in TF32 on GPUs.

    Args:
        support_vectors: number of support vectors.
        dims: number of features d.
        dtype: `"float32"` or `"float64"`.
        **kwargs: `name` and the other arguments of a Keras layer.

    Raises:
        ValueError: a size is not a positive integer, the dtype is another one, or the features have another width.
    """

    def __init__(self, support_vectors: int, dims: int, dtype: str = "float32", **kwargs: Any) -> None:
        super().__init__(dtype=dtype, **kwargs)
        if self.dtype_policy.name not in ("float32", "float64"):
            raise ValueError(f"dtype must be 'float32' or 'float64'; received: {dtype!r}")
        for argument, value in (("support_vectors", support_vectors), ("dims", dims)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{argument} must be a positive integer; received: {value!r}")
        self.support_vectors = support_vectors
        self.dims = dims

    @classmethod
    def from_arrays(cls, arrays: SvmArrays, name: str | None = None, dtype: str = "float32") -> RbfSvm:
        """A built layer with the weights of `arrays`."""
        support_vectors, dims = arrays.support_vectors.shape
        layer = cls(support_vectors, dims, dtype=dtype, name=name)
        layer.build((None, layer.dims))
        # Scaled back, support vectors are training features again, which were float32, so storing them as float32 does
        # not round them. Mean and scale are then needed for the widths only.
        vectors = arrays.support_vectors * arrays.scale + arrays.mean
        bias = arrays.slope * arrays.intercept + arrays.offset
        layer.set_weights([vectors, arrays.gamma / arrays.scale**2, arrays.slope * arrays.dual_coef, bias])
        return layer

    def build(self, input_shape: Shape) -> None:
        self._check(input_shape)
        # Raw features, squared inverse widths and the logit's coefficients; feature and Platt scaling are folded in.
        shapes: dict[str, tuple[int, ...]] = {"vectors": (self.support_vectors, self.dims), "precision": (self.dims,)}
        shapes |= {"coefficients": (self.support_vectors,), "bias": ()}
        unfitted = keras.initializers.Constant(np.nan)
        for name, shape in shapes.items():
            setattr(self, name, self.add_weight(name=name, shape=shape, initializer=unfitted, trainable=False))
        self.built = True

    def call(self, features: keras.KerasTensor) -> keras.KerasTensor:
        return ops.cast(ops.sigmoid(self.logit(features)), "float32")

    def logit(self, features: keras.KerasTensor) -> keras.KerasTensor:
        """Log-odds of fake, `(batch, 1)`, in the layer's dtype."""
        self._check(features.shape)
        differences = ops.expand_dims(features, 1) - self.vectors  # (batch, n, d)
        kernel = ops.exp(-ops.sum(ops.square(differences) * self.precision, axis=-1))  # (batch, n)
        return ops.sum(kernel * self.coefficients, axis=-1, keepdims=True) + self.bias

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        self._check(input_shape)
        return (input_shape[0], 1)

    def macs(self, input_shape: Shape) -> int:
        """Multiply-accumulates of one image, for distances and sum; used by `tfdfd.models.counting`."""
        return self.support_vectors * (self.dims + 1)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"support_vectors": self.support_vectors, "dims": self.dims}

    def _check(self, shape: Shape) -> None:
        if len(shape) != 2 or shape[1] != self.dims:
            raise ValueError(f"{self.name} takes features of shape (batch, {self.dims}); received: {tuple(shape)}")
