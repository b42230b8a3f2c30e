"""Every key of a config as rows: name, type, default, range and comment, as they stand in the dataclasses' source.

`guie config show`, the keys of each command's --help, the completion of KEY= and docs/config.md are made of them.
"""

import ast
import dataclasses
import inspect
import io
import json
import pkgutil
import re
import sys
import tokenize
import typing
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import yaml

from pipeline.config.keys import RANGE, SECRET
from pipeline.guards.masked import without_passwords

SCHEMAS = {  # what a config is of → its dataclass, "module:name"; the older systems' stand on higher floors
    "run": "pipeline.config:Run",
    "zero-shot": "pipeline.zero_shot.config:ZeroShot",
    "staged": "pipeline.staged.config:Staged",
    "similar": "pipeline.similar.config:Similar",
    "captions": "pipeline.captions.config:Captions",
}
REQUIRED = "???"  # OmegaConf's MISSING


@dataclasses.dataclass(frozen=True)
class Row:
    """A key, or a section of keys."""

    key: str  # dotted as on the command line; N stands for an entry of a list, counted from 0
    type: str  # as annotated, with null for None; "section" or "list of sections" where keys stand below it
    default: str  # as YAML; "required" where there is none; "" of a section
    allowed: str  # the range or the choices; "" where the type says it all
    comment: str
    value: str | None = None  # what a config sets; None: it leaves the default
    section: str = ""  # name of the dataclass whose keys stand below; "" of a key

    @property
    def said(self) -> str:
        return f"{self.comment} ({self.allowed})" if self.allowed else self.comment


def schema_of(name: str) -> Any:
    """The dataclass of one of SCHEMAS."""
    return pkgutil.resolve_name(SCHEMAS[name])


def rows(schema: Any, values: Any = None, prefix: str = "") -> list[Row]:
    """The rows of a dataclass in the order of the source, its own keys before its sections.

    Args:
        values: what a config sets, nested as its YAML; each entry of a list of sections then has rows of its own.
        prefix: stands before each key, with its dot.
    """
    hints = typing.get_type_hints(schema)
    fields = sorted(dataclasses.fields(schema), key=lambda each: _section(hints[each.name])[1] is not None)
    return [row for each in fields for row in _rows_of(schema, each, values, prefix)]


def kind_of(given: Any) -> str:
    """The kind of config, a name in SCHEMAS, that knows most of the keys at a config's top."""

    def unknown(name: str) -> int:
        return len(set(given) - {each.name for each in dataclasses.fields(schema_of(name))})

    return min(SCHEMAS, key=unknown)


def selected(found: list[Row], names: Sequence[str]) -> list[Row]:
    """The rows of some keys, in the order of `names`; SECTION. stands for the keys right below a section."""
    keys = [row for row in found if not row.section]
    return [row for name in names for row in keys if name in (row.key, row.key.rpartition(".")[0] + ".")]


def _rows_of(schema: Any, each: dataclasses.Field, values: Any, prefix: str) -> Iterator[Row]:
    annotation, comment = described(schema)[each.name]
    name, kind = f"{prefix}{each.name}", annotation.replace("None", "null").replace(" | ", " or ")
    given = values.get(each.name) if isinstance(values, dict) else None
    is_list, inner = _section(typing.get_type_hints(schema)[each.name])
    default = _default(each)
    allowed = str(each.metadata.get(RANGE, ""))
    if inner is None or (default is None and given is None):
        if isinstance(values, dict) and each.name in values:
            yield Row(name, kind, _yaml(default), allowed, comment, _shown(each, given))
        else:
            yield Row(name, kind, _yaml(default), allowed, comment)
        return
    comment = comment or summary(inner)
    if not is_list:
        yield Row(name, "section", "", "", comment, section=inner.__name__)
        yield from rows(inner, given, f"{name}.")
        return
    count = None if given is None else f"{len(given)} {'entry' if len(given) == 1 else 'entries'}"
    yield Row(name, "list of sections", _yaml(default), "", comment, count, inner.__name__)
    for number, entry in enumerate(given) if given else [("N", None)]:
        yield from rows(inner, entry, f"{name}.{number}.")


def _section(hint: Any) -> tuple[bool, Any]:
    """Whether a key holds a list of sections, and the dataclass of a section; None where it holds plain values."""
    found = [each for each in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(each)]
    return typing.get_origin(hint) is list, found[0] if found else None


def _default(each: dataclasses.Field) -> Any:
    if each.default_factory is not dataclasses.MISSING:
        return each.default_factory()
    return each.default


def _yaml(value: Any) -> str:
    """A value as YAML on one line."""
    if value == REQUIRED:
        return "required"
    if isinstance(value, str) and _is_plain(value):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _is_plain(text: str) -> bool:
    """Whether YAML reads a text as itself."""
    try:
        return yaml.safe_load(text) == text
    except yaml.YAMLError:
        return False


def _shown(each: dataclasses.Field, value: Any) -> str:
    """A value that a config sets; no password and no token."""
    text = str(each.default) if each.metadata.get(SECRET) and value else _yaml(value)
    return without_passwords(text)


def summary(schema: Any) -> str:
    """What a section is, the first paragraph of its docstring."""
    return " ".join(inspect.cleandoc(schema.__doc__ or "").split("\n\n")[0].split())


def described(schema: Any) -> dict[str, tuple[str, str]]:
    """Each field's annotation and comment, by name: the comment beside it, else the lines of comment above it."""
    own = [each for each in reversed(schema.__mro__) if each is not object]  # what it inherits comes first
    return {key: said for each in own for key, said in _described(each.__module__)[each.__name__].items()}


@cache
def _described(module: str) -> dict[str, dict[str, tuple[str, str]]]:
    """The fields of each class of a module, see `described`."""
    source = inspect.getsource(sys.modules[module])
    found = [each for each in tokenize.generate_tokens(io.StringIO(source).readline) if each.type == tokenize.COMMENT]
    comments = {each.start[0]: each.string.lstrip("# ").strip() for each in found}
    alone = {each.start[0] for each in found if each.line.lstrip().startswith("#")}
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    return {each.name: dict(_fields(each, comments, alone)) for each in classes}


def _fields(node: ast.ClassDef, comments: dict[int, str], alone: set[int]) -> Iterator[tuple[str, tuple[str, str]]]:
    """The fields of a class; `comments` by line, `alone` the lines that hold nothing else."""
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            first = each.lineno
            while first - 1 in alone:
                first -= 1
            above = [comments[line] for line in range(first, each.lineno)]
            beside = [comments[line] for line in range(each.lineno, (each.end_lineno or 0) + 1) if line in comments]
            said = re.sub(r"\bNone\b", "null", " ".join(beside or above))
            yield each.target.id, (ast.unparse(each.annotation), said)


def markdown() -> str:
    """The keys of every kind of config as Markdown, a heading a kind and a section: docs/config.md is this text.

    A section that several kinds share has its keys listed where it stands first.
    """
    listed: dict[str, str] = {}  # a section's dataclass → its first key
    return "\n".join(line for name in SCHEMAS for line in _page(name, listed))


def _page(name: str, listed: dict[str, str]) -> Iterator[str]:
    schema, hidden = schema_of(name), None
    head = ("", "| key | type | default | what it is |", "|---|---|---|---|")
    yield from (f"## `guie {name}`", "", summary(schema), *head)
    for row in rows(schema):
        if hidden and row.key.startswith(f"{hidden}."):
            continue
        hidden = None
        if row.section:
            first = listed.setdefault(row.section, row.key)
            hidden = row.key if first != row.key else None
            keys = ("", f"Its keys are those of `{first}`.") if hidden else head
            yield from ("", f"### `{row.key}`", "", row.comment, *keys)
            continue
        kind = f"{row.type}: {row.allowed}" if row.allowed else row.type
        default = row.default if row.default == "required" else f"`{row.default}`"
        cells = (f"`{row.key}`", kind, default, row.comment)
        yield f"| {' | '.join(map(_cell, cells))} |"
    yield ""


def _cell(text: str) -> str:
    """A table's cell; what is not code holds no HTML."""
    parts = text.replace("|", "\\|").split("`")
    return "`".join(part if number % 2 else part.replace("<", "&lt;") for number, part in enumerate(parts))
