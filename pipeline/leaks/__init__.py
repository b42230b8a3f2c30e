"""`guie leaks`: the same picture in training data and in a benchmark."""
