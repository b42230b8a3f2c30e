"""What a config will take: memory, disk, hours, before anything runs. No TensorFlow."""
