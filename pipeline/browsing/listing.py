"""Which images a page of the list shows: a view's order, kept by class, words or a selection, a few at a time."""

from dataclasses import dataclass
from urllib.parse import urlencode

import numpy as np

from pipeline.browsing.findings import Findings
from pipeline.browsing.gallery import Gallery

USUAL, FEWEST, MOST = 60, 6, 240  # images a page; the page's script says how many fit
MOST_CLASSES = 300  # beside the list
LONGEST_NUMBER = 12  # digits
VIEWS = {"all": "All images", "wrong": "Most wrong first", "outliers": "Outliers", "duplicates": "Near-duplicates"}


@dataclass(frozen=True)
class Wanted:
    """What an address of the list asks for."""

    view: str = "all"
    label: int = -1  # a class; -1: all
    find: str = ""
    selection: str = ""  # a name in the kept ones
    start: int = 0

    def address(self, **changed: object) -> str:
        """The address with some of it changed; what is usual is not said."""
        values = {"view": self.view, "class": self.label, "find": self.find, "selection": self.selection}
        values |= {"from": self.start, **changed}
        usual = {"view": "all", "class": -1, "find": "", "selection": "", "from": 0}
        said = {name: value for name, value in values.items() if value != usual[name]}
        return f"/?{urlencode(said, errors='surrogatepass')}" if said else "/"


def number(text: str, otherwise: int) -> int:
    """A number as an address writes it; `otherwise` of anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= LONGEST_NUMBER else otherwise


def order_of(gallery: Gallery, view: str, findings: Findings | None) -> np.ndarray:
    """int64, rows in a view's order; `findings` are needed by all but "all"."""
    if view == "wrong" and findings:
        return findings.wrong
    if view == "outliers" and findings:
        return findings.outliers
    return np.arange(len(gallery.keys))


def kept(gallery: Gallery, order: np.ndarray, find: str, selection: np.ndarray | None) -> np.ndarray:
    """Those of `order` that hold the words and are in the selection, in that order."""
    if selection is not None:
        order = order[np.isin(order, selection)]
    if wanted := find.strip().lower():
        texts = gallery.texts
        order = np.array([row for row in order.tolist() if wanted in texts[row]], np.int64)
    return order


@dataclass(frozen=True)
class ClassRow:
    """A class beside the list."""

    label: int
    name: str
    count: int


def classes_of(gallery: Gallery, rows: np.ndarray) -> tuple[list[ClassRow], int]:
    """The classes of some images by name, the largest MOST_CLASSES of them; and how many there are."""
    counts = np.bincount(gallery.labels[rows], minlength=len(gallery.classes))
    there = np.flatnonzero(counts)
    largest = there[np.argsort(-counts[there], kind="stable")][:MOST_CLASSES]
    found = [ClassRow(int(label), gallery.classes[label], int(counts[label])) for label in largest]
    return sorted(found, key=lambda each: (each.name.lower(), each.label)), len(there)
