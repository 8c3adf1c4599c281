"""Deployment of published models with TensorFlow Serving, and clients that need only its protocol."""
