"""Images → vectors on disk, chunk by chunk: `chunks.embed_into` in Python, `guie embed` as a command."""
