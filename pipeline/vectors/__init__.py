"""Vectors on disk in chunks: written once each, resumed after a kill, read in bounded memory."""
