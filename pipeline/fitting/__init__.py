"""Somebody's images and an encoder → a config that is worth running, and the run: `guie fit`."""
