"""A model server for one machine that speaks TensorFlow Serving's own protocol, over gRPC and REST."""
