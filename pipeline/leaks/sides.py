"""The two sides that are compared: training data and a benchmark, each the images of one DATA in one list."""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pipeline.data import sources
from pipeline.files import fingerprint
from tfrecords.labels import SPLITS
from tfrecords.sources import Item

OF_SHARD = re.compile(rf"-({'|'.join(SPLITS)})-\d+-\d+\.tfrec$")  # the split, in a shard's name


class Place(NamedTuple):
    """Where an image is found, as the table writes it."""

    source: str
    key: str
    class_name: str
    split: str  # "" where nothing names it


@dataclass(frozen=True)
class Side:
    """The images of one DATA, in its order."""

    spec: str  # DATA
    items: list[Item]  # N images
    sets: np.ndarray  # int32 [N], position in `names`
    names: list[str]  # of the image sets
    readable: list[dict[str, str]] = field(default_factory=list)  # of each set: class → what a human calls it
    split: str = ""  # of all images, where the DATA names one

    @property
    def folder(self) -> str:
        """The name of what is kept of this side, the same for the same DATA."""
        return fingerprint(self.spec)

    def place(self, row: int) -> Place:
        item, of = self.items[row], int(self.sets[row])
        found = OF_SHARD.search(item.file)
        class_name = self.readable[of].get(item.class_name, item.class_name)
        return Place(self.names[of], item.key, class_name, found[1] if found else self.split)


def open_side(spec: str) -> Side:
    """Lists the images of a DATA; raises BadInput as `sources.open_data`."""
    found = sources.open_data(spec)
    return Side(
        spec,
        [item for each in found for item in each.items],
        np.repeat(np.arange(len(found), dtype=np.int32), [len(each.items) for each in found]),
        [each.name for each in found],
        [dict(each.names) for each in found],
        sources.split_of(spec),
    )
