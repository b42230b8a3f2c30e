"""Every command of `guie`, as Click declares it. A command imports its module when it is called: `--help` loads none.

Each docstring is the help text. The first sentence stands in `guie --help`; the test runs every example's parser.
"""

import re
from pathlib import Path
from typing import Any

import click

from pipeline import commands_older, commands_training
from pipeline.benchmarks import commands as benchmarks
from pipeline.command_line import BATCH_SIZE, PATH, PATH_OR_URL, SETTINGS, TRUST, Group, OneOf, takes_config
from pipeline.errors import BadInput
from pipeline.guards import interrupts
from pipeline.quiet import import_quietly
from pipeline.starting import commands as starting

RUN = "pipeline.config:Run"
SECTIONS = {  # of guie --help; a command in none of them stands under Commands
    "Start here": ("demo", "fit", "score", "embed", "browse", "compare"),
    "Configs": ("configs", "new", "config"),
    "A run and its stages": ("run", "tfrecords", "train", "export", "report", "status", "verify", "contact-sheet"),
    "Before and after training": ("plan", "sweep", "soup", "import-weights"),
    "Benchmarks": ("bench", "leaks"),
    "The competition": ("check", "submit"),
    "Older systems": ("zero-shot", "staged", "similar", "captions"),
}
EPILOG = """\b
Completion of commands, options, packaged configs, keys and files in the shell:
  bash  eval "$(_GUIE_COMPLETE=bash_source guie)"
  zsh   eval "$(_GUIE_COMPLETE=zsh_source guie)"
  fish  _GUIE_COMPLETE=fish_source guie | source
"""


def _version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if not asked or ctx.resilient_parsing:
        return
    from importlib import metadata  # slow to import

    try:
        version = metadata.version("guie")
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        setup = Path(__file__).parents[1] / "setup.py"
        version = re.findall(r'version="(.+)"', setup.read_text(encoding="utf-8"))[0]
    click.echo(f"guie {version}")
    ctx.exit()


@click.group(cls=Group, sections=SECTIONS, context_settings=SETTINGS, epilog=EPILOG)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def guie() -> None:
    """Universal image embeddings: images on disk → a trained, scored, submitted embedder."""


for each in starting.COMMANDS:
    guie.add_command(each)


@guie.command("run")
@takes_config(
    RUN,
    "run_dir data_root encoder.name encoder.weights train.phases.N.epochs train.phases.N.learning_rate train.loss.name "
    "train.seed seeds score.references devices.kind",
)
@click.option("--redo", is_flag=True, help="Remove records and checkpoints that are stale, and make them anew.")
def run_all(config: Any, redo: bool) -> None:
    """Runs tfrecords → train → export → score in one folder.

    What is done is not done again; a run that was killed goes on from there. Where the config or a file has changed
    since, exports, scores and pages are made again; records and checkpoints are refused, unless --redo is given.

    \b
    Reads    the images of records.sources
    Writes   <run_dir>/: records/, checkpoints/, export/, submission.zip, metrics.json, report.html
    Example  guie run demo train.seed=1 run_dir=runs/b
    """
    import_quietly("pipeline.run").main(config, redo=redo)


@guie.command()
@takes_config(
    RUN,
    "records.sources.N.layout records.sources.N.root records.split. records.cap_per_class records.min_per_class "
    "records.image_size_px records.near_duplicates records.workers",
)
def tfrecords(config: Any) -> None:
    """Turns images on disk into capped, verified shards.

    \b
    Reads    the images of records.sources
    Writes   <run_dir>/records/: *.tfrec with indexes, labels.json, rejects.csv, duplicates.csv, manifest.json
    Example  guie tfrecords real_images records.cap_per_class=50
    """
    import_quietly("pipeline.planning.config_checks").before_records(config)
    import_quietly("tfrecords.build").main(config)


@guie.command()
@click.argument("records", metavar="RECORDS_DIR", type=PATH)
@click.option("--workers", type=int, default=0, help="Processes; 0: one a core.")
def verify(records: str, workers: int) -> None:
    """Rereads every shard and checks it against the manifest.

    \b
    Reads    RECORDS_DIR: a run's records/, or any folder of .tfrec shards
    Writes   nothing; prints each problem with its shard and offset
    Example  guie verify runs/real_images/records
    """
    module = import_quietly("tfrecords.verify")
    module.main(module.Config(Path(records), workers))


@guie.command()
@click.argument("records", metavar="RECORDS_DIR", type=PATH)
@click.argument("out", metavar="OUT.jpg", type=PATH)
def contact_sheet(records: str, out: str) -> None:
    """Draws a picture of a records folder, a row a class.

    \b
    Reads    RECORDS_DIR: labels.json and the shards
    Writes   OUT.jpg
    Example  guie contact-sheet runs/demo/records sheet.jpg
    """
    module = import_quietly("tfrecords.contact_sheet")
    module.main(module.Config(Path(records), Path(out)))


for each in commands_training.COMMANDS:
    guie.add_command(each)


@guie.command()
@click.argument("words", metavar="CHECKPOINT|TAG", nargs=-1, type=PATH)
@click.option("--encoder", metavar="NAME", default="", help="Name in the catalogue, such as clip_vit_h_14.")
@click.option("--out", metavar="FILE", type=PATH, default="", help="File to write, .safetensors.")
@click.option("--parity", is_flag=True, help="Compare with open_clip on random weights instead; some minutes.")
@click.option("--images", metavar="FOLDER", type=PATH, default="", help="With --parity: JPEGs to compare on as well.")
def import_weights(words: tuple[str, ...], encoder: str, out: str, parity: bool, images: str) -> None:
    """Converts a torch checkpoint to KerasHub's names.

    A run then names the file: encoder: {name: NAME, weights: file:FILE}. With --parity the words are encoders to
    compare, by default the usual five.

    \b
    Reads    CHECKPOINT, a file of safetensors or torch; or TAG, fetched as open_clip does
    Writes   FILE; with --parity nothing
    Example  guie import-weights open_clip.safetensors --encoder clip_vit_h_14 --out vit_h14.safetensors
    """
    if not parity:
        if len(words) != 1 or not encoder or not out:
            raise click.UsageError("Expected one CHECKPOINT, --encoder NAME and --out FILE; or --parity.")
        if Path(out).suffix != ".safetensors":
            raise BadInput(f"--out: expected a .safetensors file, got {out}")
    module = import_quietly("pipeline.models.import_weights")
    module.main(module.Config("" if parity else words[0], encoder, out, words if parity else (), parity, images))


@guie.command()
@takes_config(RUN, "run_dir export.")
def export(config: Any) -> None:
    """Exports a checkpoint as SavedModel and submission.zip.

    \b
    Reads    <run_dir>/checkpoints/
    Writes   <run_dir>/export/saved_model/ and the other export.formats, submission.zip, model_card.md
    Example  guie export demo export.flip_average=true
    """
    import_quietly("export.saved_model").main(config)


SCORER = click.option(
    "--scorer",
    type=OneOf(("here", "kaggle")),
    default="here",
    help="kaggle: also in the competition's TensorFlow 2.6.4 or PyTorch 1.11.0, in an environment made once.",
)


@guie.command()
@click.argument("submissions", metavar="SUBMISSION...", nargs=-1, required=True, type=PATH)
@SCORER
@click.option("--images", type=int, default=20, help="Images that are timed.")
@click.option("--budget-hours", type=float, default=9.0, help="Budget for 205,000 images.")
@click.option(
    "--max-seconds-per-image",
    type=float,
    help="Fail above this; without it a CPU's time is a warning, for the scorer has a GPU.",
)
@click.option("--memory-gb", type=float, default=13.0, help="Fail above this peak.")
@click.option("--timeout-seconds", type=float, default=3600.0, help="Limit of the whole check.")
@click.option("--out", metavar="FILE", type=PATH, default="", help="Write the report as JSON.")
def check(**options: Any) -> None:
    """Checks submissions against the competition's contract.

    Exit code 2 where one is refused.

    \b
    Reads    SUBMISSION: submission.zip or a SavedModel folder
    Writes   nothing, or FILE; prints a table for every submission
    Example  guie check runs/demo/submission.zip --scorer kaggle
    """
    module = import_quietly("export.check")
    module.main(module.CheckConfig(**options))


@guie.command()
@takes_config(RUN, "run_dir submit.")
@click.option("--dry-run", is_flag=True, help="Show every call, make none.")
@SCORER
def submit(config: Any, dry_run: bool, scorer: str) -> None:
    """Packages, checks, uploads, and waits for the score.

    Signs in as the kaggle client does: KAGGLE_API_TOKEN, or ~/.kaggle/kaggle.json.

    \b
    Reads    <run_dir>/submission.zip
    Writes   <run_dir>/submit/; on Kaggle versions of submit.dataset and submit.kernel, and a submission
    Example  guie submit demo submit.user=ME --dry-run
    """
    module = import_quietly("export.submit")
    module.main(module.SubmitConfig(config, dry_run, scorer))


@guie.command()
@click.argument("embedder", type=PATH_OR_URL)
@click.option("--index", metavar="DATA", type=PATH_OR_URL, multiple=True, help="Images to search in; repeatable.")
@click.option("--queries", metavar="DATA", type=PATH_OR_URL, multiple=True, help="In the order of --index; repeatable.")
@click.option("--out", metavar="FILE", type=PATH, default="", help="Write the scores, metrics.json.")
@BATCH_SIZE
@TRUST
@click.option("--solution", metavar="FILE", type=PATH, default="", help="Competition's CSV: id, index ids, Usage.")
def score(index: tuple[str, ...], queries: tuple[str, ...], **options: Any) -> None:
    """Scores an embedder: mean Precision@5.

    Without --queries every image queries all others. Several --index merge into one index; the table then gives each
    domain and the whole. DATA is a folder of class folders, a glob of shards, or LAYOUT[,OPTION=VALUE,…]:ROOT.

    \b
    Reads    EMBEDDER: SavedModel folder, submission.zip or Hub handle; with --solution, embeddings
    Writes   FILE; prints a table
    Example  guie score runs/demo/submission.zip --index FOLDER --out metrics.json
    """
    module = import_quietly("pipeline.evaluation.score")
    module.main(module.Options(index=list(index), queries=list(queries), **options))


@guie.command()
@click.argument("embedder", type=PATH_OR_URL)
@click.argument("data", type=PATH_OR_URL)
@click.option("--out", metavar="DIR", type=PATH, required=True, help="Folder to write.")
@BATCH_SIZE
@TRUST
@click.option("--any-width", is_flag=True, help="Take EMBEDDER of more than the competition's 64 numbers, too.")
@click.option("--dtype", type=OneOf(("float32", "float16", "int8")), default="float32", help="int8: with --store.")
@click.option("--store", is_flag=True, help="Leave the vectors in chunks of some thousand, for 100 million images.")
@click.option("--runner", type=OneOf(("here", "beam")), default="here", help="beam: Apache Beam, on several machines.")
@click.option("--beam-options", metavar="WORDS", default="", help='Beam\'s own, such as "--runner=FlinkRunner".')
def embed(**options: Any) -> None:
    """Embeds images.

    A killed command goes on where it was; nothing is embedded twice.

    \b
    Reads    EMBEDDER: SavedModel folder, submission.zip or Hub handle
             DATA: folder of class folders, glob of shards, or LAYOUT[,OPTION=VALUE,…]:ROOT
    Writes   DIR/embeddings.npy (float32 [N, 64]), items.csv (key,source,class), rejects.csv; or with --store
             DIR/vectors-NNNNN.npy, items-NNNNN.csv, store.json, rejects.csv
    Example  guie embed runs/demo/submission.zip FOLDER --out vectors
    """
    module = import_quietly("pipeline.evaluation.embedding.command")
    module.main(module.Options(**options))


for each in (*benchmarks.COMMANDS, *commands_older.COMMANDS):
    guie.add_command(each)


@guie.command()
@click.argument("vectors", metavar="RUN|VECTORS_DIR", type=PATH)
@click.argument("data", metavar="[DATA]", required=False, default="", type=PATH_OR_URL)
@click.option("--beside", metavar="FOLDER", type=PATH, default="", help="RUN or VECTORS_DIR by another embedder.")
@click.option("--embedder", type=PATH_OR_URL, default="", help="Embeds pictures that are dropped; RUN has its own.")
@TRUST
@click.option("--text", metavar="ENCODER", default="", help="Search by words, too, with this CLIP or SigLIP.")
@click.option("--text-weights", metavar="WEIGHTS", default="preset", help="Its weights, as encoder.weights of a run.")
@click.option("--host", default="127.0.0.1", help="0.0.0.0: for the network.")
@click.option("--port", type=int, default=8000, help="0 takes a free one.")
def browse(vectors: str, **options: Any) -> None:
    """Shows embedded images and their nearest, a local page.

    The grid by class, most wrong first, outliers, near-duplicates, a map with a lasso; each image with its neighbours.

    \b
    Reads    RUN: the folder of a run that was scored; or
             VECTORS_DIR, as guie embed --out wrote it, and DATA, as guie embed was given it
    Writes   nothing, with --text what it makes of the images, text_vectors/; serves a page until Ctrl-C
    Example  guie browse runs/demo
             guie browse vectors FOLDER --port 8001
    """
    module = import_quietly("pipeline.browsing.command")
    interrupts.left_to_the_command()
    module.main(module.Options(Path(vectors), **options))


@guie.command()
@click.argument("runs", metavar="RUN RUN...", nargs=-1, required=True, type=PATH)
@click.option("--out", metavar="FILE", type=PATH, default="", help="Page to write, such as compare.html.")
def compare(runs: tuple[str, ...], out: str) -> None:
    """Compares finished runs, each with the first.

    Where two scored the same queries, the difference is taken query by query; the page shows those that changed most.

    \b
    Reads    RUN: metrics.json, precisions.npz, scored/, config.yaml
    Writes   nothing, or FILE, which needs no other file; prints a table
    Example  guie compare runs/a runs/b --out compare.html
    """
    module = import_quietly("pipeline.pages.compare")
    module.main(module.Options(tuple(map(Path, runs)), Path(out) if out else None))


@guie.command()
@takes_config(RUN, "name run_dir")
def report(config: Any) -> None:
    """Writes a run folder as one HTML page.

    \b
    Reads    <run_dir>/metrics.json, scored/ and its images, records/, metrics.jsonl, stages.jsonl, contact_sheet.jpg
    Writes   <run_dir>/report.html, which needs no other file
    Example  guie report demo
    """
    import_quietly("pipeline.pages.report").main(config)
