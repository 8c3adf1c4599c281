"""What it takes to serve published models with TensorFlow Serving, and clients that need nothing but its protocol."""
