"""Training any network from one packed file with NumPy, Keras and JAX alone."""
