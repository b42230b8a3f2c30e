"""Checkpoint → SavedModel and other formats → checked and submitted."""
