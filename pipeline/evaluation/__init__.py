"""An embedder and labelled images → embeddings and scores."""
