"""STAGE  guie zero-shot [data-prep | evaluate] CONFIG: CLIP and SigLIP against class prompts.

images in a public layout, class names, prompt templates → run_dir/zero_shot.json, and for each model a CSV
with a row a class and a picture of what is taken for what. `data-prep` resizes and packs the images once for all
models; `evaluate` makes each class's embedding (the mean of its normalised prompts, normalised again; Radford
et al. 2021) and classifies by the largest cosine. Without a step's name both run. What is done is kept: a
rerun goes on.
"""

import csv
import io
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import files
from pipeline.config import ImageTextModel, from_command_line, to_yaml
from pipeline.console import Progress
from pipeline.data.preprocessing import Preprocess
from pipeline.data.sources import hash_order
from pipeline.errors import BadInput
from pipeline.models import catalogue
from pipeline.models.dual_encoder import DualEncoder, batches, class_embeddings
from pipeline.models.text import prompts
from pipeline.zero_shot import confusion, image_cache
from pipeline.zero_shot.config import STEPS, ZeroShot, file_name
from tfrecords.sources import Item, list_configured

TOP = 5


@dataclass(frozen=True)
class Task:
    """What is classified: images in order, classes and how they are called."""

    items: list[Item]
    classes: list[str]
    names: list[str]


def parse(argv: list[str]) -> ZeroShot:
    step = [f"step={argv[0]}"] if argv and argv[0] in STEPS else []
    return from_command_line(ZeroShot, [*argv[len(step) :], *step], "zero-shot [data-prep | evaluate]")


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
    pack_of_model = [pack_of(config, model, task) for model in config.models]
    if config.step != "evaluate":
        for folder, pack in {pack.folder: pack for pack in pack_of_model}.items():  # models share sizes
            print(f"data-prep: {pack.preprocess.image_size_px} px, {pack.fit} → {folder}", flush=True)
            image_cache.write(pack, config.threads or os.cpu_count() or 1)
        if config.step == "data-prep":
            print(f"zero-shot: {len(task.items):,} images prepared in {run_dir / 'packs'}")
            return
    rows = [
        evaluate(config, model, pack, task, templates)
        for model, pack in zip(config.models, pack_of_model, strict=True)
    ]
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


def pack_of(config: ZeroShot, model: ImageTextModel, task: Task) -> image_cache.Pack:
    """The images as the model wants them; models of the same size share a pack."""
    entry = catalogue.find(model.encoder.name, model.encoder.architecture)
    size = model.encoder.image_size_px or entry.image_size_px
    source = config.source
    return image_cache.Pack(
        root=Path(config.run_dir) / "packs",
        source=[source.layout, source.root, dict(source.options)],
        items=task.items,
        labels={name: place for place, name in enumerate(task.classes)},
        preprocess=Preprocess(size, entry.facts.mean, entry.facts.std, entry.facts.resize),
        fit=config.fit if config.fit != "auto" else entry.facts.fit,
        images_per_file=config.images_per_file,
    )


def evaluate(
    config: ZeroShot, model: ImageTextModel, pack: image_cache.Pack, task: Task, templates: list[str]
) -> dict[str, Any]:
    """One row of the table; writes the model's CSV and picture."""
    run_dir, title = Path(config.run_dir), file_name(model.title)
    packed = image_cache.packed_files(pack)
    towers = DualEncoder(model)
    if not towers.trained:
        print(f"{model.title}: random weights, the numbers are chance", flush=True)
    key = files.fingerprint([towers.identity, task.names, templates])
    started = time.monotonic()
    classes = class_embeddings(towers, task.names, templates, run_dir / "classes", config.batch_size)
    print(f"{model.title}: {len(classes):,} classes in {time.monotonic() - started:.1f} s", flush=True)
    kept = run_dir / "predictions" / files.fingerprint([key, pack.folder.name])
    labels, best, seconds, fresh = _classify(
        towers, classes, packed, kept, config.batch_size, len(task.items)
    )
    rejected = [row for path in packed for row in image_cache.rejected(path)]
    _write_csv(run_dir / "rejects.csv", ["key", "reason"], rejected)
    if not len(labels):
        raise BadInput(f"none of the {len(task.items):,} images could be read: see {run_dir / 'rejects.csv'}")
    hits = best == labels[:, None]  # [N, 5]
    counts = confusion.matrix(labels, best[:, 0], len(task.classes))
    _write_csv(run_dir / f"classes-{title}.csv", *_per_class(task, labels, hits, counts))
    top_1, top_5 = hits[:, 0].mean(), hits.any(axis=1).mean()
    with files.atomic_path(run_dir / f"confusion-{title}.png") as temporary:
        heading = f"{model.title}: top-1 {top_1:.1%} of {len(labels):,} images"
        confusion.picture(counts, task.names, heading).save(temporary, "PNG")
    return {
        "model": model.title,
        "weights": model.encoder.weights,
        "top-1": round(float(top_1), 6),
        "top-5": round(float(top_5), 6),
        "chance top-1": round(1 / len(task.classes), 6),
        "images": len(labels),
        "rejected": len(rejected),
        "classes": len(task.classes),
        "images/s": round(fresh / seconds, 1) if fresh else None,  # None: nothing was left to encode
    }


def _classify(
    towers: DualEncoder, classes: np.ndarray, packed: list[Path], kept: Path, batch_size: int, total: int
) -> tuple[np.ndarray, np.ndarray, float, int]:
    """(labels int64 [N], the best classes int64 [N, ≤5], seconds of encoding, images encoded now)."""
    all_labels, best, seconds, fresh, right, seen = [], [], 0.0, 0, 0, 0
    progress = Progress(f"{towers.text.name}: images", total, "images")
    for file in packed:
        with np.load(file) as parts:
            path = kept / f"{file.stem}-{files.fingerprint(parts['keys'].tolist())}.npy"
            labels, unread = parts["labels"], len(parts["rejected"])
            images = None if path.is_file() else parts["images"]
        if images is not None:
            started = time.monotonic()
            top = [np.zeros((0, min(TOP, len(classes))), np.int64)]
            for part in batches(images, batch_size):
                cosine = towers.encode_images(part) @ classes.T  # [B, C]
                top.append(np.argsort(-cosine, axis=1, kind="stable")[:, :TOP])
            seconds, fresh = seconds + time.monotonic() - started, fresh + len(images)
            with files.atomic_path(path) as temporary, temporary.open("wb") as stream:
                np.save(stream, np.concatenate(top))
        all_labels.append(labels)
        best.append(np.load(path))
        right, seen = right + int((best[-1][:, 0] == labels).sum()), seen + len(labels)
        progress.add(len(labels) + unread, f"top-1 so far {right / max(seen, 1):.1%}")
    return np.concatenate(all_labels), np.concatenate(best), seconds, fresh


def _per_class(
    task: Task, labels: np.ndarray, hits: np.ndarray, counts: np.ndarray
) -> tuple[list[str], list[list]]:
    """Header and rows of a model's CSV; a class without images has empty accuracies."""
    rows = []
    for place, taken_for in enumerate(confusion.most_confused(counts)):
        mine = hits[labels == place]
        accuracies = [f"{mine[:, 0].mean():.4f}", f"{mine.any(axis=1).mean():.4f}"] if len(mine) else ["", ""]
        other = [task.names[taken_for], counts[place, taken_for]] if taken_for is not None else ["", ""]
        rows.append([task.classes[place], task.names[place], len(mine), *accuracies, *other])
    return ["class", "name", "images", "top-1", "top-5", "most taken for", "times"], rows


def table(rows: list[dict[str, Any]]) -> str:
    """The models one below the other."""
    lines = [
        f"{'model':<32}{'weights':<14}{'top-1':>8}{'top-5':>8}{'images':>9}{'rejected':>10}{'images/s':>10}"
    ]
    for row in rows:
        speed = "kept" if row["images/s"] is None else f"{row['images/s']:.1f}"
        lines.append(
            f"{row['model'][:31]:<32}{row['weights'][:13]:<14}{row['top-1']:>8.2%}{row['top-5']:>8.2%}"
            f"{row['images']:>9,}{row['rejected']:>10,}{speed:>10}"
        )
    return "\n".join([*lines, f"chance: {rows[0]['chance top-1']:.2%}"])


def _write_csv(path: Path, header: list[str], rows: list) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    files.write_text(path, text.getvalue())
