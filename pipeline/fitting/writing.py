"""A config as somebody would write it: only what differs from the defaults, a comment above what was chosen."""

import dataclasses
import unicodedata
from collections.abc import Mapping
from typing import Any

import yaml
from omegaconf import MISSING

WIDTH = 110


def written(config: Any, comments: Mapping[str, str]) -> str:
    """YAML of a config, a dataclass; `comments`: dotted key → what stands above it.

    >>> from pipeline.config import Split
    >>> print(written(Split(by="item", train=0.7, test=0.3), {"test": "the rest"}), end="")
    by: item
    train: 0.7
    # the rest
    test: 0.3
    """
    return "".join(f"{line}\n" for line in _lines(_changed(config), comments, "", ""))


def commented(text: str) -> str:
    """A line of comment; control characters, which names of folders may hold and YAML may not, as "?"."""
    return "# " + "".join("?" if unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") else sign for sign in text)


def _changed(config: Any) -> dict[str, Any]:
    """The keys that are not as the dataclass has them by default."""
    found = {}
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        made = each.default_factory
        default = each.default if made is dataclasses.MISSING else made()
        if value != default or default == MISSING:
            found[each.name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return _changed(value)
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, str) else value


def _lines(values: Mapping[str, Any], comments: Mapping[str, str], path: str, indent: str) -> list[str]:
    lines = []
    for key, value in values.items():
        if comment := comments.get(path + key):
            lines.append(f"{indent}{commented(comment)}")
        inside = any(name.startswith(f"{path}{key}.") for name in comments)
        flow = _flow(value)
        if not value or (not inside and len(indent) + len(key) + 2 + len(flow) <= WIDTH):
            lines.append(f"{indent}{key}: {flow}")
        elif isinstance(value, dict):
            lines += [f"{indent}{key}:", *_lines(value, comments, f"{path}{key}.", f"{indent}  ")]
        elif isinstance(value, list):
            lines.append(f"{indent}{key}:")
            for each in value:
                lines += _entry(each, indent)
        else:
            lines.append(f"{indent}{key}: {flow}")
    return lines


def _entry(value: Any, indent: str) -> list[str]:
    """One entry of a list below its key."""
    flow = _flow(value)
    if not isinstance(value, dict) or len(indent) + 4 + len(flow) <= WIDTH:
        return [f"{indent}  - {flow}"]
    first, *rest = _lines(value, {}, "", f"{indent}    ")
    return [f"{indent}  - {first.strip()}", *rest]


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
