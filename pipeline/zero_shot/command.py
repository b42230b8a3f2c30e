"""COMMAND  guie zero-shot [data-prep | evaluate] CONFIG: CLIP and SigLIP against class prompts.

images in a public layout, class names, prompt templates → run_dir/zero_shot.json; of each model a CSV with a row a
class and a picture of the confusion matrix. `data-prep` resizes the images once for all models of one size.
`evaluate` makes each class's embedding (the mean of its normalised prompts, normalised again; Radford et al. 2021)
and classifies by the largest cosine. Without a step's name both run. A rerun computes only what is missing.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import console, files
from pipeline.config import ImageTextModel, to_yaml
from pipeline.data import preprocessing
from pipeline.data.array_cache import ArrayCache
from pipeline.data.image_cache import CachedImages, cache_images
from pipeline.data.preprocessing import LEVELS, Preprocess, resize_to_square
from pipeline.data.sources import hash_order
from pipeline.errors import BadInput
from pipeline.guards.masked import shown
from pipeline.models import catalogue
from pipeline.models.dual_encoder import DualEncoder, batches, class_embeddings
from pipeline.models.text import encoder as text_encoder
from pipeline.models.text import prompts
from pipeline.zero_shot import confusion
from pipeline.zero_shot.config import ZeroShot, file_name
from tfrecords.sources import Item, list_configured

TOP = 5


@dataclass(frozen=True)
class Task:
    """What is classified: the images in order; the classes, and the name of each in a prompt."""

    items: list[Item]
    classes: list[str]
    names: list[str]


@dataclass(frozen=True)
class Prepared:
    """The images of one size: `cache` has a row `images`, uint8 [S, S, 3], for each of `found.keys`."""

    cache: ArrayCache
    found: CachedImages


def main(config: ZeroShot) -> None:
    run_dir = Path(config.run_dir)
    templates = prompts.templates(config.templates)
    task = list_task(config)
    print(
        f"zero-shot: {len(task.items):,} images of {len(task.classes):,} classes, "
        f"{len(templates)} template(s), {len(config.models)} model(s) → {run_dir}",
        flush=True,
    )
    files.write_text(run_dir / "config.yaml", to_yaml(config))
    if config.step != "data-prep":  # before minutes of images, not after
        for model in config.models:
            text_encoder.expect_vocabulary(model.encoder.name, model.encoder.weights, model.vocabulary)
    prepared = data_prep(config, task.items)
    if config.step == "data-prep":
        print(f"zero-shot: {len(task.items):,} images prepared in {run_dir / 'images'}")
        return
    pairs = zip(config.models, prepared, strict=True)
    rows = [evaluate(config, model, images, task, templates) for model, images in pairs]
    files.write_json(run_dir / "zero_shot.json", {"templates": len(templates), "models": rows})
    print(table(rows))
    print(f"zero-shot: {len(rows)} model(s), {rows[0]['images']:,} images: {run_dir / 'zero_shot.json'}")


def list_task(config: ZeroShot) -> Task:
    """Raises BadInput where the layout does, where nothing is listed and where class names do not fit."""
    listing = list_configured(config.source, config.data_root)
    items = list(listing.items)
    if config.order == "hashed":
        items.sort(key=hash_order)
    items = items[: config.first or None]
    if not items:
        raise BadInput(
            f"source {config.source.name}: the layout {config.source.layout} finds no images in {config.source.root}"
        )
    classes = list(listing.classes)
    if config.class_names:
        names = prompts.class_names(Path(config.class_names), classes)
    else:
        names = [prompts.spoken(listing.names.get(each, each)) for each in classes]
    return Task(items, classes, names)


def data_prep(config: ZeroShot, items: list[Item]) -> list[Prepared]:
    """The images as each model wants them; models of one size share them.

    Raises BadInput: an unknown encoder; the step is `evaluate` and the cache lacks an image that can be read.
    """
    threads = config.threads or os.cpu_count() or 1
    wanted = [_resizing(config, model) for model in config.models]
    made_by = [
        [LEVELS, each.image_size_px, each.resize, each.antialias, each.fit, *(each.mean if each.fit == "pad" else ())]
        for each in wanted
    ]
    caches = [ArrayCache(Path(config.run_dir) / "images", each) for each in made_by]
    prepared: dict[Path, Prepared] = {}
    with ThreadPoolExecutor(threads) as pool:
        for cache, preprocess in zip(caches, wanted, strict=True):
            if cache.folder in prepared:
                continue
            print(f"images: {preprocess.image_size_px} px, {preprocess.fit} → {cache.folder}", flush=True)
            resize = partial(resize_to_square, preprocess=preprocess)
            compute = partial(_resized, config.step, pool, resize, cache.folder)
            found = cache_images(cache, items, compute, "images", threads, config.images_per_file, threads)
            prepared[cache.folder] = Prepared(cache, found)
    return [prepared[cache.folder] for cache in caches]


def _resizing(config: ZeroShot, model: ImageTextModel) -> Preprocess:
    """How a model's images become square: as `fit` says, else its encoder's, else as it was trained."""
    catalogue.expect_square(model.encoder, model.title)
    entry = catalogue.find(model.encoder.name, model.encoder.architecture)
    size_px = model.encoder.image_size_px or entry.image_size_px
    fit = config.fit if config.fit != "auto" else model.encoder.fit or entry.facts.fit
    return Preprocess(size_px, entry.facts.mean, entry.facts.std, entry.facts.resize, fit=fit)


def _resized(step: str, pool: ThreadPoolExecutor, resize: Callable, folder: Path, pictures: list[np.ndarray]) -> dict:
    if step == "evaluate":
        raise BadInput(f"{folder} lacks some images: run guie zero-shot data-prep with this config first")
    return {"images": np.stack(list(pool.map(resize, pictures)))}


def evaluate(
    config: ZeroShot, model: ImageTextModel, images: Prepared, task: Task, templates: list[str]
) -> dict[str, Any]:
    """One row of the table; writes the model's CSV and picture."""
    run_dir, title = Path(config.run_dir), file_name(model.title)
    found = images.found
    files.write_csv(run_dir / "rejects.csv", ["key", "reason"], found.rejects)
    if not found.items:
        raise BadInput(f"none of the {len(task.items):,} images could be read: see {run_dir / 'rejects.csv'}")
    encoder = DualEncoder(model)
    if not encoder.trained:
        print(f"{model.title}: random weights, the numbers are chance", flush=True)
    made_by = [encoder.identity, task.names, templates]
    started = time.monotonic()
    classes = class_embeddings(encoder, task.names, templates, run_dir / "classes", config.batch_size)
    print(f"{model.title}: {len(classes):,} classes in {time.monotonic() - started:.1f} s", flush=True)
    label_of = {name: label for label, name in enumerate(task.classes)}
    labels = np.array([label_of[item.class_name] for item in found.items])
    predictions = ArrayCache(
        run_dir / "predictions", [made_by, preprocessing.identity(encoder.preprocess), images.cache.folder.name]
    )
    best, seconds, encoded = _classify(config, encoder, classes, images, labels, predictions)
    hits = best == labels[:, None]  # [N, 5]
    counts = confusion.matrix(labels, best[:, 0], len(task.classes))
    files.write_csv(run_dir / f"classes-{title}.csv", *_per_class(task, labels, hits, counts))
    top_1, top_5 = hits[:, 0].mean(), hits.any(axis=1).mean()
    with files.atomic_path(run_dir / f"confusion-{title}.png") as temporary:
        heading = f"{model.title}: top-1 {top_1:.1%} of {len(labels):,} images"
        confusion.picture(counts, task.names, heading).save(temporary, "PNG")
    return {
        "model": model.title,
        "weights": shown(model.encoder.weights),
        "top-1": round(float(top_1), 6),
        "top-5": round(float(top_5), 6),
        "chance top-1": round(1 / len(task.classes), 6),
        "images": len(labels),
        "rejected": len(found.rejects),
        "classes": len(task.classes),
        "images/s": round(encoded / seconds, 1) if encoded else None,  # None: nothing was left to encode
    }


def _classify(
    config: ZeroShot, encoder: DualEncoder, classes: np.ndarray, images: Prepared, labels: np.ndarray, cache: ArrayCache
) -> tuple[np.ndarray, float, int]:
    """(the best classes of each image int64 [N, ≤5], seconds of encoding, images encoded now)."""
    best, seconds, encoded, right = [], 0.0, 0, 0
    progress = console.Progress(f"{encoder.text.name}: images", len(labels), "images")
    for start in range(0, len(labels), config.images_per_file):
        keys = images.found.keys[start : start + config.images_per_file]
        if new := cache.missing(keys):
            pixels = images.cache.get(new)["images"]
            started = time.monotonic()
            cosines = (encoder.encode_images(batch) @ classes.T for batch in batches(pixels, config.batch_size))
            top = [np.argsort(-cosine, axis=1, kind="stable")[:, :TOP] for cosine in cosines]
            seconds, encoded = seconds + time.monotonic() - started, encoded + len(new)
            cache.put(new, best=np.concatenate(top))
        best.append(cache.get(keys)["best"])
        seen = start + len(keys)
        right += int((best[-1][:, 0] == labels[start:seen]).sum())
        progress.add(len(keys), f"top-1 so far {right / seen:.1%}")
    return np.concatenate(best), seconds, encoded


def _per_class(task: Task, labels: np.ndarray, hits: np.ndarray, counts: np.ndarray) -> tuple[list[str], list[list]]:
    """Header and rows of a model's CSV; a class without images has empty accuracies."""
    rows = []
    for label, other in enumerate(confusion.most_confused(counts)):
        mine = hits[labels == label]
        accuracies = [f"{mine[:, 0].mean():.4f}", f"{mine.any(axis=1).mean():.4f}"] if len(mine) else ["", ""]
        taken_for = [task.names[other], counts[label, other]] if other is not None else ["", ""]
        rows.append([task.classes[label], task.names[label], len(mine), *accuracies, *taken_for])
    return ["class", "name", "images", "top-1", "top-5", "most taken for", "times"], rows


def table(rows: list[dict[str, Any]]) -> str:
    """A row a model, and chance."""
    shown = [
        [
            row["model"], row["weights"], f"{row['top-1']:.2%}", f"{row['top-5']:.2%}", f"{row['images']:,}",
            f"{row['rejected']:,}", "kept" if row["images/s"] is None else row["images/s"],
        ]
        for row in rows
    ]  # fmt: skip
    header = ["model", "weights", "top-1", "top-5", "images", "rejected", "images/s"]
    return f"{console.table(header, shown, left=2)}\nchance: {rows[0]['chance top-1']:.2%}"
