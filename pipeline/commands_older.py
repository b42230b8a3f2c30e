"""The commands of the four older systems, see `pipeline.commands`."""

import os
from collections.abc import Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem

from pipeline.command_line import PATH, WORD, Command, OneOf, read_config, takes_config
from pipeline.errors import BadInput
from pipeline.quiet import import_quietly

STEPS = ("data-prep", "evaluate")  # of zero-shot
STAGES = ("first", "second", "third", "origin", "all", "cascade")  # of staged
STAGED_CONFIG = "configs/staged_cifar10.yaml"


def _complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The steps that begin so, else files."""
    steps = [CompletionItem(step) for step in STEPS if incomplete and step.startswith(incomplete)]
    return steps or [CompletionItem(incomplete, type="file")]


@click.command("zero-shot", cls=Command)
@click.argument("words", metavar="[data-prep|evaluate] CONFIG [KEY=VALUE]...", nargs=-1, shell_complete=_complete)
def zero_shot(words: tuple[str, ...]) -> None:
    """Classifies images by class prompts, with CLIP or SigLIP.

    data-prep resizes and packs the images once for all models, evaluate classifies them; without either both run.

    \b
    Reads    images in a public layout, class names, prompt templates
    Writes   <run_dir>/zero_shot.json; for each model a CSV, a row a class, and a picture of the confusions
    Example  guie zero-shot evaluate configs/zero_shot_cub200.yaml first=200
    """
    step, words = (words[:1], words[1:]) if words and words[0] in STEPS else ((), words)
    if not words:
        raise click.UsageError("Missing argument 'CONFIG'.")
    overrides = [*words[1:], *(f"step={each}" for each in step)]
    loaded = read_config("pipeline.zero_shot.config:ZeroShot", words[0], overrides)
    import_quietly("pipeline.zero_shot.command").main(loaded)


@click.command(cls=Command)
@click.argument("action", type=OneOf(("build", "predict", "perf")))
@click.argument("words", metavar="[CONFIG] [IMAGE]... [KEY=VALUE]...", nargs=-1, type=WORD)
@click.option("--config", metavar="CONFIG", type=PATH, help=f"The YAML file (default {STAGED_CONFIG}).")
@click.option("--stage", type=OneOf(STAGES), default="all", help="Depth; cascade stops where neighbours agree.")
@click.option("--num", type=click.IntRange(min=0), default=0, help="perf: batches to test; 0: the whole set.")
@click.option("--batch-size", type=click.IntRange(min=0), default=0, help="perf: images a batch; 0: the config's.")
@click.option("--display-freq", type=click.IntRange(min=1), default=10, help="perf: batches between lines.")
@click.option("--time", is_flag=True, help="perf: encoder and query time apart.")
def staged(
    action: str, words: tuple[str, ...], config: str | None, stage: str, batch_size: int, **options: Any
) -> None:
    """Classifies by nearest neighbours, from shallow to deep.

    build fills the vector database of every stage, predict classifies images, perf gives the accuracy over the test
    set. Stages: first is pixels alone, second half the encoder, third nearly all of it, origin the whole.

    \b
    Reads    CONFIG (a word that ends in .yaml or .yml), its labelled images, the IMAGE files of predict
    Writes   <run_dir>/vectors.db (build), perf-<stage>.json, .csv and .html (perf)
    Example  guie staged predict IMAGE --stage all
    """
    configs = [word for word in words if word.endswith((".yaml", ".yml"))]
    overrides, images = _split(word for word in words if word not in configs)
    configs += [config] if config else []
    if len(configs) > 1:
        raise BadInput(f"expected one config, got {', '.join(configs)}")
    if images and action != "predict":
        raise BadInput(f"{action} takes a CONFIG and KEY=VALUE, got {images[0]!r}")
    if not images and action == "predict":
        raise BadInput("predict: expected the path of an image")
    loaded = read_config("pipeline.staged.config:Staged", (configs or [STAGED_CONFIG])[0], overrides)
    options |= {"stage": stage, "batch_size": batch_size or loaded.batch_size}
    tested = import_quietly("pipeline.staged.perf").Options(**options)
    module = import_quietly("pipeline.staged.command")
    module.main(module.Command(action, loaded, images, stage, tested))


@click.command(cls=Command)
@click.argument("action", type=OneOf(("train", "search")))
@click.argument("words", metavar="CONFIG [IMAGE]... [KEY=VALUE]...", nargs=-1, type=WORD)
def similar(action: str, words: tuple[str, ...]) -> None:
    """Finds the images most similar to one.

    train trains an embedder by triplets; search finds the nearest of the index for each IMAGE, or for each of the
    config's queries.

    \b
    Reads    CONFIG, its images, the IMAGE files of search
    Writes   <run_dir>/embedder.npz (train); similar.html, pictures, neighbours.csv, metrics.json (search)
    Example  guie similar search configs/similar_products10k.yaml IMAGE method=features
    """
    if not words or not words[0].endswith((".yaml", ".yml")):
        raise BadInput("expected a CONFIG, a YAML file such as configs/similar_cub200.yaml")
    overrides, images = _split(words[1:])
    if images and action == "train":
        raise BadInput(f"train takes a CONFIG and KEY=VALUE, got {images[0]!r}")
    loaded = read_config("pipeline.similar.config:Similar", words[0], overrides)
    module = import_quietly("pipeline.similar.command")
    module.main(module.Command(action, loaded, images))


@click.command(cls=Command)
@takes_config("pipeline.captions.config:Captions")
def captions(config: Any) -> None:
    """Measures how well images and captions fit.

    \b
    Reads    a CSV of images (paths or URLs) and captions
    Writes   <run_dir>/captions.csv (with similarity, or why there is none), summary.json, histogram.svg
    Example  guie captions configs/captions.yaml table=pairs.csv
    """
    import_quietly("pipeline.captions.command").main(config)


def _split(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """Words → (overrides, images); a word with "=" that is an existing path is an image."""
    parts: tuple[list[str], list[str]] = [], []
    for word in words:
        parts["=" not in word or os.path.exists(word)].append(word)
    return parts


COMMANDS = (zero_shot, staged, similar, captions)
