"""Model server for one machine with TensorFlow Serving's protocol over gRPC and REST."""
