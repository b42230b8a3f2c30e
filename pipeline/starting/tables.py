"""COMMANDS configs, config show: the packaged configs, and every key of a config, as tables."""

import pkgutil
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pipeline.config import loading, packaged, reference
from pipeline.console import table
from pipeline.errors import BadInput, nearest

LEAST_WIDTH = 60


def packaged_configs() -> str:
    """Name, command, data, weights, hardware and the first sentence of each packaged config."""
    rows = []
    for name in packaged.names():
        text = (packaged.folder("configs") / f"{name}.yaml").read_text(encoding="utf-8")
        head = packaged.head(text)
        rows.append([name, f"guie {head.command}", *needs(text), _short(head.title)])
    lines = table(["config", "command", "data", "weights", "hardware", "what it is"], rows, left=6, width=_width())
    example = "guie run demo; guie config show NAME lists a config's keys, guie new MINE --from NAME copies it"
    return f"{lines}\n\nA config is named where a command takes one: {example}."


def _short(title: str) -> str:
    """The first sentence, up to a colon where enough stands before it."""
    sentence = title.split(". ")[0].rstrip(".")
    before = sentence.split(": ")[0]
    return before if len(before) >= 20 else sentence


def needs(text: str) -> tuple[str, str, str]:
    """What a config's text asks for: folders below data_root, weights, hardware; "none" and "any" where nothing."""
    given = yaml.safe_load(re.sub(r"\$\{[^}]*\}", "", text))
    found = list(_values(given))
    folders = [str(value).split("/")[0] for key, value in found if key in ("root", "table", "images") and value]
    files = [str(value).rpartition("/")[2] for key, value in found if key == "name" and "keras_file:" in str(value)]
    presets = ["preset" for key, value in found if key == "weights" and value == "preset"]
    hardware = re.search(r"^# Hardware: ([^.,;(\n]+)", text, re.MULTILINE)
    listed = [", ".join(dict.fromkeys(each)) or "none" for each in (folders, [*files, *presets])]
    return listed[0], listed[1], hardware[1].strip() if hardware else "any"


def _values(given: Any) -> list[tuple[str, Any]]:
    """Every key of a nested config with its value, at any depth."""
    if isinstance(given, list):
        return [pair for each in given for pair in _values(each)]
    if not isinstance(given, dict):
        return []
    return [pair for key, each in given.items() for pair in ((key, each), *_values(each))]


def keys(what: str | None, overrides: Sequence[str], schemas: Mapping[str, str]) -> str:
    """The keys of a config's schema, see `reference.rows`.

    Args:
        what: a config, which may be a packaged one's name, or a command that takes one; None: `guie run`.
        schemas: command → "module:dataclass" of its config.

    Raises BadInput: neither a config nor a command, or a config that does not load.
    """
    if what is None or (what in schemas and not packaged.is_config(what)):
        if overrides:
            raise BadInput(f"expected a CONFIG before {overrides[0]!r}")
        found = reference.rows(pkgutil.resolve_name(schemas[what or "run"]))
        return _table(found, None)
    if not packaged.is_config(what):
        known = dict.fromkeys([*schemas, *packaged.names()])
        said = f"expected a config or a command that takes one, {what!r} is neither"
        raise BadInput(f"{said}; nearest: {nearest(what, known, most=3)}; `guie configs` lists configs")
    given = loading.given(packaged.find(what), overrides)
    schema = reference.schema_of(reference.kind_of(given))
    loading.load(schema, what, list(overrides))  # refuses what is wrong
    return _table(reference.rows(schema, given), packaged.find(what).stem)


def _table(found: Sequence[reference.Row], name: str | None) -> str:
    header = ["key", "default", *([name] if name else []), "what it is"]
    rows = []
    for row in found:
        kind = f"{row.type}: {row.allowed}" if row.allowed else row.type
        rows.append([row.key, row.default, *([row.value or ""] if name else []), f"{row.comment} [{kind}]"])
    return table(header, rows, left=len(header), width=_width())


def _width() -> int | None:
    """Of a terminal; None: a row is a line, for grep."""
    return max(LEAST_WIDTH, shutil.get_terminal_size().columns) if sys.stdout.isatty() else None
