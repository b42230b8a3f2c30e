"""Records → checkpoints. `train.py` is the story; the others are what it calls."""
