"""The commands of training: one, what it needs, several to choose from; see `pipeline.commands`."""

from pathlib import Path
from typing import Any

import click

from pipeline.command_line import CONFIG, PATH, Command, complete_keys, read_config, takes_config
from pipeline.errors import BadInput
from pipeline.guards.locks import locked
from pipeline.quiet import import_quietly

RUN = "pipeline.config:Run"


@click.command(cls=Command)
@click.argument("place", metavar="FOLDER|images.csv", type=PATH)
@click.option(
    "--encoder", metavar="NAME|FILE.keras", default="", help="Of the catalogue, or a Keras model of your own."
)
@click.option("--out", metavar="DIR", type=PATH, default="", help="Run folder to write; by default runs/<its name>.")
@click.option("--minutes", type=float, help="Planned for, at the speed measured; without it a quarter of an hour.")
@click.option("--redo", is_flag=True, help="Choose anew; remove records and checkpoints that are stale.")
def fit(**options: Any) -> None:
    """Makes an embedder of your own images: no config to write.

    Splits the images so that whole classes are left to test on, chooses a recipe for the encoder and the time, writes
    it as a config and runs it: records → training → export → score → report. The last line says whether its numbers
    beat the encoder's raw features. The same command goes on where it was stopped.

    A Keras file's mean and std stand in a JSON file of its name beside it, or are found out.

    \b
    Reads    FOLDER of class folders, also below train/, test/ or one folder a domain; or a CSV with path,label
    Writes   DIR/: fit.yaml, which guie run goes on from, and all that guie run writes
    Example  guie fit photos --encoder mobilenet.keras --minutes 5
    """
    module = import_quietly("pipeline.fitting.command")
    module.main(module.Options(**options))


@click.command(cls=Command)
@takes_config(
    RUN,
    "run_dir train.phases.N.trainable train.phases.N.epochs train.phases.N.batch_size train.phases.N.learning_rate "
    "train.loss.name train.loss.scale train.loss.margin_radians train.optimizer.name train.seed train.hours "
    "train.init_from devices.kind devices.precision",
)
def train(config: Any) -> None:
    """Trains the embedder on shards.

    Starts from the newest whole checkpoint of the run folder; else train.init_from; else the encoder's weights.

    \b
    Reads    <run_dir>/records/*.tfrec
    Writes   <run_dir>/checkpoints/step-*.safetensors, metrics.jsonl, tensorboard/
    Example  guie train demo train.seed=1
    """
    import_quietly("pipeline.training.train").main(config)


@click.command(cls=Command)
@takes_config(
    RUN,
    "encoder.name encoder.image_size_px train.phases.N.trainable train.phases.N.epochs train.phases.N.batch_size "
    "train.optimizer.accumulate_steps devices.kind devices.precision",
)
@click.option("--on", metavar="NAME", multiple=True, help="Accelerator: v5e-8, A100, 8xH100 …; may be repeated.")
@click.option("--share", type=float, default=0.35, help="Share of the peak FLOP/s that a step reaches.")
@click.option("--images", type=click.IntRange(min=1), help="Training images, where records are not built.")
@click.option("--classes", type=click.IntRange(min=1), help="Training classes, where records are not built.")
def plan(config: Any, on: tuple[str, ...], share: float, images: int | None, classes: int | None) -> None:
    """Estimates FLOPs, memory and hours of a training config.

    Nothing is built and nothing is downloaded.

    \b
    Reads    CONFIG, and <run_dir>/records/labels.json where it is built
    Writes   nothing; prints a table for every phase
    Example  guie plan vit_h14_arcface_tpu --share 0.3
    """
    if not 0 < share <= 1:  # click.FloatRange lets nan through
        raise BadInput(f"--share: expected a share of the peak, 0 … 1, got {share}")
    module = import_quietly("pipeline.planning.plan")
    module.main(module.Options(config, on, share, images, classes))


@click.command(cls=Command)
@click.argument("runs", metavar="RUN_DIR...", nargs=-1, required=True, type=PATH)
@click.option("--out", metavar="DIR", type=PATH, required=True, help="Run folder to write.")
@click.option("--greedy", is_flag=True, help="Leave out runs that lower the mean's mP@5 on validation records.")
def soup(runs: tuple[str, ...], out: str, greedy: bool) -> None:
    """Averages the weights of finished runs.

    The runs are of one architecture and started from the same weights; seeds and recipes may differ.

    \b
    Reads    RUN_DIR: config.yaml and checkpoints/; the validation records of the first
    Writes   DIR/config.yaml, DIR/checkpoints/step-*.safetensors; guie export DIR/config.yaml goes on from there
    Example  guie soup runs/a runs/b runs/c --out runs/soup --greedy
    """
    module = import_quietly("pipeline.selection.soup")
    with locked(Path(out)):
        module.main(module.Options(tuple(map(Path, runs)), Path(out), greedy))


@click.command(cls=Command)
@takes_config(RUN, "sweep.")
@click.pass_context
def sweep(context: click.Context, config: Any) -> None:
    """Searches for the recipe that scores best on folds.

    Trains each recipe without some classes of train.records, and without each source, and scores it on what was held
    out. The space is sweep.space; sweep.trials=1 measures the config as it is. What is done is not done again.

    \b
    Reads    <run_dir>/records/*-train-*.tfrec
    Writes   <run_dir>/sweep/: table.csv, sweep.png, best.yaml for guie run, study.db, trials/, baselines/
    Example  guie sweep real_images sweep.trials=1 train.loss.margin_radians=0.2
    """
    module = import_quietly("pipeline.selection.sweep")
    with locked(Path(config.run_dir)):
        module.main(module.Options(config, Path(context.params["path"]), context.params["overrides"]))
        import_quietly("pipeline.pages.sweep").main(config)


@click.command(cls=Command)
@click.argument("path", metavar="RUN", type=CONFIG)
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1, shell_complete=complete_keys(RUN))
def status(path: str, overrides: tuple[str, ...]) -> None:
    """Shows what of a run is done, stale or missing.

    RUN is a run folder, or the CONFIG of one; KEY=VALUE replaces one of its keys, dotted as in train.seed=1. A stage is
    stale where the config or a file that it was made of has changed since: guie run makes exports, scores and pages
    again by itself, records and checkpoints with --redo.

    \b
    Reads    RUN: config.yaml, and what the stages were made of
    Writes   nothing; prints a table
    Example  guie status runs/demo
    """
    folder = Path(path)
    if folder.is_dir():
        from pipeline.config import moved_to  # with OmegaConf, see `read_config`

        if not (folder / "config.yaml").is_file():
            raise BadInput(f"expected a run folder, {folder} holds no config.yaml: `guie run` writes it")
        overrides, path = (moved_to(folder), *overrides), str(folder / "config.yaml")
    config = read_config(RUN, path, overrides)
    import_quietly("pipeline.stages.status").main(config)


COMMANDS = (fit, train, plan, soup, sweep, status)
