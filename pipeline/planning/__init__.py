"""What a config will take (memory, disk, hours), and whether it can run, before anything does. No TensorFlow."""
