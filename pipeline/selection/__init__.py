"""Which recipe, and which weights: sweeps over folds, soups of runs."""
