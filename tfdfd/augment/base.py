"""What all our augmentation layers share: who is changed, when, with which draws, and in which number type."""

import keras
from keras import ops


class RandomImageLayer(keras.layers.Layer):
    """Changes images at random while a network trains; a subclass says how in `change(images)`.

    Every image of a batch gets draws of its own, one after the other from one seeded generator: one image gives what
    a batch of it alone gives, and the same layer made anew gives the same sequence again, in `tf.data`, too. (There,
    parallel calls of `map` take the draws in no fixed order: leave `num_parallel_calls` out where a run must repeat to
    the byte, or augment batches inside the training step.) `tf.data` needs Keras's TensorFlow backend; calling the
    layer, or a network with it inside, works under every backend.

    Computed and returned in float32 under every policy: a grey level of 1/255 is less than bfloat16 can tell apart.

    Args:
        probability: share of the images that are changed, in [0, 1].
        seed: whole number, or None for another sequence in each run.
        **kwargs: `name` and what else a Keras layer takes.

    Input and output shape: `([batch,] height, width, 3)`, RGB in [0, 1], height and width known. The output is float32,
        clipped to [0, 1] where the image was changed; the input as it is unless `training=True`.

    Raises:
        ValueError: arguments or shapes other than these.
    """

    def __init__(self, probability=1.0, seed=None, **kwargs):
        kwargs["dtype"] = kwargs.get("dtype") or "float32"
        super().__init__(**kwargs)
        if self.compute_dtype != "float32":
            raise ValueError(
                f"{type(self).__name__} computes in float32 whatever the policy: leave dtype out; received: "
                f"{kwargs['dtype']!r}"
            )
        if keras.config.image_data_format() != "channels_last":
            raise ValueError(
                f"{type(self).__name__} takes images with the channels last; received: "
                f"keras.config.image_data_format() == {keras.config.image_data_format()!r}. Call "
                "keras.config.set_image_data_format('channels_last')."
            )
        if not is_number(probability) or not 0 <= probability <= 1:
            raise ValueError(f"probability must be a share in [0, 1]; received: {probability!r}")
        if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32):
            raise ValueError(f"seed must be a whole number from 0 to 2**32 - 1, or None; received: {seed!r}")
        self.probability = probability
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def change(self, images):
        """Float32 images `(batch, height, width, 3)` to changed ones of the same shape."""
        raise NotImplementedError

    def call(self, image, training=False):
        self.compute_output_shape(image.shape)
        image = ops.cast(image, "float32")
        if not training:
            return image
        images = image if len(image.shape) == 4 else image[None]
        # Drawn first, so that a subclass's draws are the same whatever the probability.
        chosen = self.uniform(images) < self.probability
        changed = ops.clip(self.change(images), 0.0, 1.0)
        changed = ops.where(chosen, changed, images)
        return changed if len(image.shape) == 4 else changed[0]

    def uniform(self, images, low=0.0, high=1.0):
        """A number for each image, float32 `(batch, 1, 1, 1)`, uniform in [low, high)."""
        return keras.random.uniform((ops.shape(images)[0], 1, 1, 1), low, high, "float32", self.generator)

    def one_of(self, images, values):
        """One of the values for each image, float32 `(batch, 1, 1, 1)`, each as likely as the next."""
        number = ops.cast(ops.floor(self.uniform(images, 0.0, float(len(values)))), "int32")
        # A number just below the end may be rounded up to it.
        return ops.take(ops.convert_to_tensor(values, "float32"), ops.minimum(number, len(values) - 1))

    def compute_output_shape(self, input_shape):
        if len(input_shape) not in (3, 4) or input_shape[-1] != 3 or None in input_shape[-3:-1]:
            raise ValueError(
                f"{self.name} takes images of shape ([batch,] height, width, 3) whose height and width are known; "
                f"received: {tuple(input_shape)}. In tf.data, call `image.set_shape((height, width, 3))` before."
            )
        return tuple(input_shape)

    def get_config(self):
        return super().get_config() | {"probability": self.probability, "seed": self.seed}


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def checked_range(name, values, low, high):
    """`(lower, upper)` within [low, high] from two numbers."""
    good = isinstance(values, tuple | list) and len(values) == 2 and all(map(is_number, values))
    if not good or not low <= values[0] <= values[1] <= high:
        raise ValueError(f"{name} must be two numbers (lower, upper) in [{low}, {high}]; received: {values!r}")
    return tuple(values)


def checked_choices(name, values, suits, expected):
    """A non-empty tuple of numbers that `suits` accepts."""
    values = tuple(values) if isinstance(values, tuple | list) else (values,)
    if not values or not all(is_number(value) and suits(value) for value in values):
        raise ValueError(f"{name} must be one or more of {expected}; received: {values!r}")
    return values
