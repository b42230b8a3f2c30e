"""A config key's range stands beside the key: `batch_size: int = key(128, least=1)`; `load` checks it."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import BadInput

RANGE = "range"  # of a field's metadata


@dataclass(frozen=True)
class Range:
    """What a value may be; None and the items of a list or mapping are checked one by one.

    Attributes:
        least: the smallest value. above: the value must be larger than this. most: the largest value.
        one_of: the words that are known.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    one_of: tuple[str, ...] = ()

    def holds(self, value: Any) -> bool:
        if self.one_of:
            return value in self.one_of
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
        )

    def __str__(self) -> str:
        """
        >>> str(Range(least=0, most=1)), str(Range(above=0)), str(Range(least=1)), str(Range(one_of=("a", "b")))
        ('0 … 1', 'above 0', '1 or more', 'a or b')
        """
        if self.one_of:
            return " or ".join(
                [", ".join(self.one_of[:-1]), self.one_of[-1]] if self.one_of[1:] else self.one_of
            )
        first = f"above {self.above:g}" if self.above is not None else f"{self.least:g}"
        if self.most is not None:
            return f"{first} … {self.most:g}"
        return first if self.above is not None else f"{first} or more"


def key(
    default: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    one_of: Sequence[str] = (),
) -> Any:
    """A dataclass field with its default and its range; a list or dict is copied for each config."""
    metadata = {RANGE: Range(least, above, most, tuple(one_of))}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def check(config: Any, where: str = "", path: str = "") -> None:
    """Checks every key of a config, a dataclass, against its range.

    A section may have rules over several of its keys: a method `rules()` that yields `(key, what is wrong)`.

    Args:
        where: stands before each message. path: dotted, of this section.

    Raises:
        BadInput: names the first key that is out of its range, what was expected and what came.
    """
    said = f"{where}: " if where else ""
    for each in dataclasses.fields(config):
        name, value = f"{path}{each.name}", getattr(config, each.name)
        allowed = each.metadata.get(RANGE)
        for at, item in _items(name, value):
            if dataclasses.is_dataclass(item):
                check(item, where, f"{at}.")
            elif allowed and item is not None and not allowed.holds(item):
                shown = f"{item:g}" if isinstance(item, float) else repr(item)
                raise BadInput(f"{said}{at}: expected {allowed}, got {shown}")
    for name, wrong in config.rules() if hasattr(config, "rules") else ():
        raise BadInput(f"{said}{path}{name}: {wrong}")


def _items(name: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, list):
        return [(f"{name}.{place}", item) for place, item in enumerate(value)]
    if isinstance(value, dict):
        return [(f"{name}.{inner}", item) for inner, item in value.items()]
    return [(name, value)]
