"""COMMAND  guie staged: classification by nearest neighbours in a vector database, from shallow to deep.

guie staged build   CONFIG [KEY=VALUE …]           labelled images → vectors of every stage in the database
guie staged predict IMAGE … [--stage all]          class, neighbours, distance and time of each stage
guie staged perf    [--stage third --num 2 --batch-size 3 --display-freq 1 --time]   accuracy over the test set

Stages: `first` the pixels alone; `second` half the encoder; `third` nearly all of it; `origin` the whole encoder,
zero-shot where it has a text tower. `--stage all` queries them in sequence, `--stage cascade` stops at the first one
whose neighbours agree. Without a CONFIG, predict and perf read configs/staged_cifar10.yaml.
"""

from dataclasses import dataclass
from pathlib import Path

from pipeline.config import ImageTextModel
from pipeline.console import table
from pipeline.data.sources import check_shared_names, list_images
from pipeline.errors import BadInput
from pipeline.guards.masked import shown
from pipeline.staged import build, perf
from pipeline.staged.config import Staged
from pipeline.staged.retriever import Answer, Retriever, queried_stages
from pipeline.staged.stages import Batch, StagedEncoder
from pipeline.staged.vector_database import VectorDatabase
from tfrecords import pixels


@dataclass(frozen=True)
class Command:
    action: str
    config: Staged
    images: list[str]
    stage: str
    options: "perf.Options"


def main(command: Command) -> None:
    config = command.config
    check_shared_names(config.index, config.queries)
    for path in command.images:
        if not Path(path).is_file():
            raise BadInput(f"expected an image file, {path} does not exist")
    database = config.database or str(Path(config.run_dir) / "vectors.db")
    if command.action != "build" and "://" not in database and not Path(database).exists():
        raise BadInput(f"expected the vector database {shown(database)}: run `guie staged build` first")
    with VectorDatabase(database, config.token) as opened:
        model = ImageTextModel(config.encoder, config.vocabulary, config.text_architecture, seed=config.seed)
        encoder = StagedEncoder(model, config.taps, config.pixels_px, zero_shot=config.origin == "auto")
        retriever = Retriever(encoder, opened, config.collection, config.neighbours)
        layers = ", ".join(f"{stage} = {layer or 'output'}" for stage, layer in encoder.layers.items())
        print(f"staged {command.action}: {shown(config.encoder.name)}, {layers}; {opened.uri}", flush=True)
        if command.action == "build":
            build.build(config, retriever)
        elif command.action == "predict":
            predict(config, retriever, command.images, command.stage)
        else:
            retriever.open_collections(create=False)
            items, _ = list_images(config.queries, config.data_root)
            perf.measure(retriever, items, command.options, config.thresholds, Path(config.run_dir))


def predict(config: Staged, retriever: Retriever, paths: list[str], choice: str) -> None:
    """Prints what each stage says of each image."""
    stages = queried_stages(choice, config.thresholds)
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
        answers = retriever.answer_all(choice, Batch([image], [path]), config.thresholds)[0]
        print(f"\n{path}\n{describe(answers, retriever.encoder.stages['origin'].zero_shot)}")
        spent_ms = sum(answer.encode_ms + answer.query_ms for answer in answers)
        last = f"{path} → {answers[-1].class_name} ({answers[-1].stage}, {spent_ms:.1f} ms)"
    print(f"\nstaged predict: {len(paths)} image(s), the last: {last}")


def describe(answers: list[Answer], zero_shot: bool) -> str:
    """The answers to one image as a table, and under each its neighbours."""
    numbers = [(f"{a.agreement:.0%}", f"{a.distance:.3f}", f"{a.encode_ms:.1f}", f"{a.query_ms:.1f}") for a in answers]
    header, *rows = table(
        ["stage", "class", "agree", "distance", "encode ms", "query ms"],
        [[a.stage, a.class_name, *row] for a, row in zip(answers, numbers, strict=True)],
        left=2,
    ).split("\n")
    lines = [header]
    for answer, row in zip(answers, rows, strict=True):
        found = "classes" if answer.stage == "origin" and zero_shot else "neighbours"
        shown = "; ".join(f"{hit.class_name} {hit.distance:.3f} ({hit.key})" for hit in answer.neighbours[:5])
        lines += [row, f"        {found}: {shown}"]
    return "\n".join(lines)
