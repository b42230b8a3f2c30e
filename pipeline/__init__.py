"""Shards → trained embedder → score. The floors, each on those above it in this list:

config, files, console, errors   the ground: no TensorFlow, every --help in under half a second
data         labelled images, records, batches, augmentation, preprocessing, the cache of arrays
retrieval    metrics, exact search, vectors
models       encoders, their weights, text towers, the embedder
training     the loop, losses, class centres, checkpoints, `guie plan`
evaluation   scores, embeddings, anybody's submission
pages        reports, charts
browsing     guie browse
zero_shot, captions, staged, similar   the four older systems
run, cli     the whole way, and every command
"""
