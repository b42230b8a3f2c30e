"""Classify first: the classes a picture may be of, by a classifier with a label map or by the classes' means."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.config import Encoder
from pipeline.data import preprocessing
from pipeline.data.preprocessing import prepare_all
from pipeline.errors import BadInput, reason
from pipeline.models import encoders
from pipeline.models.weights.variables import weights_digest
from pipeline.similar.config import CLASS_MEANS, Classifier

KERAS_HUB = "keras_hub:"


@dataclass(frozen=True)
class Loaded:
    """A classifier ready to run."""

    # pictures, uint8 [H, W, 3] each → logits or probabilities, float32 [B, outputs]
    scores: Callable[[list[np.ndarray]], np.ndarray]
    outputs: int
    made_by: list[Any]  # JSON-able; all that decides the scores but the pictures


def label_map(path: Path, outputs: int) -> list[str]:
    """Names of a classifier's outputs in order: 1,000 for ImageNet-1k, 21,841 or 21,843 for ImageNet-21k.

    Raises BadInput: no such file, no UTF-8, an index that is missing or repeated, another number of classes than the
    classifier has outputs.
    """
    if not path.is_file():
        raise BadInput(f"classifier.labels: expected a label map, {path} does not exist")
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: expected UTF-8 ({error.reason} at byte {error.start})") from None
    if lines and [cell.strip() for cell in lines[0].lower().split(",")[:2]] == ["index", "name"]:
        named: dict[int, str] = {}
        for number, row in enumerate(csv.reader(lines[1:]), 2):
            if len(row) < 2 or not row[0].strip().isdecimal() or int(row[0]) in named:
                raise BadInput(f"{path}: line {number} should be a new index and a name, got {','.join(row)[:60]!r}")
            named[int(row[0])] = row[1].strip()
        if sorted(named) != list(range(len(named))):
            raise BadInput(f"{path}: expected the indices 0 … {len(named) - 1}, some are missing")
        names = [named[index] for index in range(len(named))]
    else:
        names = [_without_wnid(line.strip()) for line in lines]
    if len(names) != outputs:
        raise BadInput(f"{path} names {len(names):,} classes, the classifier has {outputs:,} outputs: use its map")
    return names


def load(classifier: Classifier) -> Loaded:
    """Raises BadInput: no such model, or one that does not give [B, C]."""
    if classifier.name.startswith(encoders.KERAS_FILE):
        options = Encoder(
            name=classifier.name, mean=classifier.mean, std=classifier.std, image_size_px=classifier.image_size_px
        )
        try:
            built = encoders.build(options)
        except BadInput as error:
            raise BadInput(str(error).replace("encoder.", "classifier.")) from None
        return Loaded(
            lambda pictures: built.model(prepare_all(pictures, built.preprocess)).numpy(),
            built.width,
            [preprocessing.identity(built.preprocess), weights_digest(built.model.weights)],
        )
    if classifier.name.startswith(KERAS_HUB):
        import keras_hub

        preset = classifier.name.removeprefix(KERAS_HUB)
        try:
            hub = keras_hub.models.ImageClassifier.from_preset(preset)
        except Exception as error:  # KerasHub's, Kaggle's and those of requests
            raise BadInput(f"classifier.name {classifier.name!r}: {reason(error)}") from None
        rows, columns = hub.preprocessor.image_converter.image_size

        def scores(pictures: list[np.ndarray]) -> np.ndarray:
            squares = [
                np.asarray(Image.fromarray(each).resize((columns, rows), Image.Resampling.BICUBIC), np.float32)
                for each in pictures
            ]
            return np.asarray(hub.predict(np.stack(squares), verbose=0), np.float32)

        return Loaded(scores, int(hub.num_classes), [preset, rows, columns, weights_digest(hub.weights)])
    raise BadInput(
        f"classifier.name: expected {CLASS_MEANS}, {KERAS_HUB}<preset> or {encoders.KERAS_FILE}<path>, "
        f"got {classifier.name!r}"
    )


def top_outputs(scores: np.ndarray, count: int) -> np.ndarray:
    """float [B, C] → int64 [B, count], the columns of the largest, largest first; ties by the smaller index."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def by_class_means(queries: np.ndarray, means: np.ndarray, count: int) -> np.ndarray:
    """The `count` classes whose mean is nearest: [Q, D], [C, D] → int64 [Q, count]."""
    squared = (queries**2).sum(1)[:, None] + (means**2).sum(1)[None] - 2 * queries @ means.T
    return top_outputs(-squared, count)


def _without_wnid(line: str) -> str:
    first, _, rest = line.partition(" ")
    is_wnid = len(first) == 9 and first[0] == "n" and first[1:].isdecimal()
    return rest.strip() if is_wnid and rest.strip() else line
