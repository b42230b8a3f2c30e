"""What the stages of `guie staged` have in common: an image → the neighbours and the answer of one stage."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from pipeline.config import ImageTextModel
from pipeline.data.preprocessing import prepare_all
from pipeline.models import encoders, intermediate_layers
from pipeline.models.dual_encoder import DualEncoder
from pipeline.models.weights.variables import weights_digest
from pipeline.staged.cascade import vote
from pipeline.staged.config import STAGES
from pipeline.staged.vector_database import Neighbour, VectorDatabase


@dataclass(frozen=True)
class Answer:
    """What one stage says of one image.

    Attributes:
        agreement: share of the neighbours that have the class; 1 for zero-shot, which asks the nearest class.
        encode_ms: of this image: resizing, and the encoder from where the stage before it stopped.
        query_ms: of this image: the database.
    """

    stage: str
    class_name: str
    agreement: float
    neighbours: list[Neighbour]
    encode_ms: float
    query_ms: float

    @property
    def distance(self) -> float:
        return self.neighbours[0].distance if self.neighbours else float("inf")


@dataclass(frozen=True)
class Tested:
    """One image and what was answered: one answer a stage that was asked, the last one counts."""

    key: str
    class_name: str
    answers: list[Answer]

    @property
    def correct(self) -> bool:
        return self.answers[-1].class_name == self.class_name


@dataclass
class Asked:
    """A batch on its way through the stages; an image is no neighbour of its own: its key is left out."""

    images: list[np.ndarray]  # uint8 [H, W, 3] each
    keys: list[str]
    activations: dict[str, tf.Tensor] = field(default_factory=dict)

    def keep(self, rows: Sequence[int]) -> "Asked":
        return Asked(
            [self.images[row] for row in rows],
            [self.keys[row] for row in rows],
            {name: tf.gather(values, list(rows)) for name, values in self.activations.items()},
        )


class Retriever:
    """The encoder, cut at its taps, and the database's collections, one a stage.

    Args:
        model: the encoder; with a text tower, `origin` is zero-shot unless `origin_is_encoder`.
        given_taps: stage → layer, see `taps.choose_layers`.
    """

    def __init__(
        self,
        model: ImageTextModel,
        given_taps: Mapping[str, str],
        pixels_px: int,
        neighbours: int,
        collection: str,
        database: VectorDatabase,
        origin_is_encoder: bool = False,
    ):
        self.pixels_px, self.neighbours, self.database = pixels_px, neighbours, database
        self.towers: DualEncoder | None = None
        if _has_text(model) and not origin_is_encoder:
            self.towers = DualEncoder(model)
        self.encoder = self.towers.image if self.towers else encoders.build(model.encoder, seed=model.seed)
        layers = intermediate_layers.choose_layers(self.encoder, given_taps)
        self.stepped = intermediate_layers.SteppedEncoder(
            self.encoder.model, {**layers, "origin": intermediate_layers.OUTPUT}
        )
        self.collections = {stage: f"{collection}_{stage}" for stage in STAGES}
        made_by = {
            "encoder": self.encoder.name,
            "weights": weights_digest(self.encoder.model.weights),
            "preprocess": asdict(self.encoder.preprocess),
        }
        self.made_by: dict[str, dict[str, Any]] = {
            "first": {"pixels_px": pixels_px},
            **{stage: {**made_by, "layer": layer} for stage, layer in layers.items()},
            "origin": {**made_by, "layer": "output"},
        }
        if self.towers:  # its rows are the text tower's
            self.made_by["origin"] |= {"layer": "classes", "text_tower": self.towers.identity}

    @property
    def zero_shot(self) -> bool:
        return self.towers is not None

    def width(self, stage: str) -> int:
        return 3 * self.pixels_px**2 if stage == "first" else self.stepped.width(stage)

    def open_collections(self, create: bool, stages: Sequence[str] = STAGES) -> None:
        for stage in stages:
            self.database.open_collection(
                self.collections[stage], self.width(stage), self.made_by[stage], create
            )

    def features(self, stage: str, asked: Asked) -> np.ndarray:
        """float32 [B, width]; the encoder goes on from what `asked` holds already."""
        if stage == "first":
            return pixel_vectors(asked.images, self.pixels_px)
        if not asked.activations:
            asked.activations[intermediate_layers.PIXELS] = prepare_all(asked.images, self.encoder.preprocess)
        return self.stepped.advance(asked.activations, stage).numpy()

    def ask(self, stage: str, asked: Asked) -> list[Answer]:
        """The answers of one stage to a batch."""
        started = time.perf_counter()
        vectors = self.features(stage, asked)
        encoded = time.perf_counter()
        # One more than wanted: the image itself may be in the database.
        hits = self.database.search(self.collections[stage], vectors, self.neighbours + 1)
        queried = time.perf_counter()
        each = 1000 / len(asked.images)
        encode_ms, query_ms = (encoded - started) * each, (queried - encoded) * each
        answers = []
        for key, found in zip(asked.keys, hits, strict=True):
            others = [hit for hit in found if hit.key != key][: self.neighbours]
            voters = others[:1] if stage == "origin" and self.zero_shot else others
            name, agreement = vote([hit.class_name for hit in voters])
            answers.append(Answer(stage, name, agreement, others, encode_ms, query_ms))
        return answers

    def cascade(self, asked: Asked, thresholds: Mapping[str, float]) -> list[list[Answer]]:
        """Stage after stage, each only for the images that those before it have not settled.

        Args:
            thresholds: stage → agreement that settles an image; above 1 the stage is passed by.

        Returns:
            Of each image the answers of the stages it saw; the last one is the cascade's.
        """
        seen: list[list[Answer]] = [[] for _ in asked.images]
        rows = list(range(len(asked.images)))
        for stage in looked_up("cascade", thresholds):
            threshold = thresholds.get(stage, 1.0)
            answers = self.ask(stage, asked)
            for row, answer in zip(rows, answers, strict=True):
                seen[row].append(answer)
            left = [place for place, answer in enumerate(answers) if answer.agreement < threshold]
            if stage == STAGES[-1] or not left:
                break
            rows, asked = [rows[place] for place in left], asked.keep(left)
        return seen

    def warm_up(self, stages: Sequence[str], batch_size: int) -> None:
        """Traces the encoder and loads the collections, so that the first image's times are like the others'."""
        asked = Asked([np.zeros((32, 32, 3), np.uint8)] * batch_size, [""] * batch_size)
        for stage in stages:
            self.ask(stage, asked)


def looked_up(stage: str, thresholds: Mapping[str, float]) -> tuple[str, ...]:
    """The stages that an action on `stage` asks, in order."""
    if stage == "cascade":
        return tuple(each for each in STAGES if each == STAGES[-1] or thresholds.get(each, 1.0) <= 1)
    return STAGES if stage == "all" else (stage,)


def pixel_vectors(images: Sequence[np.ndarray], side_px: int) -> np.ndarray:
    """uint8 [H, W, 3] each → float32 [B, 3·side²], averaged down to `side_px` and in −1 … 1."""
    small = [
        np.asarray(Image.fromarray(image).resize((side_px, side_px), Image.Resampling.BOX), np.float32)
        for image in images
    ]
    return (np.stack(small) / 127.5 - 1.0).reshape(len(small), -1)


def _has_text(model: ImageTextModel) -> bool:
    from pipeline.models import catalogue

    if model.encoder.name.startswith(encoders.KERAS_FILE):
        return False
    entry = catalogue.find(model.encoder.name, model.encoder.architecture)
    return bool(entry.text)
