"""Weights: where they come from, how they are converted, how they fill a model."""
