"""A YAML file and dotted overrides → a frozen dataclass. An unknown key, a wrong type or a value out of its range stops
the run. Types are OmegaConf's to check, ranges stand beside the keys (`keys.key`).
"""

import dataclasses
import difflib
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config import packaged, reference
from pipeline.config.keys import check
from pipeline.config.references import with_references, without_values
from pipeline.config.schema import Encoder
from pipeline.config.sidecar import completed
from pipeline.errors import BadInput, reason
from pipeline.guards.masked import shown

Schema = TypeVar("Schema")


def load(schema: type[Schema], path: str | Path, overrides: list[str] | None = None) -> Schema:
    """Reads a YAML file and `KEY=VALUE` overrides into `schema`, a frozen dataclass.

    `path` is a file, or the name of a packaged config. Raises BadInput: neither, not YAML, a key that `schema` lacks
    (the nearest are named), a value of the wrong type or out of its range, a required key left out, an override without
    `=` or whose value is not YAML.
    """
    path = packaged.find(path)
    given = _read(path, overrides or [])
    _refuse_other_kind(schema, given, path)
    _refuse_unknown_keys(schema, given, "", path)
    try:
        merged = OmegaConf.structured(schema)
        for node in _nodes(merged):
            OmegaConf.set_readonly(node, False)
        merged = OmegaConf.merge(merged, given)
        if "name" in merged and not merged.name:
            merged.name = path.stem
        if "run_dir" in merged and not merged.run_dir:
            merged.run_dir = "runs/${name}"
        config = with_references(OmegaConf.to_object(merged), merged)
    except (OmegaConfBaseException, TypeError) as error:  # TypeError: containers that cannot be merged
        where = getattr(error, "full_key", None)
        said = without_values(reason(error), given)
        if unset := re.search(r"Environment variable '(.*?)' not found", said):
            said = f"the environment variable {unset[1]} is not set: set it, or write ${{oc.env:{unset[1]},DEFAULT}}"
        raise BadInput(f"{path}: {f'key {where}: ' if where else ''}{said}") from None
    check(config, str(path))
    if isinstance(getattr(config, "encoder", None), Encoder):
        config = dataclasses.replace(config, encoder=completed(config.encoder))
    return typing.cast(Schema, config)


def given(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """What a YAML file and overrides set, as they say it; BadInput as `load`."""
    return typing.cast(dict, OmegaConf.to_container(_read(path, overrides), resolve=False))


def _read(path: Path, overrides: Sequence[str]) -> Any:
    try:
        given = OmegaConf.load(path)
    except Exception as error:  # PyYAML's errors share no base with OmegaConf's
        raise BadInput(f"{path} is not readable as YAML: {' '.join(str(error).split())}") from None
    if not OmegaConf.is_dict(given):
        raise BadInput(f"{path}: expected a mapping of keys at the top")
    for override in overrides:
        _override(given, override)
    return given


def to_yaml(config: Any) -> str:
    """The config as run, as YAML; what the environment gave stands there as its reference."""
    return OmegaConf.to_yaml(OmegaConf.create(shown(dataclasses.asdict(config))))


def resolve_data_path(path: str, data_root: str) -> Path:
    """A path of the config: absolute as it is, relative below `data_root`; BadInput where there is none."""
    if not Path(path).is_absolute() and not data_root:
        raise BadInput(f"{path!r} is relative to data_root, which is not set: set GUIE_DATA or data_root=FOLDER")
    return Path(data_root) / path


def set_key(given: Any, key: str, text: str) -> None:
    """Sets a dotted key of a DictConfig as `KEY=TEXT` on the command line does; a reference in it stays one."""
    parsed = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
    OmegaConf.update(given, key, typing.cast(dict, parsed)["value"])


def _override(given: Any, override: str) -> None:
    """Sets the key of one `KEY=VALUE` in `given`."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise BadInput(f"expected KEY=VALUE, got {override!r}")
    parts = key.split(".")
    try:
        for index, part in enumerate(parts):
            rows = OmegaConf.select(given, ".".join(parts[:index])) if index else {}
            if OmegaConf.is_list(rows) and part not in map(str, range(-len(rows), len(rows))):
                raise BadInput(f"{override}: {'.'.join(parts[:index])} has {len(rows)} entries, counted from 0")
        set_key(given, key, value)
    except yaml.MarkedYAMLError as error:
        raise BadInput(
            f"{override}: the value is not YAML ({error.problem}): put text with signs of YAML in quotes, {key}='\"…\"'"
        ) from None
    except IndexError:
        raise BadInput(f"{override}: expected a dotted key such as train.seed before the '='") from None
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise BadInput(f"{override}: {reason(error)}") from None


def _refuse_other_kind(schema: Any, given: Any, path: Path) -> None:
    """Raises BadInput where a packaged kind of config, but not `schema`, knows every key at the top."""
    if set(given) <= {each.name for each in dataclasses.fields(schema)}:
        return
    kind = reference.kind_of(given)
    known = reference.schema_of(kind)
    if known is not schema and set(given) <= {each.name for each in dataclasses.fields(known)}:
        raise BadInput(f"{path} is a config of `guie {kind}`, not of this command")


def _refuse_unknown_keys(schema: Any, given: Any, prefix: str, path: Path) -> None:
    if not OmegaConf.is_dict(given):
        return  # a wrong type: OmegaConf says so at the merge
    hints = typing.get_type_hints(schema)
    for key in given:
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=3, cutoff=0.5) or sorted(hints)
            raise BadInput(
                f"{path}: unknown key {prefix}{key}; nearest known: {', '.join(prefix + name for name in near)}"
            )
        hint, node = hints[key], dict(given.items_ex(resolve=False))[key]
        inner = typing.get_args(hint)
        if dataclasses.is_dataclass(hint):
            _refuse_unknown_keys(hint, given._get_node(key), f"{prefix}{key}.", path)
        elif typing.get_origin(hint) is list and OmegaConf.is_dict(node):
            raise BadInput(f"{path}: {prefix}{key}: expected a list, got the mapping {node}")
        elif inner and dataclasses.is_dataclass(inner[0]) and OmegaConf.is_list(node):
            for index, entry in enumerate(node):
                if not OmegaConf.is_dict(entry):
                    raise BadInput(f"{path}: {prefix}{key}.{index}: expected a mapping, got {entry!r}")
                _refuse_unknown_keys(inner[0], OmegaConf.create(entry), f"{prefix}{key}.{index}.", path)


def _nodes(node: Any) -> list[Any]:
    """A section and all sections below it."""
    children = (node._get_node(key) for key in node)
    return [node, *(each for child in children if OmegaConf.is_dict(child) for each in _nodes(child))]
