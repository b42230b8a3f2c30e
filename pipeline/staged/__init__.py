"""`guie staged`: classification by neighbours in a vector database, from shallow to deep."""
