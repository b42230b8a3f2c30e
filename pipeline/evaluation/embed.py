"""COMMAND  embedder + images → vectors.

guie embed EMBEDDER DATA --out DIR
→ DIR/embeddings.npy [N, 64] float32, DIR/items.csv: key,source,class (row n is vector n), DIR/rejects.csv
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline import files
from pipeline.console import Progress
from pipeline.data import sources
from pipeline.data.sources import ImageSet
from pipeline.errors import BadInput
from pipeline.evaluation import embedders
from pipeline.evaluation.embedders import Submission
from pipeline.retrieval.vectors import unit_length

RAW_PIXELS_SIDE_PX = 32
MAX_BATCH_VALUES = 64_000_000  # uint8 values of one batch: large images go in small batches


@dataclass(frozen=True)
class Options:
    embedder: str
    data: str
    out: str
    batch_size: int = 64


@dataclass
class Embedded:
    """The images of one or several sets with their vectors. Images that cannot be read are in `rejects` alone."""

    names: list[str]  # of the domains
    vectors: dict[str, np.ndarray]  # row name → float32 [N, D]; the rows are "embedder" and the references
    domains: np.ndarray  # int64 [N], position in `names`
    labels: np.ndarray  # int64 [N], over all domains; domains of one label space may share a class
    keys: list[str]  # N keys
    rejects: list[tuple[str, str, str]]  # (domain, key, reason)


def main(options: Options) -> None:
    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise BadInput(f"--out {out}: expected a folder, it is a file")
    submission = embedders.load(options.embedder)
    labels: dict[tuple[str, str], int] = {}
    found = embed_sets(submission, sources.open_data(options.data), options.batch_size, "embed", labels)
    class_names = [class_name for _, class_name in labels]  # labels count up from 0, in this order
    rows = [
        (key, found.names[domain], class_names[label])
        for key, domain, label in zip(found.keys, found.domains.tolist(), found.labels.tolist(), strict=True)
    ]
    vectors = found.vectors["embedder"]
    with files.atomic_path(out / "embeddings.npy") as temporary, temporary.open("wb") as file:
        np.save(file, vectors)
    files.write_csv(out / "items.csv", ("key", "source", "class"), rows)
    files.write_csv(out / "rejects.csv", ("source", "key", "reason"), found.rejects)
    print(f"embed: {len(rows):,} vectors of {vectors.shape[1]}, {len(found.rejects)} left out → {out}/embeddings.npy")


def embed_sets(
    submission: Submission,
    sets: list[ImageSet],
    batch_size: int,
    what: str,
    labels: dict[tuple[str, str], int],
    references=None,
) -> Embedded:
    """Reads and embeds every image, images of one size together.

    Args:
        what: the work, beside its progress.
        labels: `ImageSet.class_of` → label; grows. Index and queries share one.
        references: None, or further rows to compute from the same images, see references.py.
    """
    items = [(domain, item) for domain, each in enumerate(sets) for item in each.items]
    progress = Progress(what, len(items), "images")
    vectors = np.zeros((len(items), submission.embedding_dim), np.float32)
    others: dict[str, dict[int, np.ndarray]] = {}  # reference → row → vector
    kept: list[int] = []
    rejects: list[tuple[str, str, str]] = []
    waiting: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}  # image shape → (row, image)

    def flush(shape: tuple[int, ...]) -> None:
        group = waiting.pop(shape)
        rows, images = [row for row, _ in group], np.stack([image for _, image in group])
        vectors[rows] = submission.embed(images)
        further = {"raw_pixels": [raw_pixels(image) for image in images]}
        for name, values in {**further, **(references.encode(images) if references else {})}.items():
            others.setdefault(name, {}).update(zip(rows, values, strict=True))

    for row, image, reason in sources.read_decoded([item for _, item in items]):
        progress.add(1)
        if image is None:
            domain, item = items[row]
            rejects.append((sets[domain].name, item.key, reason))
            continue
        kept.append(row)
        waiting.setdefault(image.shape, []).append((row, image))
        if len(waiting[image.shape]) >= max(1, min(batch_size, MAX_BATCH_VALUES // image.size)):
            flush(image.shape)
        if sum(len(group) for group in waiting.values()) > 4 * batch_size:  # many sizes: do not hold them all
            flush(max(waiting, key=lambda shape: len(waiting[shape])))
    for shape in list(waiting):
        flush(shape)
    stacked = {name: np.stack([found[row] for row in kept]) for name, found in others.items()}
    if references:
        stacked = references.finish(stacked)
    chosen = [items[row] for row in kept]
    found = [labels.setdefault(sets[domain].class_of(item.class_name), len(labels)) for domain, item in chosen]
    return Embedded(
        names=[each.name for each in sets],
        vectors={"embedder": vectors[kept], **stacked},
        domains=np.array([domain for domain, _ in chosen], np.int64),
        labels=np.array(found, np.int64),
        keys=[item.key for _, item in chosen],
        rejects=rejects,
    )


def raw_pixels(image: np.ndarray) -> np.ndarray:
    """The reference that has learned nothing: uint8 [H, W, 3] → float32 [3072], 32 × 32 pixels, mean 0, unit length."""
    small = Image.fromarray(image).resize((RAW_PIXELS_SIDE_PX, RAW_PIXELS_SIDE_PX), Image.Resampling.BOX)
    flat = np.asarray(small, dtype=np.float32).ravel()
    return unit_length(flat - flat.mean())
