"""Images on disk become capped, verified TFRecord shards. Imports no TensorFlow."""
