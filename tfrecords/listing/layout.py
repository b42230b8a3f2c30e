"""A layout: the form of an image set on disk, and everything known about it without reading the disk."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline.errors import BadInput, nearest
from tfrecords.listing.items import Listing


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

    def parse(self, query: str) -> dict[str, Any]:
        """Options as the command line writes them, `domain=cars&split=test`, each of its type; unknown ones as text.

        Raises BadInput: a part without `=`, an option given twice, or a value that is not of its type.
        """
        parameters = inspect.signature(self.listing).parameters
        found: dict[str, Any] = {}
        for part in query.split("&"):
            key, equals, value = part.partition("=")
            if not equals or not key or key in found:
                raise BadInput(f"layout {self.name}: expected ROOT?OPTION=VALUE&OPTION=VALUE, each once, got {part!r}")
            wanted = parameters[key].annotation if key in parameters else str
            try:
                found[key] = {"true": True, "false": False}[value] if wanted is bool else wanted(value)
            except (KeyError, ValueError):
                expects = "true or false" if wanted is bool else wanted.__name__
                raise BadInput(f"layout {self.name}: option {key} expects {expects}, got {value!r}") from None
        return found

    def size(self, given: Mapping[str, Any]) -> Size | None:
        """Size of the set that these options ask for; None where only a listing tells. Raises BadInput as `options`."""
        options = self.options(given)
        if not self.published:
            return None
        size = self.published.get(options.get("split", self._splits[0]))
        return self.sized(size, options) if self.sized and size else size
