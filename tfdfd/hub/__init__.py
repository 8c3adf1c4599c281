"""Published models: hubs, their manifests, and access from TensorFlow Hub and Keras 3."""
