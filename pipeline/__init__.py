"""Images → 64 numbers each. In Python: `load`, `search`, `score` of `pipeline.evaluation.api`; in a shell: `guie`.

    import pipeline

    embedder = pipeline.load("runs/demo")
    index = embedder.embed(["a.jpg", "b.jpg", "c.jpg"])  # float32 [3, 64]
    positions, distances = pipeline.search(embedder.embed(["query.jpg"]), index, k=3)
    print(pipeline.score(index, ["cat", "cat", "dog"]))

Importing it loads nothing else. The floors, each on those above it in this list:

config, files, console, errors   the ground: no TensorFlow, every --help in under half a second
data         labelled images, records, batches, augmentation, preprocessing, the cache of arrays
retrieval    metrics, exact search, vectors
models       encoders, their weights, text towers, the embedder
training     the loop, losses, class centres, checkpoints, `guie plan`
evaluation   scores, embeddings, anybody's submission; `api`: what `import pipeline` offers
pages        reports, charts, comparisons
browsing     guie browse
zero_shot, captions, staged, similar   the four older systems
run, cli     the whole way, and every command
fitting      somebody's images and an encoder → a config, and its run
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.evaluation.api import Embedder, load, score, search

__all__ = ["Embedder", "load", "score", "search"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from pipeline.evaluation import api  # NumPy and faiss: not for `guie --help`

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
