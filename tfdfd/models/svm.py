"""A support vector machine as the head of a network, in the same graph (MesoInception4 + SVM and its like).

The arrays come from `tfdfd.training.svm.fit_svm` or from a file, `SvmArrays.load(path)`.
"""

import keras
import numpy as np
from keras import ops

from tfdfd.weights.svm_file import SvmArrays

__all__ = ["RbfSvm", "SvmArrays", "with_svm", "with_unfitted_svm"]


def with_svm(model, arrays, name=None, dtype="float32"):
    """`model` with an SVM on its layer `features` in place of its own head: image -> P(fake), `(batch, 1)` float32.

    Layers and weights are those of `model`, not copies. The SVM's do not train.

    Args:
        model: a `keras.Model` of `tfdfd.models.build` with a layer `features` of shape `(batch, d)`: the one that
            gave the features which the SVM was fitted on.
        arrays: `SvmArrays` for d features.
        name: name of the new model; None for `<model>_svm`.
        dtype: what the SVM computes in, `"float32"` or `"float64"` (see `RbfSvm`).

    Raises:
        ValueError: no layer `features`, or features of another shape than the SVM takes.
    """
    return _on_features(model, RbfSvm.from_arrays(arrays, name="fake_probability", dtype=dtype), name)


def with_unfitted_svm(model, support_vectors):
    """`model` with an SVM of so many support vectors, for weights that are loaded next; until then it answers NaN.

    Raises:
        ValueError: no layer `features`, or a number that is no whole one above 0.
    """
    width = _features_of(model).shape[-1]
    return _on_features(model, RbfSvm(support_vectors, width, name="fake_probability"))


def _on_features(model, svm, name=None):
    return keras.Model(model.input, svm(_features_of(model)), name=name or f"{model.name}_svm")


def _features_of(model):
    if "features" not in [layer.name for layer in model.layers]:
        raise ValueError(
            f"with_svm takes a network with a layer named 'features', as tfdfd.models.build makes them; received: "
            f"{model.name}, which has none."
        )
    return model.get_layer("features").output


@keras.saving.register_keras_serializable(package="tfdfd")
class RbfSvm(keras.layers.Layer):
    """Features `(batch, d)` -> P(fake) `(batch, 1)`, float32 in [0, 1], 1 = fake, by an SVM with RBF kernel.

    The arrays are weights that do not train; `from_arrays` sets them. Until then they are NaN, and so is the output:
    an SVM that was never fitted must not score.

    Computes in float32, or in float64 with `dtype="float64"`, whatever the policy. An SVM's sum is a small difference
    of hundreds where C is high or the classes overlap, and float32 then shows: against scikit-learn, within 2e-6 for
    C = 1 and 1e-5 for C = 100, with 1,100 support vectors of 16 features. Float64 is within 1e-7; JAX does not have it
    by default, nor does LiteRT.

    Has an intermediate of `batch * support_vectors * dims` numbers: distances are sums of squared differences, since
    the shorter |x|^2 + |s|^2 - 2xs loses the small ones in float32, and its product runs in TF32 on GPUs.

    Args:
        support_vectors: their number.
        dims: features d.
        dtype: `"float32"` or `"float64"`.
        **kwargs: `name` and what else a Keras layer takes.

    Raises:
        ValueError: sizes that are not whole numbers above 0, another dtype, features of another width.
    """

    def __init__(self, support_vectors, dims, dtype="float32", **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        if self.dtype_policy.name not in ("float32", "float64"):
            raise ValueError(f"dtype must be 'float32' or 'float64'; received: {dtype!r}")
        for argument, value in (("support_vectors", support_vectors), ("dims", dims)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{argument} must be a whole number above 0; received: {value!r}")
        self.support_vectors = support_vectors
        self.dims = dims

    @classmethod
    def from_arrays(cls, arrays, name=None, dtype="float32"):
        """The layer of `SvmArrays`, built and filled."""
        layer = cls(*arrays.support_vectors.shape, dtype=dtype, name=name)
        layer.build((None, layer.dims))
        # Scaled back, support vectors are training features again: float32, as they came, and so without a rounding
        # of their own. Mean and scale then are needed for the widths only.
        vectors = arrays.support_vectors * arrays.scale + arrays.mean
        bias = arrays.slope * arrays.intercept + arrays.offset
        layer.set_weights([vectors, arrays.gamma / arrays.scale**2, arrays.slope * arrays.dual_coef, bias])
        return layer

    def build(self, input_shape):
        self._check(input_shape)
        # Raw features, squared inverse widths, and the logit's coefficients: scaling, kernel and Platt folded together.
        shapes = {"vectors": (self.support_vectors, self.dims), "precision": (self.dims,)}
        shapes |= {"coefficients": (self.support_vectors,), "bias": ()}
        unfitted = keras.initializers.Constant(np.nan)
        for name, shape in shapes.items():
            setattr(self, name, self.add_weight(name=name, shape=shape, initializer=unfitted, trainable=False))
        self.built = True

    def call(self, features):
        return ops.cast(ops.sigmoid(self.logit(features)), "float32")

    def logit(self, features):
        """The log-odds of fake, `(batch, 1)`, in the layer's dtype."""
        self._check(features.shape)
        differences = ops.expand_dims(features, 1) - self.vectors  # (batch, n, d)
        kernel = ops.exp(-ops.sum(ops.square(differences) * self.precision, axis=-1))  # (batch, n)
        return ops.sum(kernel * self.coefficients, axis=-1, keepdims=True) + self.bias

    def compute_output_shape(self, input_shape):
        self._check(input_shape)
        return (input_shape[0], 1)

    def macs(self, input_shape):
        """Multiply-accumulates of one image, distances and sum, for `tfdfd.models.counting`."""
        return self.support_vectors * (self.dims + 1)

    def get_config(self):
        return super().get_config() | {"support_vectors": self.support_vectors, "dims": self.dims}

    def _check(self, shape):
        if len(shape) != 2 or shape[1] != self.dims:
            raise ValueError(f"{self.name} takes features of shape (batch, {self.dims}); received: {tuple(shape)}")
