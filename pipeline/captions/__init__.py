"""`guie captions`: how well images and their captions fit."""
