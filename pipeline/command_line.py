"""The dialect of every command, by Click: `CONFIG [KEY=VALUE …]`, words, and errors as one line and an exit code."""

import difflib
import functools
import inspect
import itertools
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from pipeline.errors import BadInput, Stopped
from pipeline.guards import machine
from pipeline.guards.masked import kept_off_screen
from pipeline.reading import expect_local

SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 110}
CONFIG_HELP = (
    "CONFIG is a YAML file or the name of a packaged one (guie configs); KEY=VALUE replaces one of its keys, dotted as "
    "in train.seed=1."
)


class Place(click.Path):
    """File, folder, glob or LAYOUT:ROOT: the shell completes it, the command checks it; only some may be a URL."""

    def __init__(self, urls: bool = False, overrides: bool = False):
        super().__init__()
        self.urls, self.overrides = urls, overrides  # overrides: KEY=VALUE may stand there, too, which `load` checks

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        overrides = self.overrides and "=" in value.partition("://")[0]
        if not self.urls and not overrides:
            expect_local(param.get_error_hint(ctx) if param and ctx else "path", value)
        return super().convert(value, param, ctx)


class Config(Place):
    """A config's file, or the name of a packaged one, which the shell completes."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from pipeline.config import packaged  # with OmegaConf, see `read_config`

        found = packaged.names() if incomplete else []
        names = [CompletionItem(name) for name in found if name.startswith(incomplete)]
        return names or super().shell_complete(ctx, param, incomplete)


PATH, PATH_OR_URL, WORD = Place(), Place(urls=True), Place(overrides=True)


CONFIG = Config()
BATCH_SIZE = click.option("--batch-size", type=int, default=64, help="Images embedded together.")
TRUST = click.option("--trust", is_flag=True, help="Load EMBEDDER although it reaches files, the network or Python.")


class Command(click.Command):
    """A command that refuses an option's name as the value of the option before it (`--out --index DATA`).

    The help of one that takes a config lists its most-used keys, see `shows_keys`.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        for each in self.params:
            if isinstance(each, click.Option) and each.default == "":
                each.show_default = False  # "" says nothing

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = [each for each in self.params if isinstance(each, click.Option)]
        known = {name for option in options for name in option.opts}
        flags = {name for option in options if option.is_flag for name in option.opts}
        for name, value in itertools.pairwise(itertools.takewhile(lambda word: word != "--", args)):
            if name in known - flags and value in known:
                raise click.UsageError(f"Option {name!r} requires an argument, got {value!r}.", ctx)
        return super().parse_args(ctx, args)

    @property
    def config_keys(self) -> tuple[str, str]:
        """The "module:dataclass" that the command's config is loaded into, and the keys that --help lists; else ""."""
        return getattr(self.callback, "config_keys", ("", ""))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        schema, shown = self.config_keys
        if schema:
            _write_keys(schema, shown, ctx, formatter)


def _write_keys(schema: str, shown: str, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    from pipeline.config import reference

    found = reference.selected(reference.rows(pkgutil.resolve_name(schema)), shown.split())
    of = "" if schema == reference.SCHEMAS["run"] else f" {ctx.info_name}"
    with formatter.section("Keys, with their defaults"):
        formatter.write_dl([(f"{row.key}={row.default}", row.said) for row in found], col_max=50)
        formatter.write_paragraph()
        formatter.write_text(f"N counts the entries of a list, from 0. All keys: guie config show{of}")


def shows_keys(schema: str, shown: str) -> Callable[[Callable], Callable]:
    """Gives a command's --help some of its config's keys: names, or SECTION. for all keys of a section."""

    def decorate(command: Callable) -> Callable:
        command.config_keys = (schema, shown)  # type: ignore[attr-defined]
        return command

    return decorate


def complete_keys(schema: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """What completes KEY=VALUE: the keys of a schema that begin so; a list's first entry stands for all."""

    def complete(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from pipeline.config import reference

        rows = reference.rows(pkgutil.resolve_name(schema)) if incomplete else []
        keys = [row.key.replace(".N.", ".0.") for row in rows if not row.section]
        return [CompletionItem(f"{key}=") for key in keys if key.startswith(incomplete)]

    return complete


class Group(click.Group):
    """Commands in titled sections, see `commands.SECTIONS`; an unknown command is answered with the nearest."""

    command_class = Command

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]] | None = None, **options: Any):
        super().__init__(*args, **options)
        self.sections = sections or {}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        listed = {name for names in self.sections.values() for name in names}
        titled = {**self.sections, "Commands": [name for name in self.commands if name not in listed]}
        width = max(map(len, self.commands), default=0)
        for title, names in titled.items():
            found = {name: self.commands[name] for name in names if name in self.commands}
            said = [each.get_short_help_str(formatter.width - width - 6) for each in found.values()]
            if found:
                with formatter.section(title):
                    formatter.write_dl([(name.ljust(width), text) for name, text in zip(found, said, strict=True)])

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if not args[0].startswith("-") and args[0] not in self.commands and not ctx.resilient_parsing:
            raise click.UsageError(f"No such command {args[0]!r}{nearest_said(args[0], self.commands)}.", ctx)
        return super().resolve_command(ctx, args)


class OneOf(click.Choice):
    """One of a few words; another one is answered with the nearest."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        *others, last = self.choices
        return f"expected {', '.join(others)} or {last}, got {value!r}{nearest_said(value, self.choices)}"


def nearest_said(word: str, known: Iterable[str]) -> str:
    """The nearest known words as the end of a message; "" where none is like it."""
    near = difflib.get_close_matches(word, known, n=2)
    return f"; nearest: {', '.join(near)}" if near else ""


def read_config(schema: str, path: str, overrides: Sequence[str]) -> Any:
    """`config.load` for a schema "module:dataclass", imported here with OmegaConf: no `--help` waits for them."""
    from pipeline.config import load

    return load(pkgutil.resolve_name(schema), path, list(overrides))


def takes_config(schema: str, shown: str = "") -> Callable[[Callable], Callable]:
    """Gives a command the words `CONFIG [KEY=VALUE …]`, and calls it with the config, see `read_config`.

    `shown`: the keys that its --help lists, see `shows_keys`.
    """

    def decorate(command: Callable) -> Callable:
        @shows_keys(schema, shown)
        @click.argument("path", metavar="CONFIG", type=CONFIG)
        @click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1, shell_complete=complete_keys(schema))
        @functools.wraps(command)
        def loading(path: str, overrides: tuple[str, ...], **options: Any) -> Any:
            return command(config=read_config(schema, path, overrides), **options)

        loading.__doc__ = f"{inspect.cleandoc(command.__doc__ or '')}\n\n{CONFIG_HELP}"
        return loading

    return decorate


@kept_off_screen
def run(command: click.Command, name: str, arguments: list[str]) -> int:
    """Parses the arguments and runs the command.

    Returns:
        0 done, 2 bad input or a machine that refuses (one line on stderr, see `guards.machine`), 75 asked to stop
        before it was done, 130 interrupted, 141 nobody reads stdout (`guie … | head -1`).
        A fault of guie's own raises (exit code 1).
    """
    context = None
    machine.watch_imports()
    try:
        # Click's own `main` would take an EOFError of a command for an interrupt.
        context = command.make_context(name, list(arguments))
        with context:
            command.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as ended:  # of --help and --version
        return ended.exit_code
    except click.exceptions.NoArgsIsHelpError as asked:  # a group alone, as `guie` alone
        click.echo(asked.format_message())
        return 2
    except click.ClickException as error:
        return _failed(2, name, context, f"{error.format_message()} (see --help)")
    except BadInput as error:
        return _failed(2, name, context, str(error))
    except Stopped as stopped:
        return _failed(75, name, context, f"{stopped}; the same command goes on from here")
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        what = f"{error.strerror}: {error.filename}"
        return _failed(2, name, context, f"{what}; choose another folder, or mend its rights")
    except KeyboardInterrupt:
        return _failed(130, name, context, "interrupted; the same command goes on from here")
    except BrokenPipeError:
        try:
            print(flush=True)  # fails again where it is stdout that nobody reads
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at Python's end
            return 141
        raise
    except Exception as error:
        said = machine.line(error)
        if said is None:
            raise
        return _failed(2, name, context, said)


def _failed(code: int, name: str, context: click.Context | None, message: str) -> int:
    """Prints one line, such as "guie train: …", and returns the exit code."""
    words = [name, context.invoked_subcommand if context else None]
    print(f"{' '.join(filter(None, words))}: {' '.join(message.split())}", file=sys.stderr)
    return code
