"""A few labelled images and what an embedder finds among them: what the notebooks show, and score."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.sources import ImageSet, open_data
from pipeline.errors import BadInput
from pipeline.evaluation.embedders import Submission
from pipeline.pages import charts
from pipeline.pages.pictures import as_jpeg, data_url
from pipeline.retrieval import intervals
from pipeline.retrieval.precisions import precisions
from pipeline.retrieval.search import nearest
from tfrecords import pixels
from tfrecords.sources import Item, list_source

DRAWN_SEED = 7  # of images that no demo is trained on
NEIGHBOURS, TILE_PX = 5, 160
# Styles stand in the tags: a notebook has no sheet of ours. Six tiles to a row, three on a telephone.
FIGURE = f"width:{TILE_PX}px;max-width:29%;margin:0;font:12px sans-serif;overflow-wrap:anywhere"


@dataclass(frozen=True)
class Sample:
    images: list[np.ndarray]  # uint8 [H, W, 3], of any size
    labels: np.ndarray  # int64 [N], counted here
    names: list[str]  # of each image's class


def take(data: Sequence[str], classes: int = 12, images_per_class: int = 6) -> Sample:
    """The first images of classes that are spread over DATA's; drawn images where `data` is empty.

    `data` as `guie score --index`. A class of one image is left out where more than one is asked for; so is an image
    that cannot be read. Raises BadInput: as `open_data`, or no class has enough images.
    """
    sets = [each for spec in data for each in open_data(spec)] or [_drawn(classes, images_per_class)]
    of_class: dict[tuple[str, str], list[Item]] = {}
    for each in sets:
        for item in each.items:
            of_class.setdefault(each.class_of(item.class_name), []).append(item)
    eligible = [found for found in of_class.items() if len(found[1]) >= min(2, images_per_class)]
    if not eligible:
        raise BadInput(f"{', '.join(data)}: expected classes of two images or more, found none")
    chosen = np.unique(np.linspace(0, len(eligible) - 1, classes).astype(int))
    images, labels, names = [], [], []
    for label, row in enumerate(chosen):
        (space, name), items = eligible[row]
        for item in items[:images_per_class]:
            try:
                images.append(pixels.read(item.read()))
            except (OSError, ValueError):
                continue
            labels.append(label)
            names.append(f"{space} {name}" if len(sets) > 1 else name)
    return Sample(images, np.array(labels, np.int64), names)


def _drawn(classes: int, images_per_class: int) -> ImageSet:
    options = {"classes": classes, "images_per_class": images_per_class, "image_size_px": 96, "seed": DRAWN_SEED}
    return ImageSet("drawn", list(list_source("drawn", Path(), options).items))


def row_of(sample: Sample, most: int = 6) -> str:
    """HTML: the first image of as many classes side by side."""
    first = np.unique(sample.labels, return_index=True)[1][:most]
    return _row([_tile(sample.images[row], f"class {sample.names[row]}") for row in first])


def embedded(sample: Sample, embedder: Submission) -> np.ndarray:
    """float32 [N, D]: each image by itself, at its own size, as the competition's scorer gives them."""
    return np.concatenate([embedder.embed(image[None]) for image in sample.images])


def neighbour_rows(sample: Sample, vectors: np.ndarray, queries: int = 5) -> str:
    """HTML: images of different classes, the five nearest among the others beside each, right or wrong in words."""
    first = np.unique(sample.labels, return_index=True)[1]
    rows = first[np.unique(np.linspace(0, len(first) - 1, queries).astype(int))]
    found, distances = nearest(vectors, vectors, NEIGHBOURS, leave_one_out=True)
    shown = []
    for row in rows:
        near = [(i, distance) for i, distance in zip(found[row], distances[row], strict=True) if i >= 0]
        right = [bool(sample.labels[i] == sample.labels[row]) for i, _ in near]
        searched = f"class {sample.names[row]}: {sum(right)} of {len(near)} right"
        tiles = [_tile(sample.images[row], searched)]
        for (i, distance), same in zip(near, right, strict=True):
            sign, colour = ("✓ same", charts.RIGHT) if same else (f"✗ {sample.names[i]}", charts.WRONG)
            tiles.append(_tile(sample.images[i], f"{sign}, {distance:.2f}", colour))
        shown.append(_row(tiles))
    return "\n".join(shown)


def line(sample: Sample, vectors: np.ndarray) -> str:
    """mP@5 of the sample, every image searched among the others, with its interval and what it is worth."""
    values = precisions((vectors, sample.labels))
    count = len(np.unique(sample.labels))
    mean = intervals.text(float(values.mean()), intervals.interval(values))
    note = intervals.caveat(count, len(values)) or "a sample: too few for an estimate"
    return f"**mP@5 {mean}** of {len(values)} images of {count} classes, each searched among the others ({note})"


def _tile(image: np.ndarray, caption: str, colour: str = "transparent") -> str:
    picture = Image.fromarray(image)
    picture.thumbnail((TILE_PX, TILE_PX))
    source, said = data_url(as_jpeg(picture)), escape(caption)
    style = f"width:100%;aspect-ratio:1;object-fit:contain;border:3px solid {colour};box-sizing:border-box"
    return (
        f'<figure style="{FIGURE}"><img src="{source}" alt="" style="{style}"><figcaption>{said}</figcaption></figure>'
    )


def _row(tiles: list[str]) -> str:
    return f'<div style="display:flex;flex-wrap:wrap;gap:8px;margin:0 0 16px">{"".join(tiles)}</div>'
