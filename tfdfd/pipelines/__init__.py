"""`tf.data` pipelines for training and evaluation, and TFRecord shards."""
