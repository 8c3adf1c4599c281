"""Published models: where they lie, how they are checked, and how TensorFlow Hub and Keras 3 get them."""
