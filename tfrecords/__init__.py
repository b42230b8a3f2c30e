"""From images on disk to capped, verified TFRecord shards. Imports no TensorFlow."""
