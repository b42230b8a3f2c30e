"""One contiguous label space over the classes of all sources; labels.json. Pure Python."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import SPLITS
from pipeline.errors import BadInput
from pipeline.files import read_json

ClassId = tuple[str, str]  # (source, class)


@dataclass(frozen=True)
class LabelSpace:
    """The classes, numbered."""

    sources: tuple[str, ...]  # source names in the config's order; the labels of each are a contiguous range
    classes: tuple[ClassId, ...]  # (source, class) of label 0, 1, …
    # class → its human-readable name, where that differs from the class
    names: Mapping[ClassId, str] = field(default_factory=dict)
    merged: Mapping[ClassId, ClassId] = field(default_factory=dict)  # class → the class whose label it shares
    # class → images in train, validation, test
    counts: Mapping[ClassId, tuple[int, int, int]] = field(default_factory=dict)

    def labels(self) -> dict[ClassId, int]:
        """(source, class) → label, merged classes too."""
        labels = {class_id: label for label, class_id in enumerate(self.classes)}
        return labels | {merged: labels[into] for merged, into in self.merged.items() if into in labels}

    def ranges(self) -> dict[str, tuple[int, int]]:
        """source → (first label, count)."""
        first, ranges = 0, {}
        for source in self.sources:
            count = sum(of == source for of, _ in self.classes)
            ranges[source] = (first, count)
            first += count
        return ranges

    def to_json(self) -> dict[str, Any]:
        return {
            "sources": [
                {"name": name, "first": first, "count": count} for name, (first, count) in self.ranges().items()
            ],
            "classes": [
                {
                    "label": label,
                    "source": source,
                    "class": name,
                    "name": self.names.get((source, name), name),
                    **dict(zip(SPLITS, self.counts.get((source, name), (0, 0, 0)), strict=True)),
                }
                for label, (source, name) in enumerate(self.classes)
            ],
            "merged": [
                {"source": source, "class": name, "into_source": into[0], "into_class": into[1]}
                for (source, name), into in self.merged.items()
            ],
        }


def build(
    listed: Mapping[str, Iterable[str]],
    left_out: Iterable[ClassId] = (),
    merged: Mapping[ClassId, ClassId] | None = None,
    names: Mapping[ClassId, str] | None = None,
) -> LabelSpace:
    """Numbers the classes: sources in their order, the classes of each in its order, no gaps.

    Args:
        listed: source → its classes, both in order.
        left_out: classes that get no label (too few images).
        merged, names: see LabelSpace.

    >>> space = build({"a": ["x", "y"], "b": ["z"]}, left_out=[("a", "x")])
    >>> space.labels(), space.ranges()
    ({('a', 'y'): 0, ('b', 'z'): 1}, {'a': (0, 1), 'b': (1, 1)})
    """
    merged = merged or {}
    without = set(left_out) | set(merged)
    classes = tuple(
        class_id for source in listed for name in listed[source] if (class_id := (source, name)) not in without
    )
    return LabelSpace(tuple(listed), classes, names or {}, merged)


def read(path: Path) -> LabelSpace:
    """labels.json → LabelSpace. Raises BadInput: missing, no JSON, or a key is missing."""
    value = read_json(path)
    try:
        rows = sorted(value["classes"], key=lambda row: row["label"])
        of_class = {(row["source"], row["class"]): row for row in rows}
        return LabelSpace(
            tuple(source["name"] for source in value["sources"]),
            tuple(of_class),
            {class_id: row["name"] for class_id, row in of_class.items() if row["name"] != row["class"]},
            {(row["source"], row["class"]): (row["into_source"], row["into_class"]) for row in value.get("merged", [])},
            {class_id: (row["train"], row["validation"], row["test"]) for class_id, row in of_class.items()},
        )
    except (KeyError, TypeError) as error:
        raise BadInput(f"{path} is not the labels.json of guie tfrecords ({error!r})") from None
