"""`guie similar`: the images most similar to one; triplet training."""
