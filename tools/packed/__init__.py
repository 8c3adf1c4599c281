"""Training from packed files with NumPy, Pillow, Keras and JAX alone."""
