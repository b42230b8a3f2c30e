"""Where a user starts: the demo, the packaged configs, every key, a config of one's own."""
