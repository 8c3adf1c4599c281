"""Scores from a model server that speaks TensorFlow Serving's protocol, without TensorFlow on this side."""
