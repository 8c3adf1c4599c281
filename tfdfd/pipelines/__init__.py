"""Face crops on their way to a network: which ones (orders), how they are read, and batches as `tf.data`."""
