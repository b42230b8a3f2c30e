"""The commands that make or choose an embedder by several trainings, see `pipeline.commands`."""

from pathlib import Path
from typing import Any

import click

from pipeline.command_line import PATH, Command, takes_config
from pipeline.quiet import import_quietly


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
    module.main(module.Options(tuple(map(Path, runs)), Path(out), greedy))


@click.command(cls=Command)
@takes_config("pipeline.config:Run")
@click.pass_context
def sweep(context: click.Context, config: Any) -> None:
    """Searches for the recipe that scores best on folds.

    Trains each recipe without some classes of train.records, and without each source, and scores it on what was held
    out. The space is sweep.space; sweep.trials=1 measures the config as it is. What is done is not done again.

    \b
    Reads    <run_dir>/records/*-train-*.tfrec
    Writes   <run_dir>/sweep/: table.csv, sweep.png, best.yaml for guie run, study.db, trials/, baselines/
    Example  guie sweep configs/real_images.yaml sweep.trials=1 train.loss.margin_radians=0.2
    """
    module = import_quietly("pipeline.selection.sweep")
    module.main(module.Options(config, Path(context.params["path"]), context.params["overrides"]))
    import_quietly("pipeline.pages.sweep").main(config)


COMMANDS = (soup, sweep)
