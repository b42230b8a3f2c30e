"""The field's own benchmarks, each by its own protocol: `guie bench`."""
