"""A config key's range stands beside the key: `batch_size: int = key(128, least=1)`; `load` checks it."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import BadInput
from pipeline.reading import expect_local

RANGE, URLS, SECRET = "range", "urls", "secret"  # of a field's metadata


@dataclass(frozen=True)
class Range:
    """The values that a key takes: words (`one_of`), or numbers from `least` on (or larger than `above`) to `most`."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    one_of: tuple[str, ...] = ()

    def holds(self, value: Any) -> bool:
        if self.one_of:
            return value in self.one_of
        above = self.above is None or value > self.above
        return above and (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        """
        >>> str(Range(least=0, most=1)), str(Range(above=0)), str(Range(least=1)), str(Range(one_of=("a", "b")))
        ('0 … 1', 'above 0', '1 or more', 'a or b')
        """
        if self.one_of:
            *others, last = self.one_of
            return f"{', '.join(others)} or {last}" if others else last
        first = f"{self.least}" if self.above is None else f"above {self.above}"
        if self.most is not None:
            return f"{first} … {self.most}"
        return f"{first} or more" if self.above is None else first


def key(
    default: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    one_of: Sequence[str] = (),
    urls: bool = False,
    secret: bool = False,
) -> Any:
    """A dataclass field with its default and its range, see `Range`.

    None is in every range. Each item of a list or dict must be in the range; the default is copied for each config.
    `urls`: the key's text may hold URLs; that of every other key is refused where it does.
    `secret`: its text is never written, the default, a reference to the environment, stands in its place.
    """
    allowed = Range(least, above, most, tuple(one_of))
    metadata = {URLS: urls, SECRET: secret} if allowed == Range() else {RANGE: allowed, URLS: urls, SECRET: secret}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def check(config: Any, where: str = "", path: str = "") -> None:
    """Checks every key of a config, a dataclass, against its range; raises BadInput for the first that is out of it,
    or that holds a URL and must not.

    A section may have rules over several of its keys: a method `rules()` that yields `(key, what is wrong)`.
    `where` stands before each message; `path` is this section's, dotted.
    """
    said = f"{where}: " if where else ""
    for each in dataclasses.fields(config):
        name, value = f"{path}{each.name}", getattr(config, each.name)
        allowed = each.metadata.get(RANGE)
        for at, item in _items(name, value):
            if dataclasses.is_dataclass(item):
                check(item, where, f"{at}.")
            elif allowed and item is not None and not allowed.holds(item):
                raise BadInput(f"{said}{at}: expected {allowed}, got {item!r}")
            elif not each.metadata.get(URLS):
                expect_local(f"{said}{at}", item if isinstance(item, str) else str(item))
    for name, wrong in config.rules() if hasattr(config, "rules") else ():
        raise BadInput(f"{said}{path}{name}: {wrong}")


def _items(name: str, value: Any) -> list[tuple[str, Any]]:
    """The values under a key, each with its dotted name."""
    pairs = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else None
    return [(name, value)] if pairs is None else [(f"{name}.{inner}", item) for inner, item in pairs]
