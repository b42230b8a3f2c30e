"""The commands to start with, see `pipeline.commands`."""

from pathlib import Path

import click

from pipeline.command_line import CONFIG, PATH, Command, Group, complete_keys, read_config
from pipeline.quiet import import_quietly

RUN = "pipeline.config:Run"


@click.command(cls=Command)
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1, shell_complete=complete_keys(RUN))
@click.option("--redo", is_flag=True, help="Remove records and checkpoints that are stale, and make them anew.")
def demo(overrides: tuple[str, ...], redo: bool) -> None:
    """Trains and scores an embedder on drawn images, in minutes.

    As guie run demo, in the current folder: nothing is downloaded, two CPU cores take some minutes.

    \b
    Reads    nothing: the images are drawn
    Writes   runs/demo/: records/, checkpoints/, export/, submission.zip, metrics.json, report.html
    Example  guie demo run_dir=runs/first
    """
    config = read_config(RUN, "demo", overrides)
    import_quietly("pipeline.run").main(config, redo=redo)
    import_quietly("pipeline.starting.next_steps").after_demo(config)


@click.command(cls=Command)
def configs() -> None:
    """Lists the packaged configs and what they need.

    \b
    Reads    nothing
    Writes   nothing; prints a table: name, command, data below GUIE_DATA, weights, hardware
    Example  guie configs
    """
    click.echo(import_quietly("pipeline.starting.tables").packaged_configs())


@click.command(cls=Command)
@click.argument("name", metavar="NAME", type=PATH)
@click.option("--from", "source", metavar="CONFIG", type=CONFIG, help="Copy this config, a file or a packaged one.")
def new(name: str, source: str | None) -> None:
    """Writes a short config to start from.

    Without --from it is for a folder of class folders of your own and a small pretrained encoder; its first lines say
    what to set.

    \b
    Reads    nothing, or CONFIG
    Writes   NAME.yaml; a file that exists is left as it is
    Example  guie new birds
    """
    path = import_quietly("pipeline.starting.new_config").write(Path(name), source)
    click.echo(f"new: {path}; set what its head names, then: guie run {path}")


@click.group(cls=Group)
def config() -> None:
    """Shows every config key with its default.

    \b
    Reads    what its subcommand reads
    Writes   nothing; prints a table
    Example  guie config show demo
    """


@config.command()
@click.argument("what", metavar="[CONFIG|COMMAND]", required=False, type=CONFIG)
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1, shell_complete=complete_keys(RUN))
@click.pass_context
def show(context: click.Context, what: str | None, overrides: tuple[str, ...]) -> None:
    """Shows every key: type, default, range and what it is.

    With a CONFIG the values that it sets stand beside the defaults; of a COMMAND the keys of its config are shown;
    without either those of guie run.

    \b
    Reads    CONFIG, a YAML file or a packaged one
    Writes   nothing; prints a table, a row a key; N counts the entries of a list, from 0
    Example  guie config show demo train.seed=1
    """
    commands = getattr(context.find_root().command, "commands", {})
    schemas = {name: each.config_keys[0] for name, each in commands.items() if isinstance(each, Command)}
    schemas = {name: schema for name, schema in schemas.items() if schema}
    click.echo(import_quietly("pipeline.starting.tables").keys(what, overrides, schemas))


COMMANDS = (demo, configs, new, config)
