"""The commands of the field's benchmarks, see `pipeline.commands`."""

import click

from pipeline.benchmarks.table import BENCHMARKS
from pipeline.command_line import BATCH_SIZE, PATH, PATH_OR_URL, TRUST, Command, OneOf
from pipeline.quiet import import_quietly


@click.command(cls=Command)
@click.argument("name", metavar="NAME", type=OneOf(tuple(BENCHMARKS)))
@click.argument("embedder", type=PATH_OR_URL)
@click.option("--root", metavar="DIR", type=PATH, required=True, help="The benchmark's folder, as published.")
@click.option("--domain", "domains", metavar="D", multiple=True, help="Of uned: only these; repeatable.")
@click.option("--out", metavar="DIR", type=PATH, default="", help="Default: runs/bench/NAME/<embedder>.")
@click.option("--weights", metavar="W", default="", help="Of an encoder by name, as encoder.weights of a run.")
@click.option("--image-size", "image_size_px", metavar="PX", type=click.IntRange(min=1), help="Of an encoder by name.")
@BATCH_SIZE
@TRUST
@click.option("--distractors", metavar="STORE|none", type=PATH, default="", help="Of ilias: a folder of their vectors.")
@click.option("--mini", is_flag=True, help="Of ilias: the 5M distractors of mini-ILIAS alone.")
@click.option("--export", metavar="PATH", type=PATH, default="", help="Write the vectors in the benchmark's format.")
def bench(name: str, **options) -> None:
    """Scores an embedder by a benchmark's own protocol.

    NAME is uned, ilias, gpr1200, sop, inshop, cars196, cub200, gldv2_retrieval, met, rp2k, food2k, inat2018 or oml.

    EMBEDDER is of any width: a SavedModel folder, submission.zip or Hub handle; an encoder's raw features, by a name
    of the catalogue with --weights, a FILE.keras or a run's config.yaml; or features that are there already, as
    guie bench left them in DIR/vectors, or in the benchmark's own format. A killed command goes on where it was.

    \b
    Reads    DIR: the images and lists of the benchmark, as published
    Writes   <out>/: bench.json, bench.html; vectors/ and search/, that a rerun goes on from; prints the tables
    Example  guie bench cub200 runs/demo/submission.zip --root CUB_200_2011
    """
    module = import_quietly("pipeline.benchmarks.command")
    module.main(module.Options(BENCHMARKS[name], **options))


@click.command(cls=Command)
@click.argument("train", metavar="TRAIN", type=PATH_OR_URL)
@click.option("--against", metavar="BENCH", type=PATH_OR_URL, multiple=True, required=True, help="DATA; repeatable.")
@click.option("--out", metavar="DIR", type=PATH, default="leaks", help="Folder to write; hashes are kept there.")
@click.option(
    "--embedder", type=PATH_OR_URL, default="", help="Look for near embeddings, too; a model as of guie bench."
)
@click.option("--weights", metavar="W", default="", help="Of an encoder by name, as encoder.weights of a run.")
@click.option("--image-size", "image_size_px", metavar="PX", type=click.IntRange(min=1), help="Of an encoder by name.")
@click.option("--distance", type=float, help="Of embeddings of one picture, 0 … 2; without it measured on copies.")
@BATCH_SIZE
@TRUST
@click.option("--bits", type=int, default=40, help="Of 256: in which perceptual hashes of one picture may differ.")
@click.option("--workers", type=int, default=0, help="Processes that hash; 0: one a core.")
def leaks(against: tuple[str, ...], **options) -> None:
    """Finds pictures of a benchmark in training data.

    By the bytes of the file, by its pixels, and by perceptual hash, of the picture and of its mirror image; with
    --embedder also by the distance of embeddings, which finds crops. TRAIN and BENCH are DATA: a folder of class
    folders, a glob of shards, or LAYOUT[,OPTION=VALUE,…]:ROOT. Exit code 3 where there are any.

    What to do with them: records.leave_out=DIR/leaks.csv builds records without the training images that it names. A
    row that is deleted there keeps its image.

    \b
    Reads    the images of TRAIN and of each BENCH
    Writes   DIR/: leaks.csv, leaks.html, rejects.csv; hashes/ and vectors/, that a rerun goes on from
    Example  guie leaks 'runs/demo/records/*-train-*.tfrec' --against uned,domain=cars,split=test:UnED
    """
    module = import_quietly("pipeline.leaks.command")
    if module.main(module.Options(against=against, **options)):
        raise click.exceptions.Exit(3)


COMMANDS = (bench, leaks)
