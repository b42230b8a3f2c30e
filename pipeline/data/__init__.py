"""Images and records → batches: who is in the set, in which order, with which pixels."""
