"""`guie staged build`: labelled images → the vectors of every stage in the database."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline import files
from pipeline.config import to_yaml
from pipeline.console import Progress
from pipeline.data.array_cache import content_key
from pipeline.data.sources import list_images
from pipeline.errors import BadInput, reason
from pipeline.models.dual_encoder import DualEncoder, class_embeddings
from pipeline.models.text import prompts
from pipeline.staged.config import STAGES, Staged
from pipeline.staged.retriever import Retriever
from pipeline.staged.stages import Batch
from tfrecords import pixels
from tfrecords.listing.items import as_text
from tfrecords.sources import Item


def build(config: Staged, retriever: Retriever) -> None:
    """Makes every stage's collection hold what the config lists, and only that.

    An image that is there already, with the same bytes and the same class, is not encoded again.
    """
    if not config.index:
        raise BadInput("index: expected at least one source of labelled images, such as {layout: folder, …}")
    items, names = list_images(config.index, config.data_root)
    run_dir, database, collections = Path(config.run_dir), retriever.database, retriever.collections
    files.write_text(run_dir / "config.yaml", to_yaml(config))
    retriever.open_collections(create=True)
    stages: list[str] = list(STAGES)  # whose rows are images
    class_keys: list[str] = []
    if retriever.encoder.dual_encoder:
        stages.remove("origin")
        classes = sorted({item.class_name for item in items})
        class_keys = _insert_classes(config, retriever, retriever.encoder.dual_encoder, classes, names)
    progress = Progress("staged build", len(items), "images")
    rejects: list[tuple[str, str]] = []
    added = 0
    for start in range(0, len(items), config.batch_size):
        listed = items[start : start + config.batch_size]
        keys = [item.key for item in listed]
        stored = [database.digests(collections[stage], keys) for stage in stages]
        new = _read_new(listed, stored, rejects)
        if new:
            batch = Batch([picture for _, _, picture in new], [item.key for item, _, _ in new])
            class_names, digests = [item.class_name for item, _, _ in new], [digest for _, digest, _ in new]
            for stage in stages:
                vectors = retriever.encoder.features(stage, batch)
                database.insert(collections[stage], batch.keys, class_names, digests, vectors)
            added += len(new)
        progress.add(len(listed))
    files.write_csv(run_dir / "rejects.csv", ("key", "reason"), rejects)
    if len(rejects) == len(items):
        raise BadInput(f"none of the {len(items):,} images could be read: see {run_dir / 'rejects.csv'}")
    readable = {item.key for item in items} - {key for key, _ in rejects}
    removed = 0
    for stage, collection in collections.items():
        removed += database.keep_only(collection, readable if stage in stages else class_keys)
        database.finish(collection)
    if removed:
        print(f"staged build: {removed:,} rows removed: no longer listed, or no longer readable")
    print(
        f"staged build: {len(items):,} images ({added:,} new or changed, {len(rejects):,} rejected), "
        f"{database.count(collections[stages[0]]):,} in {len(STAGES)} collections of {database.uri}"
    )


def _read_new(
    items: Sequence[Item], stored: Sequence[dict[str, str]], rejects: list[tuple[str, str]]
) -> list[tuple[Item, str, np.ndarray]]:
    """(item, digest, pixels) of the images that some collection lacks, or holds with other bytes or another class.

    `stored`: key → digest, of each collection. `rejects`: gets (key, reason) of the images that cannot be read.
    """
    new = []
    for item in items:
        try:
            encoded = item.read()
            digest = content_key(encoded + item.class_name.encode())
            if any(digests.get(item.key) != digest for digests in stored):
                new.append((item, digest, pixels.read(encoded)))
        except (ValueError, OSError) as error:
            rejects.append((item.key, as_text(reason(error))))
    return new


def _insert_classes(
    config: Staged, retriever: Retriever, model: DualEncoder, classes: list[str], names: dict[str, str]
) -> list[str]:
    """Zero-shot: the classes' prompts are the rows of `origin`. Returns their keys."""
    spoken = [prompts.spoken(names.get(name, name)) for name in classes]
    templates = prompts.templates(config.templates)
    digest = files.fingerprint([retriever.encoder.stages["origin"].made_by, spoken, templates])
    started = time.monotonic()
    folder = Path(config.run_dir) / "classes"
    vectors = class_embeddings(model, spoken, templates, folder, config.batch_size)
    keys = [f"class/{name}" for name in classes]
    collection = retriever.collections["origin"]
    retriever.database.insert(collection, keys, classes, [digest] * len(classes), vectors)
    seconds = time.monotonic() - started
    print(f"staged build: prompts of {len(classes)} classes in {seconds:.1f} s", flush=True)
    return keys
