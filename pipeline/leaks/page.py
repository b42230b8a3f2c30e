"""The page of `guie leaks`: what was found of each kind, and the pairs side by side."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipeline.leaks.matching import KINDS, Pair
from pipeline.leaks.sides import Place, Side
from pipeline.pages.pictures import Figure, data_url, thumbnail
from pipeline.pages.render import count, distance, render, short
from tfrecords.perceptual import BYTES

MOST_PAIRS = 100  # shown of a kind, evenly chosen by distance
THUMBNAIL_PX, NAME_LENGTH = 160, 24  # of a picture; letters of a key below it
SAID = {
    "bytes": "The same file",
    "pixels": "The same pixels in another file",
    "hash": "Nearly the same picture, by perceptual hash",
    "mirrored": "Nearly its mirror image, by perceptual hash",
    "embedding": "Near each other to the embedder",
}


class Found(NamedTuple):
    """What was found between the training data and one benchmark."""

    train: Side
    bench: Side
    pairs: list[Pair]  # by kind and distance

    def images(self, kind: str) -> tuple[int, int]:
        """Images of the two sides whose surest pair is of `kind`; of all kinds where it is ""."""
        firsts: tuple[dict[int, str], dict[int, str]] = ({}, {})
        for pair in self.pairs:  # surest first
            firsts[0].setdefault(pair.train, pair.kind)
            firsts[1].setdefault(pair.bench, pair.kind)
        train, bench = (sum(kind in ("", found) for found in side.values()) for side in firsts)
        return train, bench


def page(found: Sequence[Found], notes: Sequence[str], unread: int) -> str:
    """HTML that needs no other file. `notes`: sentences on what was looked for; `unread`: images that cannot be."""
    every = [(each, pair) for each in found for pair in each.pairs]
    sections = []
    for kind in KINDS:
        of_kind = sorted((one for one in every if one[1].kind == kind), key=lambda one: one[1].distance)
        chosen = np.unique(np.linspace(0, len(of_kind) - 1, min(MOST_PAIRS, len(of_kind))).astype(int))
        if of_kind:
            shown = [_shown(*of_kind[place]) for place in chosen]
            sections.append((kind, SAID[kind], len(of_kind), shown))
    return render(
        "leaks.html",
        title="Training data in a benchmark",
        header=["benchmark", "kind", "pairs", "training images", "benchmark images"],
        rows=summary(found),
        sections=sections,
        notes=notes,
        unread=unread,
    )


def summary(found: Sequence[Found]) -> list[list[str]]:
    """A row a benchmark and kind: pairs, images of the training data, images of the benchmark with their share."""
    rows = []
    for each in found:
        of = len(each.bench.items)
        for kind in (*KINDS, ""):
            train, bench = each.images(kind)
            pairs = sum(kind in ("", pair.kind) for pair in each.pairs)
            if pairs or not kind:
                part = f"{count(bench)} of {count(of)}" if not kind else count(bench)
                rows.append([each.bench.spec, kind or "any", count(pairs), count(train), part])
    return rows


def said_distance(pair: Pair) -> str:
    """0 of the same file or pixels, bits of a hash, three digits of an embedding's distance."""
    return distance(pair.distance) if pair.kind == "embedding" else str(int(pair.distance))


def _shown(found: Found, pair: Pair) -> tuple[str, Figure, Figure]:
    unit = {"hash": f" of {8 * BYTES} bits", "mirrored": f" of {8 * BYTES} bits"}.get(pair.kind, "")
    said = "" if pair.kind in ("bytes", "pixels") else said_distance(pair) + unit
    return said, _figure(found.train, pair.train, "train"), _figure(found.bench, pair.bench, "benchmark")


def _figure(side: Side, row: int, what: str) -> Figure:
    place: Place = side.place(row)
    where = " ".join(filter(None, (place.source, place.split)))
    picture = data_url(thumbnail(side.items[row], THUMBNAIL_PX))
    name = short(place.key, NAME_LENGTH, from_end=True)
    return Figure(picture, f"{where} {place.key}", f"{what}: {where}, {place.class_name}", note=name)
