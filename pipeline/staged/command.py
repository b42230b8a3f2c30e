"""STAGE  guie staged: classification by nearest neighbours in a vector database, from shallow to deep.

guie staged build   CONFIG [KEY=VALUE …]           labelled images → vectors of every stage in the database
guie staged predict IMAGE … [--stage all]          class, neighbours, distance and time of each stage
guie staged perf    [--stage third --num 2 --batch-size 3 --display-freq 1 --time]   accuracy over the test set

Stages: `first` pixels alone, the encoder bypassed; `second` half the encoder; `third` nearly all of it; `origin`
zero-shot with a text tower, the whole encoder without; `all` in sequence; `cascade` answers at the first stage
whose neighbours agree. Without a CONFIG, predict and perf read configs/staged_cifar10.yaml.
"""

import argparse
import csv
import difflib
import hashlib
import io
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import files
from pipeline.config import ImageTextModel, load, to_yaml
from pipeline.console import Progress
from pipeline.data.sources import check_shared_names, list_images
from pipeline.errors import BadInput
from pipeline.models.dual_encoder import class_embeddings
from pipeline.models.text import prompts
from pipeline.staged import perf
from pipeline.staged.config import STAGES, Staged
from pipeline.staged.retriever import Answer, Asked, Retriever, looked_up
from pipeline.staged.vector_database import VectorDatabase
from tfrecords import pixels
from tfrecords.sources import Item

DEFAULT_CONFIG = "configs/staged_cifar10.yaml"
ACTIONS = ("build", "predict", "perf")


@dataclass(frozen=True)
class Command:
    action: str
    config: Staged
    images: list[str]
    stage: str
    options: "perf.Options"


def parse(argv: list[str]) -> Command:
    parser = argparse.ArgumentParser(
        "guie staged", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", metavar="build|predict|perf")
    parser.add_argument("words", nargs="*", metavar="CONFIG, IMAGE or KEY=VALUE")
    parser.add_argument("--config", default="", help=f"the YAML file (default {DEFAULT_CONFIG})")
    parser.add_argument("--stage", default="all", help=f"{', '.join(STAGES)}, all or cascade (default all)")
    parser.add_argument("--num", type=int, default=0, help="perf: batches to test (default: the whole set)")
    parser.add_argument("--batch-size", type=int, default=0, help="perf: images a batch (default: config)")
    parser.add_argument("--display-freq", type=int, default=10, help="perf: batches between lines")
    parser.add_argument("--time", action="store_true", help="perf: encoder and query time apart")
    known = parser.parse_intermixed_args(argv)
    if known.action not in ACTIONS:
        raise BadInput(f"expected build, predict or perf, got {known.action!r}")
    configs = [word for word in known.words if word.endswith((".yaml", ".yml"))]
    rest = [word for word in known.words if word not in configs]
    overrides = [word for word in rest if "=" in word and not os.path.exists(word)]
    images = [word for word in rest if word not in overrides]
    if len(configs) + bool(known.config) > 1:
        raise BadInput(f"expected one config, got {', '.join([known.config, *configs])}")
    if images and known.action != "predict":
        raise BadInput(f"guie staged {known.action} takes a CONFIG and KEY=VALUE, got {images[0]!r}")
    if not images and known.action == "predict":
        raise BadInput("guie staged predict: expected the path of an image")
    stages = (*STAGES, "all", "cascade")
    if known.stage not in stages:
        near = difflib.get_close_matches(known.stage, stages, n=2, cutoff=0.4) or stages
        raise BadInput(f"unknown stage {known.stage!r}; nearest: {', '.join(near)}")
    if min(known.num, known.batch_size) < 0 or known.display_freq < 1:
        raise BadInput("--num and --batch-size must be 0 or more, --display-freq 1 or more")
    config = load(Staged, known.config or (configs or [DEFAULT_CONFIG])[0], overrides)
    options = perf.Options(
        known.stage, known.num, known.batch_size or config.batch_size, known.display_freq, known.time
    )
    return Command(known.action, config, images, known.stage, options)


def main(command: Command) -> None:
    config = command.config
    check_shared_names(config.index, config.queries)
    for path in command.images:
        if not Path(path).is_file():
            raise BadInput(f"expected an image file, {path} does not exist")
    database = config.database or str(Path(config.run_dir) / "vectors.db")
    if command.action != "build" and "://" not in database and not Path(database).exists():
        raise BadInput(f"expected the vector database {database}: run `guie staged build` first")
    with VectorDatabase(database, config.token) as opened:
        retriever = Retriever(
            ImageTextModel(config.encoder, config.vocabulary, config.text_architecture, seed=config.seed),
            config.taps,
            config.pixels_px,
            config.neighbours,
            config.collection,
            opened,
            origin_is_encoder=config.origin == "encoder",
        )
        layers = ", ".join(
            f"{stage} = {layer or 'output'}" for stage, layer in retriever.stepped.layers.items()
        )
        print(f"staged {command.action}: {config.encoder.name}, {layers}; {database}", flush=True)
        if command.action == "build":
            build(config, retriever)
        elif command.action == "predict":
            predict(config, retriever, command.images, command.stage)
        else:
            retriever.open_collections(create=False)
            images, _ = list_images(config.queries, config.data_root)
            perf.perf(retriever, images, command.options, config.thresholds, Path(config.run_dir))


def build(config: Staged, retriever: Retriever) -> None:
    """Makes every stage's collection hold what the config lists, and only that.

    What is there already, from the same bytes and of the same class, is not encoded again.
    """
    if not config.index:
        raise BadInput("index: expected at least one source of labelled images, such as {layout: folder, …}")
    images, names = list_images(config.index, config.data_root)
    run_dir, database = Path(config.run_dir), retriever.database
    files.write_text(run_dir / "config.yaml", to_yaml(config))
    retriever.open_collections(create=True)
    rows: dict[str, set[str]] = {}  # collection → the keys it is to hold
    if retriever.zero_shot:
        classes = sorted({image.class_name for image in images})
        rows[retriever.collections["origin"]] = _write_classes(config, retriever, classes, names)
    stages = [stage for stage in STAGES if not (stage == "origin" and retriever.zero_shot)]
    collections = [retriever.collections[stage] for stage in stages]
    progress = Progress("staged build", len(images), "images")
    rejects: list[tuple[str, str]] = []
    added = 0
    for start in range(0, len(images), config.batch_size):
        batch = images[start : start + config.batch_size]
        there = [database.digests(name, [image.key for image in batch]) for name in collections]
        new, pictures, digests = [], [], []
        for image, digest, picture in _read(batch, there, rejects):
            new.append(image)
            digests.append(digest)
            pictures.append(picture)
        if new:
            keys, labels = [image.key for image in new], [image.class_name for image in new]
            asked = Asked(pictures, keys)
            for stage, name in zip(stages, collections, strict=True):
                database.insert(name, keys, labels, digests, retriever.features(stage, asked))
            added += len(new)
        progress.add(len(batch))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("key", "reason"), *rejects])
    files.write_text(run_dir / "rejects.csv", text.getvalue())
    if len(rejects) == len(images):
        raise BadInput(f"none of the {len(images):,} images could be read: see {run_dir / 'rejects.csv'}")
    readable = {image.key for image in images} - {key for key, _ in rejects}
    removed = 0
    for name in retriever.collections.values():
        removed += database.keep_only(name, rows.get(name, readable))
        database.finish(name)
    if removed:
        print(f"staged build: {removed:,} rows removed: no longer listed, or no longer readable")
    print(
        f"staged build: {len(images):,} images ({added:,} new or changed, {len(rejects):,} rejected), "
        f"{database.count(collections[0]):,} in {len(STAGES)} collections of {database.uri}"
    )


def predict(config: Staged, retriever: Retriever, paths: list[str], stage: str) -> None:
    """Prints what each stage says of each image."""
    stages = looked_up(stage, config.thresholds)
    retriever.open_collections(False, stages)
    decoded = []
    for path in paths:
        try:
            decoded.append(pixels.read(Path(path).read_bytes()))
        except (ValueError, OSError) as error:
            raise BadInput(f"{path}: {error}") from None
    retriever.warm_up(stages, 1)
    last = ""
    for path, image in zip(paths, decoded, strict=True):
        asked = Asked([image], [path])
        if stage == "cascade":
            answers = retriever.cascade(asked, config.thresholds)[0]
        else:
            answers = [retriever.ask(each, asked)[0] for each in stages]
        print(f"\n{path}\n{describe(answers, retriever.zero_shot)}")
        spent = sum(answer.encode_ms + answer.query_ms for answer in answers)
        last = f"{path} → {answers[-1].class_name} ({answers[-1].stage}, {spent:.1f} ms)"
    print(f"\nstaged predict: {len(paths)} image(s), the last: {last}")


def describe(answers: list[Answer], zero_shot: bool) -> str:
    """The answers to one image as a table, and under each its neighbours."""
    lines = [f"{'stage':<8}{'class':<24}{'agree':>7}{'distance':>10}{'encode ms':>11}{'query ms':>10}"]
    for answer in answers:
        lines.append(
            f"{answer.stage:<8}{answer.class_name[:23]:<24}{answer.agreement:>7.0%}{answer.distance:>10.3f}"
            f"{answer.encode_ms:>11.1f}{answer.query_ms:>10.1f}"
        )
        named = "classes" if answer.stage == "origin" and zero_shot else "neighbours"
        shown = "; ".join(f"{hit.class_name} {hit.distance:.3f} ({hit.key})" for hit in answer.neighbours[:5])
        lines.append(f"        {named}: {shown}")
    return "\n".join(lines)


def _read(
    batch: list[Item], there: list[dict[str, str]], rejects: list[tuple[str, str]]
) -> Iterator[tuple[Item, str, Any]]:
    """The images of a batch that some collection lacks, or holds from other bytes or as of another class.

    Yields:
        (image, digest, pixels).
    """
    for image in batch:
        try:
            encoded = image.read()
            digest = hashlib.sha256(encoded + image.class_name.encode()).hexdigest()[:32]
            if all(known.get(image.key) == digest for known in there):
                continue
            yield image, digest, pixels.read(encoded)
        except (ValueError, OSError) as error:
            rejects.append((image.key, " ".join(str(error).split())))


def _write_classes(
    config: Staged, retriever: Retriever, classes: list[str], names: dict[str, str]
) -> set[str]:
    """Zero-shot: the classes' prompts are the rows of `origin`. Returns their keys."""
    assert retriever.towers is not None
    spoken = [prompts.spoken(names.get(each, each)) for each in classes]
    templates = prompts.templates(config.templates)
    key = files.fingerprint([retriever.made_by["origin"], spoken, templates])
    started = time.monotonic()
    folder = Path(config.run_dir) / "classes"
    vectors = class_embeddings(retriever.towers, spoken, templates, folder, config.batch_size)
    keys = [f"class/{each}" for each in classes]
    retriever.database.insert(retriever.collections["origin"], keys, classes, [key] * len(classes), vectors)
    print(
        f"staged build: prompts of {len(classes)} classes in {time.monotonic() - started:.1f} s", flush=True
    )
    return set(keys)
