"""A layout: the form of an image set on disk, and everything known about it without reading the disk."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline.errors import BadInput, nearest
from tfrecords.listing.items import Listing
from tfrecords.listing.tables import is_number


class Size(NamedTuple):
    classes: int | None  # None: not published
    images: int


@dataclass(frozen=True)
class Layout:
    """One per public image set, or per general form such as class folders."""

    name: str  # as configs write it
    # (root, **options) → Listing. Its keyword arguments are the layout's options, its defaults theirs.
    listing: Callable[..., Listing]
    # split → size of the whole set as published; empty where sets of any size have this layout
    published: Mapping[str, Size] = field(default_factory=dict)
    # (size of the split, all options) → size, where more options than the split change it
    sized: Callable[[Size, Mapping[str, Any]], Size | None] | None = None
    rooted: bool = True  # False where nothing lies on disk
    splits: Sequence[str] = ()  # all of them, where not of each a size is published
    # split of queries → split that they search; the same one: each image searches the others. Empty: no benchmark
    searched: Mapping[str, str] = field(default_factory=dict)

    @property
    def _splits(self) -> Sequence[str]:
        """The first is that of a layout without an option `split`."""
        return self.splits or tuple(self.published)

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every option: as given, else its default.

        Raises BadInput: an unknown option (the nearest known ones are named), a value of another type, or a split that
        the set does not have.
        """
        parameters = dict(list(inspect.signature(self.listing).parameters.items())[1:])  # without root
        for key, value in given.items():
            if key not in parameters:
                raise BadInput(f"layout {self.name} has no option {key!r}; it has: {nearest(key, sorted(parameters))}")
            wanted = parameters[key].annotation
            if type(value) is not wanted:
                raise BadInput(f"layout {self.name}: option {key} expects {wanted.__name__}, got {value!r}")
        options = {key: parameter.default for key, parameter in parameters.items()} | dict(given)
        if self._splits and options.get("split", self._splits[0]) not in self._splits:
            *first, last = self._splits
            expected = f"{', '.join(first)} or {last}"
            raise BadInput(f"layout {self.name}: option split expects {expected}, got {options['split']!r}")
        return options

    def has(self, option: str) -> bool:
        return option in inspect.signature(self.listing).parameters

    def parsed(self, given: Mapping[str, str]) -> dict[str, Any]:
        """Options of a command line: numbers and true or false as such, where the option is one."""
        kinds = {key: each.annotation for key, each in inspect.signature(self.listing).parameters.items()}
        readings: dict[Any, Callable[[str], Any]] = {
            int: lambda text: int(text) if is_number(text) else text,
            bool: lambda text: {"true": True, "false": False}.get(text.lower(), text),
        }
        return {key: readings.get(kinds.get(key), str)(text) for key, text in given.items()}

    def size(self, given: Mapping[str, Any]) -> Size | None:
        """Size of the set that these options ask for; None where only a listing tells. Raises BadInput as `options`."""
        options = self.options(given)
        if not self.published:
            return None
        size = self.published.get(options.get("split", self._splits[0]))
        return self.sized(size, options) if self.sized and size else size
