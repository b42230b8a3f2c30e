"""The commands of the four older systems, see `pipeline.commands`."""

import os
from collections.abc import Callable, Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem

from pipeline.command_line import (
    CONFIG,
    WORD,
    Command,
    OneOf,
    complete_keys,
    nearest_said,
    read_config,
    shows_keys,
    takes_config,
)
from pipeline.errors import BadInput
from pipeline.quiet import import_quietly

STEPS = ("data-prep", "evaluate")  # of zero-shot
STAGES = ("first", "second", "third", "origin", "all", "cascade")  # of staged
STAGED_CONFIG = "staged_cifar10"
ZERO_SHOT, STAGED = "pipeline.zero_shot.config:ZeroShot", "pipeline.staged.config:Staged"
SIMILAR = "pipeline.similar.config:Similar"


def _complete(schema: str, *first: str) -> Callable[..., list[CompletionItem]]:
    """The words `first` that begin so, else the schema's keys, else packaged configs, else files."""
    keys = complete_keys(schema)

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        words = [CompletionItem(word) for word in first if incomplete and word.startswith(incomplete)]
        return words or keys(ctx, param, incomplete) or CONFIG.shell_complete(ctx, param, incomplete)

    return complete


@click.command("zero-shot", cls=Command)
@shows_keys(
    ZERO_SHOT,
    "run_dir data_root source.layout source.root models.N.encoder.name models.N.encoder.weights templates first",
)
@click.argument(
    "words", metavar="[data-prep|evaluate] CONFIG [KEY=VALUE]...", nargs=-1, shell_complete=_complete(ZERO_SHOT, *STEPS)
)
def zero_shot(words: tuple[str, ...]) -> None:
    """Classifies images by class prompts, with CLIP or SigLIP.

    data-prep resizes and packs the images once for all models, evaluate classifies them; without either both run.

    \b
    Reads    images in a public layout, class names, prompt templates
    Writes   <run_dir>/zero_shot.json; for each model a CSV, a row a class, and a picture of the confusions
    Example  guie zero-shot evaluate zero_shot_cub200 first=200
    """
    step, words = (words[:1], words[1:]) if words and words[0] in STEPS else ((), words)
    if not words:
        raise click.UsageError("Missing argument 'CONFIG'.")
    if not step and "." not in words[0] and (near := nearest_said(words[0], STEPS)) and not os.path.exists(words[0]):
        raise BadInput(f"no step {words[0]!r}{near}")
    overrides = [*words[1:], *(f"step={each}" for each in step)]
    loaded = read_config(ZERO_SHOT, words[0], overrides)
    import_quietly("pipeline.zero_shot.command").main(loaded)


@click.command(cls=Command)
@click.argument("action", type=OneOf(("build", "predict", "perf")))
@shows_keys(STAGED, "run_dir data_root encoder.name encoder.weights neighbours thresholds database batch_size")
@click.argument(
    "words", metavar="[CONFIG] [IMAGE]... [KEY=VALUE]...", nargs=-1, type=WORD, shell_complete=_complete(STAGED)
)
@click.option("--config", metavar="CONFIG", type=CONFIG, help=f"As the word CONFIG (default {STAGED_CONFIG}).")
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
    Reads    CONFIG (ends in .yaml or .yml, or is a packaged one's name), its labelled images, the IMAGE files
    Writes   <run_dir>/vectors.db (build), perf-<stage>.json, .csv and .html (perf)
    Example  guie staged predict IMAGE --stage all
    """
    from pipeline.config import packaged  # with OmegaConf, see `read_config`

    configs = [word for word in words if packaged.is_config(word)]
    overrides, images = _split(word for word in words if word not in configs)
    configs += [config] if config else []
    if len(configs) > 1:
        raise BadInput(f"expected one config, got {', '.join(configs)}")
    if images and action != "predict":
        raise BadInput(f"{action} takes a CONFIG and KEY=VALUE, got {images[0]!r}")
    if not images and action == "predict":
        raise BadInput("predict: expected the path of an image")
    loaded = read_config(STAGED, (configs or [STAGED_CONFIG])[0], overrides)
    options |= {"stage": stage, "batch_size": batch_size or loaded.batch_size}
    tested = import_quietly("pipeline.staged.perf").Options(**options)
    module = import_quietly("pipeline.staged.command")
    module.main(module.Command(action, loaded, images, stage, tested))


@click.command(cls=Command)
@click.argument("action", type=OneOf(("train", "search")))
@shows_keys(
    SIMILAR, "run_dir data_root encoder.name encoder.weights method neighbours classifier.name crop.detector pictures"
)
@click.argument(
    "words", metavar="CONFIG [IMAGE]... [KEY=VALUE]...", nargs=-1, type=WORD, shell_complete=_complete(SIMILAR)
)
def similar(action: str, words: tuple[str, ...]) -> None:
    """Finds the images most similar to one.

    train trains an embedder by triplets; search finds the nearest of the index for each IMAGE, or for each of the
    config's queries.

    \b
    Reads    CONFIG, its images, the IMAGE files of search
    Writes   <run_dir>/embedder.npz (train); similar.html, pictures, neighbours.csv, metrics.json (search)
    Example  guie similar search similar_products10k IMAGE method=features
    """
    from pipeline.config import packaged

    if not words or not packaged.is_config(words[0]):
        near = nearest_said(words[0], packaged.names()) if words else ""
        raise BadInput(f"expected a CONFIG first, a YAML file or a packaged one such as similar_cub200{near}")
    overrides, images = _split(words[1:])
    if images and action == "train":
        raise BadInput(f"train takes a CONFIG and KEY=VALUE, got {images[0]!r}")
    loaded = read_config(SIMILAR, words[0], overrides)
    module = import_quietly("pipeline.similar.command")
    module.main(module.Command(action, loaded, images))


@click.command(cls=Command)
@takes_config(
    "pipeline.captions.config:Captions",
    "run_dir table images format.image_column format.caption_column model.encoder.name model.encoder.weights "
    "fetch.concurrency",
)
def captions(config: Any) -> None:
    """Measures how well images and captions fit.

    \b
    Reads    a CSV of images (paths or URLs) and captions
    Writes   <run_dir>/captions.csv (with similarity, or why there is none), summary.json, histogram.svg
    Example  guie captions captions table=pairs.csv
    """
    import_quietly("pipeline.captions.command").main(config)


def _split(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """Words → (overrides, images); a word with "=" that is an existing path is an image."""
    parts: tuple[list[str], list[str]] = [], []
    for word in words:
        parts["=" not in word or os.path.exists(word)].append(word)
    return parts


COMMANDS = (zero_shot, staged, similar, captions)
