"""`${oc.env:NAME}` in a config stays a reference wherever the config is written: its values become `Masked`."""

import dataclasses
import os
import re
import sys
from functools import cache
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.keys import SECRET
from pipeline.errors import BadInput
from pipeline.guards.masked import SHORTEST, Masked, without_passwords

_RESOLVER = re.compile(r"(?<!\\)\$\{\s*oc\.")  # oc.env, and what may stand around it


def with_references(config: Any, merged: Any) -> Any:
    """The config with `Masked` for each text that holds a value of the environment, a password or a token.

    Texts alone: a number or a boolean that the environment gave is written as it is. Raises BadInput: a list or a
    mapping that the environment gave.

    Args:
        config: dataclass, made from `merged`.
        merged: the DictConfig, its interpolations unresolved.
    """
    raw = OmegaConf.to_container(merged, resolve=False)
    # Other keys' values are filled in, the environment's are not: `${data_root}/x` → `${oc.env:GUIE_DATA}/x`.
    kept = OmegaConf.to_container(OmegaConf.create(_escaped(raw)), resolve=True)
    return _masked(config, raw, kept, "")


def without_values(text: str, given: Any) -> str:
    """A message about a config without the values of the variables that it names."""
    for name in re.findall(r"oc\.env\s*:\s*([^,}\s]+)", OmegaConf.to_yaml(given)):
        if len(value := os.environ.get(name, "")) >= SHORTEST:
            text = text.replace(value, f"${{oc.env:{name}}}")
    return text


def _masked(value: Any, raw: Any, kept: Any, path: str) -> Any:
    """`value` with its texts masked; `raw` and `kept` are the same part of the config, see `with_references`."""

    def inner(key: Any, each: Any) -> Any:
        return _masked(each, raw[key] if isinstance(raw, dict | list) else raw, kept[key], f"{path}{key}.")

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {each.name: each for each in dataclasses.fields(value)}
        found = {name: inner(name, getattr(value, name)) for name in fields}
        for name, text in found.items():
            if text and fields[name].metadata.get(SECRET) and not isinstance(text, Masked):
                default = str(fields[name].default)
                _warn(f"{path}{name} is given as text: it is written as {default}; set that variable instead")
                found[name] = Masked(text, default)
        return dataclasses.replace(value, **found)
    if isinstance(value, dict | list):
        if isinstance(kept, str):
            raise BadInput(f"{path[:-1]}: expected its entries written out, with ${{oc.env:NAME}} as texts; got {kept}")
        if isinstance(value, dict):
            return {key: inner(key, each) for key, each in value.items()}
        return [inner(key, each) for key, each in enumerate(value)]
    if not isinstance(value, str):
        return value
    if _RESOLVER.search(str(kept)):
        return Masked(value, without_passwords(str(kept if _value(kept) == value else raw)))
    if (safe := without_passwords(value)) != value:
        _warn(f"{path[:-1]} holds a password: it is written as {safe}; put ${{oc.env:NAME}} in its place")
        return Masked(value, safe)
    return value


def _value(reference: str) -> Any:
    """What a text of a config means where it stands alone; None where it needs other keys."""
    try:
        return OmegaConf.create({"value": reference}).value
    except OmegaConfBaseException:
        return None


def _escaped(value: Any) -> Any:
    """The config's container with references to the environment as plain text."""
    if isinstance(value, dict):
        return {key: _escaped(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_escaped(each) for each in value]
    return _RESOLVER.sub(lambda found: "\\" + found[0], value) if isinstance(value, str) else value


@cache  # once, though a sweep loads its config for each trial
def _warn(said: str) -> None:
    print(f"warning: {said}", file=sys.stderr, flush=True)
