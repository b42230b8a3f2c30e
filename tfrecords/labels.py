"""(source, class) → one contiguous label space; labels.json. Pure Python."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import BadInput

SPLITS = ("train", "validation", "test")
ClassId = tuple[str, str]  # (source, class)


@dataclass(frozen=True)
class LabelSpace:
    """The classes in label order: label = position.

    Attributes:
        sources: source names in the config's order; the labels of each are a contiguous range.
        classes: (source, class) of label 0, 1, ….
        names: what a human calls a class, where that differs from the class.
        merged: classes that share another's label: (source, class) → the (source, class) that holds it.
        counts: (source, class) → images in train, validation, test.
    """

    sources: tuple[str, ...]
    classes: tuple[ClassId, ...]
    names: Mapping[ClassId, str] = field(default_factory=dict)
    merged: Mapping[ClassId, ClassId] = field(default_factory=dict)
    counts: Mapping[ClassId, tuple[int, int, int]] = field(default_factory=dict)

    def labels(self) -> dict[ClassId, int]:
        """(source, class) → label, merged classes too."""
        labels = {known: label for label, known in enumerate(self.classes)}
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
                {"name": name, "first": first, "count": count}
                for name, (first, count) in self.ranges().items()
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
    """Labels over the sources in their order, the classes of each in its own order, without gaps.

    Args:
        listed: source → its classes, both in order.
        left_out: classes that get no label (too few images).
        merged: class → the class whose label it takes.
        names: see LabelSpace.

    >>> space = build({"a": ["x", "y"], "b": ["z"]}, left_out=[("a", "x")])
    >>> space.labels(), space.ranges()
    ({('a', 'y'): 0, ('b', 'z'): 1}, {'a': (0, 1), 'b': (1, 1)})
    """
    merged = merged or {}
    without = set(left_out) | set(merged)
    classes = tuple(
        (source, name) for source, own in listed.items() for name in own if (source, name) not in without
    )
    return LabelSpace(tuple(listed), classes, names or {}, merged)


def read(path: Path) -> LabelSpace:
    """labels.json → LabelSpace.

    Raises:
        BadInput: missing, no JSON, or without the keys that it must have.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        rows = sorted(value["classes"], key=lambda row: row["label"])
        ids = [(row["source"], row["class"]) for row in rows]
        return LabelSpace(
            tuple(source["name"] for source in value["sources"]),
            tuple(ids),
            {known: row["name"] for known, row in zip(ids, rows, strict=True) if row["name"] != row["class"]},
            {
                (row["source"], row["class"]): (row["into_source"], row["into_class"])
                for row in value.get("merged", [])
            },
            {
                known: (row["train"], row["validation"], row["test"])
                for known, row in zip(ids, rows, strict=True)
            },
        )
    except FileNotFoundError:
        raise BadInput(f"expected {path}, which does not exist: has guie tfrecords been run?") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise BadInput(f"{path} is not the labels.json of guie tfrecords ({error!r})") from None
