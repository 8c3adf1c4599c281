"""What an optimizer around another one must pass on, so that Keras and its callbacks see one optimizer."""

from __future__ import annotations

import keras


class WrappedOptimizer(keras.optimizers.Optimizer):
    """An optimizer that does something with the gradients, then lets another one take the step.

    Loss scaling goes around it (`keras.optimizers.LossScaleOptimizer`), so that it sees gradients in their own units,
    and only those that are applied. A subclass says what it does in `passed_on(gradients)`, keeps its state in Keras
    variables, made in `build`, and gives its arguments in `get_config`.

    Args:
        inner_optimizer: the one that takes the step.
        name: of this one.

    Raises:
        ValueError: the inner one scales the loss.
    """

    def __init__(self, inner_optimizer, name=None):
        if isinstance(inner_optimizer, keras.optimizers.LossScaleOptimizer) or inner_optimizer.loss_scale_factor:
            raise ValueError(
                f"{type(self).__name__} must see gradients that are not scaled: put LossScaleOptimizer around it; "
                f"received {inner_optimizer.name} with loss scaling inside."
            )
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer

    def passed_on(self, gradients: list) -> list:
        """What the inner optimizer gets, in the order of the weights; None where a weight has no gradient."""
        return gradients

    def build(self, variables):
        self.inner_optimizer.build(variables)
        super().build(variables)

    def apply(self, grads, trainable_variables=None):
        if not self.built:
            self.build(list(trainable_variables))
        if len(grads) != len(self._trainable_variables):
            raise ValueError(
                f"{self.name} takes a gradient (or None) for each of the weights it was built with; received "
                f"{len(grads)} gradients."
            )
        self.inner_optimizer.apply(self.passed_on(list(grads)), trainable_variables)

    @property
    def variables(self):
        return [*super().variables, *self.inner_optimizer.variables]

    @property
    def learning_rate(self):
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self):
        return self.inner_optimizer.iterations

    @property
    def _model_variables_moving_average(self):
        # Where Keras's SwapEMAWeights, which looks into one wrapper only, finds the averages.
        return self.inner_optimizer._model_variables_moving_average

    def finalize_variable_values(self, var_list):
        self.inner_optimizer.finalize_variable_values(var_list)

    def get_config(self):
        return {"name": self.name, "inner_optimizer": keras.saving.serialize_keras_object(self.inner_optimizer)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        inner = keras.saving.deserialize_keras_object(config["inner_optimizer"], custom_objects)
        return cls(**config | {"inner_optimizer": inner})
