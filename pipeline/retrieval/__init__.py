"""Vectors → neighbours → metrics. Pure NumPy and faiss."""
